import { ERROR_CODES, type ErrorEntry } from './error-codes.ts';

export type ErrorCode = keyof typeof ERROR_CODES;

export interface ErrorParts {
  /** Further facts, one a line. */
  readonly detail?: string | undefined;
  /** What to do. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
  /** Replaces the registry's SQLSTATE, for errors that pass on another server's. */
  readonly sqlstate?: string | undefined;
}

/**
 * An operating error: expected, typed, to be handled or shown. Anything else that is thrown is a bug.
 * `message` is one sentence with the values that matter; it never holds a secret.
 */
export class VarveError extends Error {
  override readonly name = 'VarveError';
  readonly code: ErrorCode;
  readonly sqlstate: string;
  readonly detail: string | undefined;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, parts: ErrorParts = {}) {
    super(message, parts.cause === undefined ? undefined : { cause: parts.cause });
    this.code = code;
    this.sqlstate = parts.sqlstate ?? ERROR_CODES[code].sqlstate;
    this.detail = parts.detail;
    this.hint = parts.hint;
  }

  get httpStatus(): number {
    return errorEntry(this.code).http;
  }

  /** The form in which an error crosses a process boundary. */
  toJSON(): { code: ErrorCode; sqlstate: string; message: string; detail?: string; hint?: string } {
    return {
      code: this.code,
      sqlstate: this.sqlstate,
      message: this.message,
      ...(this.detail === undefined ? {} : { detail: this.detail }),
      ...(this.hint === undefined ? {} : { hint: this.hint }),
    };
  }
}

/**
 * The error that another process gave as JSON, its own or, for clients of Prometheus, with the message as `error`; one
 * whose code is not known here becomes INTERNAL.
 */
export function errorFromJson(json: unknown): VarveError {
  const { code, message, error, detail, hint, sqlstate } = (json ?? {}) as Readonly<Record<string, unknown>>;
  const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
  const known = typeof code === 'string' && code in ERROR_CODES ? (code as ErrorCode) : 'INTERNAL';
  return new VarveError(
    known,
    text(message) ?? text(error) ?? 'another node answered with an error that has no message',
    {
      detail: text(detail),
      hint: text(hint),
      sqlstate: text(sqlstate),
    },
  );
}

export function errorEntry(code: ErrorCode): ErrorEntry {
  return ERROR_CODES[code];
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** True for the error that an `AbortSignal` raises: an abort is no failure. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === 'AbortError' || error.name === 'TimeoutError');
}

/** A bug, not an operating error: crash with the reason. */
export function assert(condition: unknown, why: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${why}`);
}
