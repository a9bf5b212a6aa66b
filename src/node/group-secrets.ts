import { hkdfSync } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { SecretKey } from '../cluster/schema/secret-key.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';

/** What the members of a group know, and nobody else. */
export interface GroupSecrets {
  /** Of the role that replicates. */
  readonly groupPassword: string;
  /** Of role `health`, which may do nothing but log in. */
  readonly healthPassword: string;
  /** Of the way between manager and service groups. */
  readonly adminToken: string;
  /** By which a platform calls the service broker, where no file names another. */
  readonly brokerPassword: string;
  /** For passwords in tables. */
  readonly key: SecretKey;
}

const SHORTEST = 16;

/**
 * One file holds one secret, from which all of them are drawn: whoever has one of them does not have the others.
 * @throws CONFIG_INVALID when the file is missing, open to others, or too short
 */
export async function readGroupSecrets(path: string): Promise<GroupSecrets> {
  const text = await secretText(path, 'groupPasswordFile');
  const draw = (purpose: string): Buffer => Buffer.from(hkdfSync('sha256', text, '', `varve ${purpose}`, 32));
  return {
    groupPassword: draw('replication').toString('base64url'),
    healthPassword: draw('health').toString('base64url'),
    adminToken: draw('administration').toString('base64url'),
    brokerPassword: draw('service broker').toString('base64url'),
    key: new SecretKey(draw('sealed columns')),
  };
}

/**
 * The password of the service broker: that of the file. Where there is none it is made, the same on all members: a
 * platform calls whichever of them it reaches.
 * @throws CONFIG_INVALID
 */
export async function readBrokerPassword(
  path: string,
  { brokerPassword }: Pick<GroupSecrets, 'brokerPassword'>,
): Promise<string> {
  const present = await readFile(path, 'utf8').catch(() => undefined);
  if (present === undefined) await writeFileAtomic(path, `${brokerPassword}\n`);
  return secretText(path, 'brokerPasswordFile');
}

/** @throws CONFIG_INVALID */
export async function secretText(path: string, setting: string): Promise<string> {
  const hint = `Make it with: (umask 077; openssl rand -hex 32 > ${path})`;
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new VarveError('CONFIG_INVALID', `the file of "${setting}", ${path}, is open to others`, {
        hint: `chmod 600 ${path}`,
      });
    }
    const text = (await readFile(path, 'utf8')).trim();
    if (text.length >= SHORTEST) return text;
  } catch (error) {
    if (error instanceof VarveError) throw error;
    throw new VarveError('CONFIG_INVALID', `the file of "${setting}" cannot be read: ${messageOf(error)}`, {
      hint,
    });
  }
  throw new VarveError('CONFIG_INVALID', `the secret in ${path} has fewer than ${SHORTEST} characters`, {
    hint,
  });
}
