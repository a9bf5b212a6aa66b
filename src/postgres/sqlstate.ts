import { VarveError } from '../core/errors.ts';

/** SQLSTATEs by meaning, in the names of PostgreSQL's `errcodes.txt`. */
export const SqlState = {
  successfulCompletion: '00000',
  deprecatedFeature: '01P01',
  connectionException: '08000',
  cannotConnect: '08001',
  connectionDoesNotExist: '08003',
  connectionFailure: '08006',
  protocolViolation: '08P01',
  featureNotSupported: '0A000',
  dataException: '22000',
  invalidParameterValue: '22023',
  integrityConstraintViolation: '23000',
  foreignKeyViolation: '23503',
  uniqueViolation: '23505',
  checkViolation: '23514',
  invalidCursorState: '24000',
  activeSqlTransaction: '25001',
  readOnlySqlTransaction: '25006',
  noActiveSqlTransaction: '25P01',
  inFailedSqlTransaction: '25P02',
  invalidAuthorization: '28000',
  invalidPassword: '28P01',
  dependentObjectsStillExist: '2BP01',
  invalidCatalogName: '3D000',
  invalidSchemaName: '3F000',
  serializationFailure: '40001',
  deadlockDetected: '40P01',
  insufficientPrivilege: '42501',
  syntaxError: '42601',
  invalidName: '42602',
  undefinedColumn: '42703',
  undefinedObject: '42704',
  duplicateObject: '42710',
  duplicateDatabase: '42P04',
  duplicateSchema: '42P06',
  duplicateTable: '42P07',
  duplicateFunction: '42723',
  undefinedFunction: '42883',
  undefinedTable: '42P01',
  wrongObjectType: '42809',
  insufficientResources: '53000',
  diskFull: '53100',
  outOfMemory: '53200',
  tooManyConnections: '53300',
  objectNotInPrerequisiteState: '55000',
  objectInUse: '55006',
  lockNotAvailable: '55P03',
  queryCanceled: '57014',
  adminShutdown: '57P01',
  crashShutdown: '57P02',
  cannotConnectNow: '57P03',
  databaseDropped: '57P04',
  ioError: '58030',
  undefinedFile: '58P01',
  fdwError: 'HV000',
  raiseException: 'P0001',
  internalError: 'XX000',
} as const;

export type SqlStateName = keyof typeof SqlState;

/**
 * The SQLSTATE of an error that came from a server, through `Connection` or straight from node-postgres, or of a
 * `VarveError`; undefined for anything else.
 */
export function sqlStateOf(error: unknown): string | undefined {
  if (error instanceof VarveError) return error.sqlstate;
  // The code of a socket error can have five characters too (EPIPE), but only a server's error has a severity.
  if (!(error instanceof Error) || !('severity' in error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code) ? error.code : undefined;
}
