import { readFile, stat } from 'node:fs/promises';
import { messageOf, VarveError } from '../core/errors.ts';
import type { Endpoint, TlsOptions } from './endpoint.ts';
import { findPassword } from './passfile.ts';

const PARAMETERS = [
  'host',
  'port',
  'dbname',
  'user',
  'password',
  'passfile',
  'sslmode',
  'sslrootcert',
] as const;
const TLS_FILES = ['sslcert', 'sslkey'] as const;
const KNOWN: readonly string[] = [...PARAMETERS, ...TLS_FILES];
type Parameters = Partial<Record<(typeof PARAMETERS)[number] | (typeof TLS_FILES)[number], string>>;

/**
 * The endpoint that a URL of libpq's form names: `postgresql://user:password@host:port/database?sslmode=…`.
 * The password comes from the URL, else from `passfile`; certificates and key are read from their files.
 * libpq's defaults: port 5432, the database named as the user, `sslmode=prefer`; the user has none.
 * @throws INVALID_ARGUMENT naming the part that is wrong, never its value: a password with an unescaped `/` or
 *   `@` spills into the other parts
 * @throws PASSFILE_INVALID when others may read the password file
 */
export async function endpointFromUrl(url: string): Promise<Endpoint> {
  const given = parseUrl(url);
  const { user, host } = given;
  if (user === undefined || user === '')
    throw invalid('has no user', 'Write postgresql://user@host/database.');
  if (host === undefined || host === '')
    throw invalid('has no host', 'Write postgresql://user@host/database.');
  if (host.includes(',')) throw invalid('names several hosts', 'Name one.');
  const port = Number(given.port ?? '5432');
  if (!/^\d*$/.test(given.port ?? '') || port < 1 || port > 65_535) {
    throw invalid('has no valid port', 'The port number must be between 1 and 65535.');
  }
  const where = { host, port, database: given.dbname ?? user, user };
  const password =
    given.password ?? (given.passfile === undefined ? undefined : await findPassword(given.passfile, where));
  return { ...where, ...(password === undefined ? {} : { password }), tls: await tlsOptions(given) };
}

function parseUrl(url: string): Parameters {
  // The authority ends at the last @ before the path, because passwords with an unescaped @ are common.
  const [, authority = '', path, query] =
    /^postgres(?:ql)?:\/\/([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(url) ?? [];
  if (!/^postgres(?:ql)?:\/\//.test(url)) {
    throw invalid('does not start with postgresql://', 'Write postgresql://user@host:port/database.');
  }
  const given: Parameters = {};
  const at = authority.lastIndexOf('@');
  const [, user, password] = /^([^:]*)(?::(.*))?$/s.exec(at < 0 ? '' : authority.slice(0, at)) ?? [];
  if (user) given.user = decode('user', user);
  if (password !== undefined) given.password = decode('password', password);
  const [, bracketed, plain, port] =
    /^(?:\[([^\]]*)\]|([^:]*))(?::(.*))?$/s.exec(authority.slice(at + 1)) ?? [];
  const host = bracketed ?? plain;
  if (host) given.host = decode('host', host);
  if (port) given.port = port;
  if (path) given.dbname = decode('database', path);
  for (const pair of query ? query.split('&') : []) {
    const [, name = '', value] = /^([^=]*)=(.*)$/s.exec(pair) ?? [];
    if (value === undefined) throw invalid('has a parameter without a value', 'Write name=value.');
    if (!KNOWN.includes(name)) {
      throw invalid('has a parameter that is not supported', `Supported are ${KNOWN.join(', ')}.`);
    }
    given[name as keyof Parameters] = decode(name, value);
  }
  return given;
}

async function tlsOptions(given: Parameters): Promise<TlsOptions> {
  const { sslmode = 'prefer', sslrootcert, sslcert, sslkey } = given;
  const system = sslrootcert === 'system';
  if (sslmode === 'verify-ca' && (sslrootcert === undefined || system)) {
    throw invalid('has sslmode=verify-ca without the certificate to verify by', 'Give sslrootcert=FILE.');
  }
  if ((sslcert === undefined) !== (sslkey === undefined)) {
    throw invalid('has only one of sslcert and sslkey', 'Give both.');
  }
  const files = {
    ...(sslrootcert === undefined || system ? {} : { caPem: await readPem('sslrootcert', sslrootcert) }),
    ...(sslcert === undefined ? {} : { certPem: await readPem('sslcert', sslcert) }),
    ...(sslkey === undefined ? {} : { keyPem: await readKey(sslkey) }),
  };
  switch (sslmode) {
    case 'disable':
    case 'prefer':
    case 'verify-full':
      return { mode: sslmode, ...files };
    case 'require':
      return { mode: system ? 'verify-full' : 'require', ...files };
    case 'verify-ca':
      return { mode: 'require', ...files };
    default:
      throw invalid('has an unsupported sslmode', 'One of disable, prefer, require, verify-ca, verify-full.');
  }
}

async function readPem(parameter: string, path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    throw invalid(`has an ${parameter} that cannot be read`, messageOf(error));
  });
}

async function readKey(path: string): Promise<string> {
  const text = await readPem('sslkey', path);
  const { mode, uid } = await stat(path);
  // libpq's rule: root's own key may be open to a group.
  if ((mode & 0o077) !== 0 && !(uid === 0 && (mode & 0o037) === 0)) {
    throw invalid('has an sslkey that others may read', `Close it: chmod 0600 ${path}.`);
  }
  return text;
}

function decode(part: string, text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid(`has a ${part} with a % that starts no escape`, 'Write %25 for a percent sign.');
  }
}

function invalid(what: string, hint: string): VarveError {
  return new VarveError('INVALID_ARGUMENT', `the URL of the PostgreSQL server ${what}`, { hint });
}
