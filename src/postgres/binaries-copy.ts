import { createHash, randomBytes } from 'node:crypto';
import {
  access,
  chmod,
  constants,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { VarveError } from '../core/errors.ts';
import type { Binaries } from './binaries.ts';
import { copyTree } from './copy-tree.ts';
import { blockedAt, makePassable, type RunAs } from './run-as.ts';

/**
 * The programs made fit to be started by `runAs`: the embedded package's links and execute bits are restored
 * when npm left them out, and where that user cannot reach the package (a checkout below a closed folder) a
 * copy in `cacheFolder` is used, made on the first need and shared by all checkouts with the same package.
 * @throws POSTGRES_NOT_FOUND naming the folder that blocks programs of the system or a configured folder
 */
export async function usableBinaries(
  binaries: Binaries,
  runAs: RunAs | undefined,
  cacheFolder: string,
): Promise<Binaries> {
  const blocked = runAs && (await blockedForServer(binaries, runAs));
  if (binaries.source !== 'embedded') {
    if (blocked === undefined) return binaries;
    throw new VarveError(
      'POSTGRES_NOT_FOUND',
      `user ${runAs?.user} cannot use PostgreSQL in ${binaries.binDir}: ${blocked} is closed`,
      { hint: 'Open it for that user, name other programs, or run PostgreSQL as another user.' },
    );
  }
  const native = dirname(binaries.binDir);
  if (blocked === undefined) {
    const repaired = await hydrate(native).catch((error: NodeJS.ErrnoException) => {
      // Installed by somebody else, or read-only: repaired in a copy.
      if (['EACCES', 'EPERM', 'EROFS'].includes(error.code ?? '')) return false;
      throw error;
    });
    if (repaired) return binaries;
  }
  const copy = join(cacheFolder, `postgres-${binaries.version}-${await fingerprint(binaries)}`);
  if (!(await exists(copy))) await makeCopy(native, copy);
  const binDir = join(copy, 'bin');
  return { ...binaries, binDir, postgres: join(binDir, 'postgres'), initdb: join(binDir, 'initdb') };
}

async function blockedForServer({ binDir, postgres }: Binaries, runAs: RunAs): Promise<string | undefined> {
  const libraries = join(binDir, '..', 'lib');
  const shared = join(binDir, '..', 'share');
  for (const path of [postgres, libraries, shared]) {
    const blocked = (await exists(path)) ? await blockedAt(path, runAs) : undefined;
    if (blocked !== undefined) return blocked;
  }
  return undefined;
}

/**
 * What the package's own install script does: npm packages cannot hold links, so they are listed in
 * `pg-symlinks.json`. Makers may run at once; a link that exists is left.
 */
async function hydrate(native: string): Promise<true> {
  const list = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    // Both start with the folder's own name, which a copy does not have.
    const link = join(native, relative('native', target));
    if (await lstat(link).catch(() => undefined)) continue;
    await symlink(relative(dirname(target), source), link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }
  for (const name of ['postgres', 'initdb', 'pg_ctl']) {
    const program = join(native, 'bin', name);
    const executable = await access(program, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (!executable) await chmod(program, 0o755);
  }
  return true;
}

/** Of the programs, not of their place: checkouts share copies. */
export async function fingerprint({ postgres, initdb, version }: Binaries): Promise<string> {
  const hash = createHash('sha256').update(version);
  for (const path of [postgres, initdb]) {
    const { size, mtimeMs } = await stat(path);
    hash.update(`\0${size}\0${mtimeMs}`);
  }
  return hash.digest('hex').slice(0, 12);
}

/** Whole or not at all: made beside and renamed. Of two makers at once the later one finds it there. */
async function makeCopy(native: string, copy: string): Promise<void> {
  await makePassable(dirname(copy));
  await removeAbandoned(dirname(copy));
  const making = join(dirname(copy), `.making-${randomBytes(6).toString('hex')}`);
  try {
    await mkdir(making);
    await chmod(making, 0o755);
    await copyTree(native, making, {
      skips: (name) => name.endsWith('.a'),
      modeOf: (mode) => (mode === undefined || mode & 0o100 ? 0o755 : 0o644),
    });
    await hydrate(making);
    await rename(making, copy);
  } catch (error) {
    await rm(making, { recursive: true, force: true });
    if (!(await exists(copy))) throw error;
  }
}

/** What a killed maker left. */
async function removeAbandoned(cacheFolder: string): Promise<void> {
  for (const name of await readdir(cacheFolder)) {
    if (!name.startsWith('.making-')) continue;
    const path = join(cacheFolder, name);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
    if (Date.now() - mtimeMs > 3_600_000) await rm(path, { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}
