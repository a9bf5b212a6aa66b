import { DatabaseError } from 'pg';
import { messageOf, VarveError } from '../core/errors.ts';
import { describeEndpoint, hostAndPort, type Endpoint } from './endpoint.ts';
import { SqlState } from './sqlstate.ts';

const HINT_BY_SYSTEM_CODE: Record<string, string> = {
  ECONNREFUSED: 'Check that PostgreSQL runs there and listens on that address and port.',
  ENOENT: 'Check that PostgreSQL runs there: a running server has its socket in that folder.',
  EACCES: 'The folder of the socket is closed to this process’s user.',
  ENOTFOUND: 'The host name is unknown: check its spelling and the name service.',
  EAI_AGAIN: 'The name service did not answer: try again, or give an IP address.',
  EHOSTUNREACH: 'No route leads to that host: check address and network.',
  ENETUNREACH: 'No route leads to that network: check address and network.',
};

const HINT_BY_SQLSTATE: Record<string, string> = {
  [SqlState.invalidPassword]: 'Check the password of that role on that server.',
  [SqlState.invalidAuthorization]:
    'Check that the role exists there, may log in, and that pg_hba.conf has a line for it.',
  [SqlState.tooManyConnections]: 'Raise max_connections there, or close connections.',
};

/**
 * What prevented a connection, as an operating error: LOGIN_FAILED for SQLSTATEs of class 28, otherwise
 * CONNECTION_FAILED, with the server's SQLSTATE where it gave one. A `VarveError` is passed on.
 */
export function connectError(endpoint: Endpoint, error: unknown): VarveError {
  if (error instanceof VarveError) return error;
  if (error instanceof DatabaseError && error.code !== undefined) {
    const login = error.code.startsWith('28');
    return new VarveError(
      login ? 'LOGIN_FAILED' : 'CONNECTION_FAILED',
      `${login ? 'the login was refused by' : 'could not connect to'} ${describeEndpoint(endpoint)}`,
      {
        sqlstate: error.code,
        detail: joinLines(error.message, error.detail),
        hint: error.hint ?? HINT_BY_SQLSTATE[error.code],
        cause: error,
      },
    );
  }
  const text = textOf(error);
  // What node-postgres raises itself while it computes SCRAM: the server asked for what we lack, or it
  // could not prove that it knows the password.
  if (text.startsWith('SASL')) {
    return new VarveError('LOGIN_FAILED', `the login to ${describeEndpoint(endpoint)} failed`, {
      detail: text,
      cause: error,
    });
  }
  return new VarveError('CONNECTION_FAILED', `could not connect to ${describeEndpoint(endpoint)}`, {
    detail: text,
    hint: HINT_BY_SYSTEM_CODE[systemCodeOf(error) ?? ''],
    cause: error,
  });
}

export function connectTimeout(endpoint: Endpoint, timeoutMs: number): VarveError {
  return new VarveError('CONNECTION_FAILED', `could not connect to ${describeEndpoint(endpoint)}`, {
    detail: `${hostAndPort(endpoint)} did not finish the start of a session within ${timeoutMs} ms`,
    hint: 'The host may be down, a firewall may drop packets, or something else than PostgreSQL listens there.',
  });
}

export function passwordMissing(endpoint: Endpoint): VarveError {
  return new VarveError('LOGIN_FAILED', `no password is known for ${describeEndpoint(endpoint)}`, {
    sqlstate: SqlState.invalidPassword,
    detail: 'The server asks for a password.',
    hint: 'Give a password, or a password file with a line for this host, port, database and user.',
  });
}

/** Several addresses of a name may fail, each for its own reason; the outer error then says nothing. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError) return [...new Set(error.errors.map(messageOf))].join('\n');
  return messageOf(error);
}

function systemCodeOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}

function joinLines(...lines: (string | undefined)[]): string {
  return lines.filter((line) => line !== undefined).join('\n');
}
