import { readFileSync } from 'node:fs';
import type { Options } from '../config/options.ts';
import type { CoordinatorOptions } from '../coordination/open-coordinator.ts';
import { messageOf, VarveError } from '../core/errors.ts';

type Given = Pick<
  Options<'doctor'>,
  | 'coordinator'
  | 'coordinatorKind'
  | 'coordinatorTokenFile'
  | 'coordinatorUser'
  | 'coordinatorPasswordFile'
  | 'coordinatorCaFile'
  | 'coordinatorCertFile'
  | 'coordinatorKeyFile'
>;

/**
 * The coordinator with what it takes to be let in. Secrets are read from files, never given on a command line.
 * @throws CONFIG_INVALID for a file that cannot be read, and for settings that the kind does not know
 */
export function coordinatorOptions(given: Given): CoordinatorOptions | undefined {
  const { coordinator: url, coordinatorKind: kind } = given;
  if (url === undefined) return undefined;
  const token = secret(given, 'coordinatorTokenFile');
  const password = secret(given, 'coordinatorPasswordFile');
  const ca = secret(given, 'coordinatorCaFile');
  const cert = secret(given, 'coordinatorCertFile');
  const key = secret(given, 'coordinatorKeyFile');
  const { coordinatorUser: name } = given;
  if (kind === 'etcd') refuse('"coordinatorTokenFile" is for Consul: etcd knows users', token);
  else {
    const text = `"${kind}" has a token, not users and certificates of etcd`;
    for (const one of [name, password, ca, cert, key]) refuse(text, one);
  }
  if ((name === undefined) !== (password === undefined)) {
    throw new VarveError('CONFIG_INVALID', '"coordinatorUser" and "coordinatorPasswordFile" go together');
  }
  if ((cert === undefined) !== (key === undefined)) {
    throw new VarveError('CONFIG_INVALID', '"coordinatorCertFile" and "coordinatorKeyFile" go together');
  }
  const tls = {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
  return {
    kind,
    url,
    ...(token === undefined ? {} : { token }),
    ...(name === undefined || password === undefined ? {} : { user: { name, password } }),
    ...(Object.keys(tls).length === 0 ? {} : { tls }),
  };
}

function refuse(message: string, given: string | undefined): void {
  if (given !== undefined) throw new VarveError('CONFIG_INVALID', message);
}

function secret(given: Given, option: keyof Given): string | undefined {
  const path = given[option];
  if (path === undefined) return undefined;
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new VarveError('CONFIG_INVALID', `the file of "${option}" cannot be read: ${messageOf(error)}`);
  }
}
