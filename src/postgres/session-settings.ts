import { VarveError } from '../core/errors.ts';

/** Settings under which names, times and numbers mean the same whatever the server's and role's defaults. */
export const PLAIN_SESSION: Readonly<Record<string, string>> = {
  search_path: 'pg_catalog',
  timezone: 'UTC',
  datestyle: 'ISO',
  intervalstyle: 'postgres',
  extra_float_digits: '3',
  standard_conforming_strings: 'on',
};

/** The parts of `ConnectOptions` that are settings of the server. */
export interface SessionTimeouts {
  readonly statementTimeoutMs?: number | undefined;
  readonly lockTimeoutMs?: number | undefined;
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

export const DEFAULT_STATEMENT_TIMEOUT_MS = 60_000;

/** A timeout of 0 is sent too: the role may have another default. */
export function sessionSettings(options: SessionTimeouts): Record<string, string> {
  return {
    statement_timeout: String(options.statementTimeoutMs ?? DEFAULT_STATEMENT_TIMEOUT_MS),
    ...(options.lockTimeoutMs === undefined ? {} : { lock_timeout: String(options.lockTimeoutMs) }),
    ...options.settings,
  };
}

/** The startup packet's `options`: switches, where a backslash keeps a space or backslash of a value. */
export function startupOptions(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => {
      if (!/^[a-z_][\w.]*$/i.test(name) || value.includes('\0')) {
        throw new VarveError('INVALID_ARGUMENT', `invalid server setting ${JSON.stringify(name)}`);
      }
      return `-c ${name}=${value.replaceAll(/[\\\s]/g, String.raw`\$&`)}`;
    })
    .join(' ');
}
