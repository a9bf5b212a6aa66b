import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { SimulatedDisk } from '../../test/simulated-disk.ts';
import { testFileSystem, testWriteFully } from './file-system.suite.ts';
import { makeFolders, readWholeFile, writeFileAtomically, type FileSystem } from './file-system.ts';
import { NodeFileSystem } from './node-file-system.ts';

const folders: string[] = [];
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true });
});

testFileSystem('NodeFileSystem', async () => {
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}fs-`));
  folders.push(folder);
  return { fs: new NodeFileSystem(), folder };
});

testFileSystem('SimulatedDisk', async () => {
  const fs = new SimulatedDisk({ seed: 7, capacityBytes: 50_000_000 });
  await fs.makeFolder('/folder');
  return { fs, folder: '/folder' };
});

testWriteFully();

describe('SimulatedDisk at a crash', () => {
  const SEEDS = Array.from({ length: 200 }, (_, seed) => seed);
  const write = async (fs: FileSystem, path: string, text: string): Promise<void> => {
    await using file = await fs.open(path, 'replace');
    await file.write(0, Buffer.from(text));
  };
  const textOf = async (fs: FileSystem, path: string): Promise<string | undefined> =>
    readWholeFile(fs, path).then(String, () => undefined);

  test('a killed process leaves everything, a loss of power only what was synced', async () => {
    const disk = new SimulatedDisk();
    await write(disk, '/f', 'unsynced');
    expect(await textOf(disk.processCrash(1), '/f')).toBe('unsynced');
    // Whatever the killed process left can still be lost.
    const after = new Set<string | undefined>();
    for (const seed of SEEDS) after.add(await textOf(disk.processCrash(1).powerLoss(seed), '/f'));
    expect(after).toContain(undefined);
    expect(after).toContain('');
    expect(after).toContain('unsynced');
    expect([...after].some((text) => text !== undefined && text !== '' && text !== 'unsynced')).toBe(true);
  });

  test('what was synced together is all there', async () => {
    const disk = new SimulatedDisk();
    await disk.makeFolder('/a');
    const files = ['/f', '/a/g', '/a/h'];
    for (const path of files) await write(disk, path, path);
    const lost = SEEDS.some((seed) => !disk.powerLoss(seed).files().has('/a/g'));
    expect(lost).toBe(true);
    await disk.syncAll({ files, folders: ['/', '/a'] });
    for (const seed of SEEDS) {
      for (const path of files) expect(await textOf(disk.powerLoss(seed), path)).toBe(path);
    }
  });

  test('a synced file whose folder was not synced may have no name', async () => {
    const disk = new SimulatedDisk();
    await using file = await disk.open('/f', 'create');
    await file.write(0, Buffer.from('safe'));
    await file.sync();
    const found = new Set<string | undefined>();
    for (const seed of SEEDS) found.add(await textOf(disk.powerLoss(seed), '/f'));
    expect(found).toEqual(new Set([undefined, 'safe']));
    await disk.syncFolder('/');
    for (const seed of SEEDS) expect(await textOf(disk.powerLoss(seed), '/f')).toBe('safe');
  });

  test('what is overwritten without a sync is a mixture of old and new, and nothing else is touched', async () => {
    const disk = new SimulatedDisk();
    await using file = await disk.open('/f', 'create');
    await file.write(0, Buffer.alloc(4096, 'o'));
    await file.sync();
    await disk.syncFolder('/');
    await file.write(1000, Buffer.alloc(2000, 'n'));
    const shapes = new Set<string>();
    for (const seed of SEEDS) {
      const text = (await textOf(disk.powerLoss(seed), '/f')) ?? '';
      expect(text).toHaveLength(4096);
      expect(text.slice(0, 1000) + text.slice(3000)).toBe('o'.repeat(2096));
      shapes.add(text.replaceAll(/o+/g, 'o').replaceAll(/n+/g, 'n'));
    }
    expect(shapes).toContain('o');
    expect(shapes).toContain('ono');
    expect(shapes).toContain('onono');
  });

  test('writeFileAtomically leaves the old or the new content at every operation', async () => {
    for (const seed of SEEDS) {
      const disk = new SimulatedDisk({ seed });
      await writeFileAtomically(disk, '/f', Buffer.from('the old content'));
      const allowed = new Set(['the old content', 'the new one']);
      const clones: SimulatedDisk[] = [];
      disk.onOperation = ({ index }) => clones.push(disk.powerLoss(seed * 1000 + index));
      await writeFileAtomically(disk, '/f', Buffer.from('the new one'));
      for (const clone of clones) expect(allowed).toContain(await textOf(clone, '/f'));
      expect(await textOf(disk.powerLoss(seed), '/f')).toBe('the new one');
    }
  });

  test('makeFolders makes durable also what a killed process had made', async () => {
    const disk = new SimulatedDisk();
    await disk.makeFolder('/a');
    await makeFolders(disk, '/', ['a', 'b']);
    for (const seed of SEEDS) expect((await disk.powerLoss(seed).stat('/a/b'))?.kind).toBe('folder');
  });

  test('a failed sync may lose what was written, and the next one says nothing of it', async () => {
    const found = new Set<string | undefined>();
    for (const seed of SEEDS) {
      const disk = new SimulatedDisk({ seed });
      await using file = await disk.open('/f', 'create');
      await disk.syncFolder('/');
      await file.write(0, Buffer.from('x'));
      disk.fault = ({ kind }) => (kind === 'datasync' ? 'EIO' : undefined);
      await expect(file.datasync()).rejects.toThrow('EIO');
      disk.fault = undefined;
      await file.datasync();
      expect((await file.read(0, 1)).toString()).toBe('x');
      found.add(await textOf(disk.powerLoss(seed), '/f'));
    }
    // The size may be there without the bytes, too.
    expect(found).toEqual(new Set(['', '\0', 'x']));
  });

  test('a full disk takes a part, and takes more when there is room', async () => {
    const disk = new SimulatedDisk({ capacityBytes: 10 });
    await using file = await disk.open('/f', 'create');
    await expect(file.write(0, Buffer.alloc(20))).rejects.toThrow('ENOSPC');
    expect(await file.sizeBytes()).toBe(10);
    expect(await disk.freeBytes()).toBe(0);
    disk.capacityBytes = 20;
    await file.write(10, Buffer.alloc(10));
  });
});
