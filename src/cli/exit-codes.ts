import { VarveError } from '../core/errors.ts';

/** What `varve` ends with. In docs/configuration.md. */
export const ExitCode = {
  /** Done. Also: a system was stopped as asked. */
  ok: 0,
  /** An operating error; its code and hint are on standard error. */
  failed: 1,
  /** Wrong usage or configuration; nothing was begun. */
  usage: 2,
  /** The answer is no: `doctor` found a failure, `status` a node that is not ready. */
  no: 3,
  /** A bug; the stack is on standard error. */
  bug: 70,
} as const;

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof VarveError)) return isSystemError(error) ? ExitCode.failed : ExitCode.bug;
  return error.code === 'CONFIG_INVALID' || error.code === 'INVALID_ARGUMENT'
    ? ExitCode.usage
    : ExitCode.failed;
}

/** Of the operating system: no rights, no room, no such file. Expected, so it has no stack to show. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === 'string';
}
