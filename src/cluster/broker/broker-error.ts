/** The error codes that Open Service Broker API 2.17 names, and ours. */
export type BrokerErrorCode =
  | 'AsyncRequired'
  | 'ConcurrencyError'
  | 'MaintenanceInfoConflict'
  | 'BadRequest'
  | 'Conflict'
  | 'Gone'
  | 'NotFound'
  | 'PreconditionFailed'
  | 'Unauthorized'
  | 'UnsupportedChange';

const STATUS: Readonly<Record<BrokerErrorCode, number>> = {
  AsyncRequired: 422,
  ConcurrencyError: 422,
  MaintenanceInfoConflict: 422,
  BadRequest: 400,
  Conflict: 409,
  Gone: 410,
  NotFound: 404,
  PreconditionFailed: 412,
  Unauthorized: 401,
  UnsupportedChange: 422,
};

/** A refusal in the words of the specification: nothing was changed. */
export class BrokerError extends Error {
  override readonly name = 'BrokerError';
  readonly code: BrokerErrorCode;

  constructor(code: BrokerErrorCode, description: string) {
    super(description);
    this.code = code;
  }

  get status(): number {
    return STATUS[this.code];
  }

  /** `Gone` of a deletion is a success for a platform, whose body is empty. */
  body(): object {
    return this.code === 'Gone' ? {} : { error: this.code, description: this.message };
  }
}
