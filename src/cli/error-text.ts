import { VarveError } from '../core/errors.ts';
import { isSystemError } from './exit-codes.ts';

const SYSTEM_HINTS: Readonly<Record<string, string>> = {
  EACCES: 'Run it as the user to whom this belongs, or choose another folder with --dir.',
  EPERM: 'Run it as the user to whom this belongs, or choose another folder with --dir.',
  EROFS: 'Choose a folder that can be written to with --dir.',
  ENOSPC: 'Make room on the disk and repeat.',
  EADDRINUSE: 'Stop what uses the port, or choose others with --port-base.',
};

/** An error for people: message, detail, hint, code. A stack only for what is a bug. */
export function errorText(error: unknown): string {
  if (error instanceof VarveError) {
    return [
      `varve: ${error.message}`,
      ...(error.detail?.split('\n').map((line) => `  ${line}`) ?? []),
      ...(error.hint === undefined ? [] : [`hint: ${error.hint}`]),
      `(${error.code}; see docs/errors.md)`,
    ].join('\n');
  }
  if (isSystemError(error)) {
    const hint = SYSTEM_HINTS[error.code ?? ''];
    return `varve: ${error.message}${hint === undefined ? '' : `\nhint: ${hint}`}`;
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return `varve: this is a bug in Varve\n${stack}`;
}
