import { execFile } from 'node:child_process';
import { chmod, cp, lstat, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeEachMajor } from '../../test/database.ts';
import { EMBEDDED_FROM } from '../../test/postgres-server.ts';
import { usableBinaries } from './binaries-copy.ts';
import { findBinaries, type Binaries } from './binaries.ts';
import { resolveRunAs, type RunAs } from './run-as.ts';

const asRoot = process.getuid?.() === 0;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-binaries-'));
  await chmod(folder, 0o755);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function versionAs(binaries: Binaries, user?: RunAs): Promise<string> {
  const { stdout } = await promisify(execFile)(
    binaries.postgres,
    ['--version'],
    user ? { uid: user.uid, gid: user.gid, cwd: '/' } : {},
  );
  return stdout;
}

describeEachMajor('programs', (major) => {
  it('are found by their major', async () => {
    const found = await findBinaries({ kind: 'auto', major, embeddedFrom: EMBEDDED_FROM });
    expect(found.major).toBe(major);
    expect(await versionAs(found)).toContain(`(PostgreSQL) ${found.version}`);
  });
});

/** The embedded package as npm leaves it when it skips install scripts: no links, no execute bits. */
async function barePackage(under: string): Promise<Binaries> {
  const found = await findBinaries({ kind: 'embedded' });
  const native = join(under, 'package', 'native');
  await mkdir(dirname(native), { recursive: true });
  await cp(dirname(found.binDir), native, {
    recursive: true,
    filter: async (path) => !path.endsWith('.a') && !(await lstat(path)).isSymbolicLink(),
  });
  const binDir = join(native, 'bin');
  for (const name of await readdir(binDir)) await chmod(join(binDir, name), 0o644);
  return { ...found, binDir, postgres: join(binDir, 'postgres'), initdb: join(binDir, 'initdb') };
}

describe('an embedded package', () => {
  it('whose install script was skipped is repaired where it is', async () => {
    const bare = await barePackage(folder);
    await expect(versionAs(bare)).rejects.toThrow('EACCES');
    const usable = await usableBinaries(bare, undefined, join(folder, 'cache'));
    expect(usable.binDir).toBe(bare.binDir);
    expect(await versionAs(usable)).toContain(bare.version);
    await expect(readdir(join(folder, 'cache'))).rejects.toThrow('ENOENT');
  });

  it.runIf(asRoot)('that the server’s user cannot reach is copied once, by whoever is first', async () => {
    const user = await resolveRunAs();
    const closed = join(folder, 'closed');
    await mkdir(closed, { mode: 0o700 });
    const bare = await barePackage(closed);
    const cache = join(folder, 'deep', 'cache');
    const made = await Promise.all([1, 2, 3].map(() => usableBinaries(bare, user, cache)));
    expect(new Set(made.map(({ binDir }) => binDir)).size).toBe(1);
    const [usable] = made;
    expect(usable && (await versionAs(usable, user))).toContain(bare.version);
    expect(await readdir(cache)).toHaveLength(1);
    expect((await usableBinaries(bare, user, cache)).binDir).toBe(usable?.binDir);
  });
});

it.runIf(asRoot)('names the folder that keeps the server’s user from configured programs', async () => {
  const closed = join(folder, 'closed');
  await mkdir(join(closed, 'bin'), { recursive: true });
  for (const name of ['postgres', 'initdb']) {
    await writeFile(join(closed, 'bin', name), '#!/bin/sh\necho "postgres (PostgreSQL) 16.3"\n', {
      mode: 0o755,
    });
  }
  const found = await findBinaries({ kind: closed });
  expect(await usableBinaries(found, await resolveRunAs(), folder)).toEqual(found);
  await chmod(closed, 0o700);
  await expect(usableBinaries(found, await resolveRunAs(), folder)).rejects.toMatchObject({
    code: 'POSTGRES_NOT_FOUND',
    message: expect.stringContaining(`${closed} is closed`) as string,
  });
});
