import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { link, open, readFile, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import { syncFolder } from '../../postgres/atomic-file.ts';

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const SEALED = 'v1';

/**
 * The key that passwords in tables are sealed with. It lies in a file of mode 0600 that all members of a group,
 * and the manager group of a service group, share; it is in no table, no queue of DDL, no backup. So neither
 * who can read the control database nor who finds a backup gets a password.
 *
 * A sealed text is `v1.` and, in base64url, nonce (12 bytes), AES-256-GCM ciphertext and tag (16 bytes). What
 * it belongs to is authenticated with it: a sealed text that is copied to another row does not open there.
 */
export class SecretKey {
  /** Names the key without telling it. */
  readonly fingerprint: string;
  readonly #key: Buffer;

  constructor(key: Buffer) {
    if (key.length !== KEY_BYTES) throw keyInvalid(`it has ${key.length} bytes instead of ${KEY_BYTES}`);
    this.#key = derive(key, 'varve sealed columns');
    this.fingerprint = derive(key, 'varve key fingerprint').subarray(0, 8).toString('hex');
  }

  /** `belongsTo` is anything that tells this secret's place from others', for example the role's name. */
  seal(secret: string, belongsTo: string): string {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce);
    cipher.setAAD(Buffer.from(belongsTo));
    const text = Buffer.concat([nonce, cipher.update(secret, 'utf8'), cipher.final(), cipher.getAuthTag()]);
    return `${SEALED}.${text.toString('base64url')}`;
  }

  /** @throws SECRET_UNREADABLE when it was sealed with another key, for another place, or changed */
  unseal(sealed: string, belongsTo: string): string {
    const [format, text] = sealed.split('.');
    const bytes = Buffer.from(text ?? '', 'base64url');
    if (format !== SEALED || bytes.length < NONCE_BYTES + TAG_BYTES) throw unreadable(belongsTo);
    const decipher = createDecipheriv('aes-256-gcm', this.#key, bytes.subarray(0, NONCE_BYTES));
    decipher.setAAD(Buffer.from(belongsTo));
    decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
    try {
      const clear = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES));
      return Buffer.concat([clear, decipher.final()]).toString('utf8');
    } catch (error) {
      throw unreadable(belongsTo, error);
    }
  }
}

/**
 * The key of this file. With `create`, a file that is missing is made with a new key; of several who do so at
 * once one makes it and the others read it.
 * @throws SECRET_KEY_INVALID when it is missing, open to others, or no key
 */
export async function openSecretKey(path: string, options: { readonly create: boolean }): Promise<SecretKey> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (!found) {
    if (!options.create) throw keyInvalid('there is no such file', path);
    await createKeyFile(path);
    return openSecretKey(path, { create: false });
  }
  if (!found.isFile() || (found.mode & 0o077) !== 0) throw keyInvalid('others may read it', path);
  const text = (await readFile(path, 'utf8')).trim();
  if (!/^[0-9a-f]{64}$/.test(text)) throw keyInvalid('it does not hold 64 hexadecimal digits', path);
  return new SecretKey(Buffer.from(text, 'hex'));
}

/** Complete or not there, and never over one that is there: `link` refuses, where `rename` would replace. */
async function createKeyFile(path: string): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString('hex')}.new`;
  const file = await open(temporary, 'wx', 0o600);
  try {
    await file.writeFile(`${randomBytes(KEY_BYTES).toString('hex')}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  try {
    await link(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    await rm(temporary, { force: true });
  }
}

function derive(key: Buffer, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', key, Buffer.alloc(0), purpose, KEY_BYTES));
}

function keyInvalid(why: string, path?: string): VarveError {
  return new VarveError('SECRET_KEY_INVALID', `the key file ${path ?? ''} cannot be used: ${why}`, {
    hint: 'It holds 64 hexadecimal digits and has mode 0600. Copy it from another member of the group.',
  });
}

function unreadable(belongsTo: string, cause?: unknown): VarveError {
  return new VarveError('SECRET_UNREADABLE', `the password of ${belongsTo} cannot be unsealed`, {
    hint: 'Compare the key file with that of the other members.',
    cause,
  });
}
