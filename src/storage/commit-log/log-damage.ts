import { VarveError } from '../../core/errors.ts';

/**
 * - `damaged`: bytes that were durable once are not what was written; records that were acknowledged are lost
 * - `torn`: bytes of a write that a crash interrupted before it was durable; what it held may never have been
 *   acknowledged as durable
 * - `missing`: a whole segment between others is not there
 */
export type LogDamageKind = 'damaged' | 'torn' | 'missing';

/** Where a commit log is not intact. */
export interface LogDamage {
  readonly kind: LogDamageKind;
  readonly file: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

/** The error by which damage is told: with file and offset. */
export function logDamageError(damage: LogDamage): VarveError {
  const { kind, file, offset, sizeBytes } = damage;
  const what =
    kind === 'missing'
      ? `${file} is missing between other segments`
      : `${file} is ${kind} at offset ${offset}, for ${sizeBytes} bytes`;
  return new VarveError('COMMIT_LOG_DAMAGED', what, {
    hint: 'The records before and after it are intact and were read; get what it held from replicas.',
  });
}
