import { open, readFile, rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { VarveError } from '../core/errors.ts';
import { writeFileAtomic, type AtomicFileOptions } from './atomic-file.ts';
import { isSocketFolder } from './endpoint.ts';

/** Whose password: the first four fields of a line. In a line that is written, `*` stands for any. */
export interface PassfileKey {
  readonly host: string;
  readonly port: number | '*';
  readonly database: string;
  readonly user: string;
}

/**
 * The password that libpq would take from this file: of the first line that matches. A unix socket matches
 * its folder and `localhost`. Undefined when there is no file or no line.
 * @throws PASSFILE_INVALID for a file that others may read (libpq passes over it in silence), or no file at all
 */
export async function findPassword(path: string, key: PassfileKey): Promise<string | undefined> {
  const text = await readPrivate(path);
  const hosts = isSocketFolder(key.host) ? [key.host, 'localhost'] : [key.host];
  for (const line of text.split(/\r?\n/)) {
    const fields = parseLine(line);
    if (!fields) continue;
    const [host, port, database, user] = fields.key;
    if (
      hosts.some((name) => matches(host, name)) &&
      matches(port, String(key.port)) &&
      matches(database, key.database) &&
      matches(user, key.user)
    ) {
      return fields.password;
    }
  }
  return undefined;
}

/**
 * Sets the password of exactly this key, atomically; other lines stay as they are. A new line comes first, so
 * that no general line hides it. Writers at once, of other processes too, wait for each other.
 * @throws INVALID_ARGUMENT for a line break, which the format cannot hold
 */
export async function writePassfileEntry(
  path: string,
  key: PassfileKey,
  password: string,
  options: Pick<AtomicFileOptions, 'owner'> = {},
): Promise<void> {
  const texts = [key.host, String(key.port), key.database, key.user];
  if ([...texts, password].some((text) => /[\r\n\0]/.test(text))) {
    throw new VarveError('INVALID_ARGUMENT', 'a line of a password file cannot hold a line break');
  }
  const line = `${texts.map((text) => (text === '*' ? text : escape(text))).join(':')}:${escape(password)}`;
  await withLock(path, async () => {
    const lines = (await readPrivate(path)).split('\n').filter((old) => old !== '');
    const at = lines.findIndex((old) => {
      const fields = parseLine(old);
      return fields?.key.every((field, i) => field.text === texts[i] && field.any === (texts[i] === '*'));
    });
    if (at >= 0) lines[at] = line;
    else lines.unshift(line);
    await writeFileAtomic(path, `${lines.join('\n')}\n`, { ...options, mode: 0o600 });
  });
}

interface Field {
  readonly text: string;
  /** An unescaped `*`. */
  readonly any: boolean;
}

interface Line {
  readonly key: readonly [Field, Field, Field, Field];
  readonly password: string;
}

const matches = (field: Field, wanted: string): boolean => field.any || field.text === wanted;

/** Undefined for comments, empty lines and lines with fewer than five fields, which libpq passes over. */
function parseLine(line: string): Line | undefined {
  if (line === '' || line.startsWith('#')) return undefined;
  const fields: Field[] = [];
  let rest = line;
  while (fields.length < 4) {
    const raw = /^(?:\\.|[^\\:])*:/.exec(rest)?.[0].slice(0, -1);
    if (raw === undefined) return undefined;
    fields.push({ text: unescape(raw), any: raw === '*' });
    rest = rest.slice(raw.length + 1);
  }
  // The password is the rest: an unescaped colon in it does no harm.
  return { key: fields as unknown as Line['key'], password: unescape(rest) };
}

const escape = (text: string): string => text.replaceAll(/[\\:]/g, String.raw`\$&`);
const unescape = (text: string): string => text.replaceAll(/\\(.)/g, '$1');

/** Empty when there is no file. */
async function readPrivate(path: string): Promise<string> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (!found) return '';
  if (!found.isFile())
    throw new VarveError('PASSFILE_INVALID', `the password file ${path} is not a plain file`);
  if ((found.mode & 0o077) !== 0) {
    const mode = (found.mode & 0o777).toString(8).padStart(4, '0');
    throw new VarveError('PASSFILE_INVALID', `others may read the password file ${path} (mode ${mode})`, {
      hint: `Close it: chmod 0600 ${path}. PostgreSQL's own clients ignore a file that is open to others.`,
    });
  }
  return readFile(path, 'utf8');
}

const LOCK_STALE_MS = 10_000;

/** A lock file, for the moment of a write; one that a killed writer left is removed when it is old. */
async function withLock(path: string, work: () => Promise<void>): Promise<void> {
  const lock = `${path}.lock`;
  for (;;) {
    try {
      await (await open(lock, 'wx', 0o600)).close();
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const held = await stat(lock).catch(() => undefined);
    if (held && Date.now() - held.mtimeMs > LOCK_STALE_MS) await rm(lock, { force: true });
    else await sleep(10);
  }
  try {
    await work();
  } finally {
    await rm(lock, { force: true });
  }
}
