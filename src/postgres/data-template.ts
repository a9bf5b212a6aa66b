import { createHash } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { lockFolder, lockHolder } from '../core/folder-lock.ts';
import { fingerprint } from './binaries-copy.ts';
import type { Binaries } from './binaries.ts';
import { makePassable, type RunAs } from './run-as.ts';
import { ServerFolder } from './server-folder.ts';
import type { StartDeps } from './start-server.ts';

/** What a data folder is made by; two that agree in it differ in password and identifier only. */
export interface TemplateKind {
  /** Below it templates are kept, each in `data-folders/DIGEST/data`. */
  readonly cacheFolder: string;
  readonly binaries: Binaries;
  /** Of initdb. */
  readonly arguments: readonly string[];
  readonly runAs: RunAs | undefined;
  /** How long the making may take, whoever does it. */
  readonly timeoutMs: number;
}

const FOLDER = 'data-folders';
const POLL_MS = 40;
/** A template is 40 MB: what nobody has needed for so long, as one of programs that are gone, is removed. */
const UNUSED_MS = 86_400_000;
/** Of what initdb takes over from the operating system: its version, and its locales. */
const OS_RELEASE = '/etc/os-release';
const LOCALES = '/usr/lib/locale';
/** Another one each time that the machine comes up, on Linux. */
const BOOT_ID = '/proc/sys/kernel/random/boot_id';

/**
 * A data folder as initdb leaves it, for copying: initdb takes a second of processor time, a copy a tenth, and a system
 * on one machine needs six. Made by whoever comes first; others that come meanwhile wait for it. Its password is known
 * to nobody, its system identifier is to be replaced in each copy.
 *
 * It is not synced: each is of one life of the machine, and the next makes its own.
 *
 * Nobody but us gets to it: while it is made its folder lets the server's user pass, and that it is closed again is what
 * tells that it is whole. So root never copies what another user could put there.
 *
 * @returns undefined when none can be had: the cache is not ours to write, the disk is full, initdb failed; and on
 *   systems that do not tell when they came up
 */
export async function dataTemplate(
  { clock, work }: StartDeps,
  kind: TemplateKind,
  make: (place: ServerFolder) => Promise<void>,
): Promise<ServerFolder | undefined> {
  const untilMs = clock.monotonicMs() + kind.timeoutMs;
  try {
    const parent = templatesFolder(kind.cacheFolder);
    await (kind.runAs ? makePassable(parent) : mkdir(parent, { recursive: true, mode: 0o700 }));
    const place = await ServerFolder.at(join(parent, await digestOf(kind)), kind.runAs);
    while (clock.monotonicMs() < untilMs) {
      if ((await isWhole(place)) || (await makeUnderLock(place, make))) return place;
      work.report({ waitingFor: 'another server, which makes the same data folder' });
      while (!(await isWhole(place)) && (await lockHolder(place.path)) !== undefined) {
        await clock.sleep(POLL_MS, work.signal);
        if (clock.monotonicMs() > untilMs) break;
      }
    }
    return undefined;
  } catch {
    work.signal.throwIfAborted();
    return undefined;
  }
}

export function templatesFolder(cacheFolder: string): string {
  return join(cacheFolder, FOLDER);
}

/** After a copy of it could not be used; the next who needs one makes it anew. */
export async function discardTemplate(place: ServerFolder): Promise<void> {
  await rm(place.path, { recursive: true, force: true, maxRetries: 3 }).catch(() => {});
}

/** False when somebody else is at it. */
async function makeUnderLock(
  place: ServerFolder,
  make: (place: ServerFolder) => Promise<void>,
): Promise<boolean> {
  const lock = await lockFolder(place.path).catch((error: unknown) => {
    if (error instanceof VarveError && error.code === 'FOLDER_IN_USE') return undefined;
    throw error;
  });
  if (!lock) return false;
  await using _lock = lock;
  if (await isWhole(place)) return true;
  await removeUnused(place);
  // Of a maker that was killed before it had closed the folder.
  await rm(place.dataDir, { recursive: true, force: true });
  await place.make();
  await make(place);
  await chmod(place.path, 0o700);
  return true;
}

async function isWhole(place: ServerFolder): Promise<boolean> {
  const found = await stat(place.path).catch(() => undefined);
  if (found?.uid !== process.getuid?.() || ((found?.mode ?? 0) & 0o077) !== 0) return false;
  if ((await place.dataMajor()) === undefined) return false;
  const now = new Date();
  await utimes(place.path, now, now);
  return true;
}

async function removeUnused(place: ServerFolder): Promise<void> {
  const parent = dirname(place.path);
  for (const name of await readdir(parent)) {
    const path = join(parent, name);
    const found = await stat(path).catch(() => undefined);
    if (name === basename(place.path) || !found || Date.now() - found.mtimeMs < UNUSED_MS) continue;
    if ((await lockHolder(path)) === undefined) await rm(path, { recursive: true, force: true });
  }
}

async function digestOf({ binaries, arguments: given }: TemplateKind): Promise<string> {
  const boot = await readFile(BOOT_ID, 'utf8');
  const release = await readFile(OS_RELEASE, 'utf8').catch(() => '');
  const locales = await stat(LOCALES).catch(() => ({ mtimeMs: 0 }));
  const parts = [await fingerprint(binaries), ...given, boot, release, String(locales.mtimeMs)];
  const digest = createHash('sha256').update(parts.join('\0')).digest('hex');
  return `${binaries.version}-${digest.slice(0, 16)}`;
}
