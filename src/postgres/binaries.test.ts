import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findBinaries } from './binaries.ts';
import { blockedAt, resolveRunAs } from './run-as.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-find-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** A folder with programs that say `version`. */
async function programs(name: string, version: string): Promise<string> {
  const path = join(folder, name);
  await mkdir(path, { recursive: true });
  for (const program of ['postgres', 'initdb']) {
    await writeFile(join(path, program), `#!/bin/sh\necho "${version}"\n`, { mode: 0o755 });
  }
  return path;
}

describe('findBinaries', () => {
  it.each([
    ['postgres (PostgreSQL) 16.3', '16.3', 16],
    ['postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)', '15.14', 15],
    ['postgres (PostgreSQL) 18beta2', '18beta2', 18],
  ])('reads %j', async (says, version, major) => {
    const binDir = await programs('bin', says);
    expect(await findBinaries({ kind: binDir })).toMatchObject({ version, major, source: 'configured' });
  });

  it('takes a folder that has the programs in bin', async () => {
    const binDir = await programs('pg/bin', 'postgres (PostgreSQL) 16.3');
    expect(await findBinaries({ kind: join(folder, 'pg') })).toMatchObject({ binDir });
  });

  it.each([
    ['too old', 'postgres (PostgreSQL) 14.9'],
    ['too new', 'postgres (PostgreSQL) 19.0'],
    ['another program', 'mysqld  Ver 8.0'],
  ])('refuses what is %s, and says what it saw', async (_what, says) => {
    const binDir = await programs('bin', says);
    await expect(findBinaries({ kind: binDir })).rejects.toMatchObject({
      code: 'POSTGRES_NOT_FOUND',
      detail: expect.stringContaining(binDir) as string,
    });
  });

  it('does not fall back from a configured folder', async () => {
    await expect(findBinaries({ kind: join(folder, 'none') })).rejects.toMatchObject({
      code: 'POSTGRES_NOT_FOUND',
    });
  });

  it('refuses a relative folder', async () => {
    await expect(findBinaries({ kind: 'pg/bin' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('takes the newest of the system, those of PATH included, before the embedded one', async () => {
    const searchPath = [
      await programs('a', 'postgres (PostgreSQL) 16.3'),
      await programs('b', 'postgres (PostgreSQL) 18.99'),
      await programs('c', 'postgres (PostgreSQL) 17.1'),
    ];
    expect(await findBinaries({ kind: 'auto', searchPath })).toMatchObject({
      version: '18.99',
      source: 'system',
    });
    expect(await findBinaries({ kind: 'system', searchPath, major: 17 })).toMatchObject({ version: '17.1' });
  });

  it('finds the package that comes with Varve', async () => {
    expect(await findBinaries({ kind: 'embedded' })).toMatchObject({ major: 18, source: 'embedded' });
  });

  it('says which major is missing', async () => {
    await expect(findBinaries({ kind: 'embedded', major: 15 })).rejects.toMatchObject({
      message: expect.stringContaining('PostgreSQL 15') as string,
    });
  });
});

describe('blockedAt', () => {
  const us = { user: 'us', uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const other = { user: 'other', uid: 54_321, gid: 54_321 };
  const colleague = { user: 'colleague', uid: 54_321, gid: us.gid };

  it.each([
    ['nothing for its owner', 0o700, 0o400, us, undefined],
    ['nothing for others when all is open', 0o711, 0o604, other, undefined],
    ['nothing for the group when that is let in', 0o710, 0o640, colleague, undefined],
    ['the closed folder', 0o700, 0o604, other, 'sub'],
    ['the closed folder for a group that is shut out', 0o705, 0o604, colleague, 'sub'],
    ['the file that may not be read', 0o711, 0o600, other, 'sub/file'],
  ])('is %s', async (_what, folderMode, fileMode, user, blocked) => {
    // Not below tmpdir(), which may be closed itself.
    const open = join('/', 'tmp', `varve-test-blocked-${process.pid}-${folderMode}-${fileMode}-${user.user}`);
    try {
      await mkdir(join(open, 'sub'), { recursive: true, mode: 0o755 });
      await writeFile(join(open, 'sub', 'file'), '', { mode: fileMode });
      await chmod(join(open, 'sub', 'file'), fileMode);
      await chmod(join(open, 'sub'), folderMode);
      expect(await blockedAt(join(open, 'sub', 'file'), user)).toBe(blocked && join(open, blocked));
    } finally {
      await rm(open, { recursive: true, force: true });
    }
  });
});

describe('resolveRunAs', () => {
  it('is an ordinary user for root, and nobody else for an ordinary user', async () => {
    const user = await resolveRunAs();
    if (process.getuid?.() === 0) expect(user).toMatchObject({ uid: expect.any(Number) as number });
    else expect(user).toBeUndefined();
    expect(user?.uid).not.toBe(0);
  });

  it.each(['no such user', '../x', ''])('refuses %j', async (name) => {
    await expect(resolveRunAs(name)).rejects.toMatchObject({ code: 'POSTGRES_USER' });
  });

  it.runIf(process.getuid?.() === 0)('refuses root', async () => {
    await expect(resolveRunAs('root')).rejects.toMatchObject({ code: 'POSTGRES_USER' });
  });
});
