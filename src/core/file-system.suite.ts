import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import {
  hasCode,
  makeFolders,
  readWholeFile,
  TEMPORARY_SUFFIX,
  writeFileAtomically,
  writeFully,
  writeZeros,
  type FileSystem,
} from './file-system.ts';

/** What every file system keeps. `make` gives an empty folder of its own to each test. */
export function testFileSystem(name: string, make: () => Promise<{ fs: FileSystem; folder: string }>): void {
  describe(`${name} as a file system`, () => {
    let fs: FileSystem;
    let folder: string;
    const at = (...names: string[]): string => join(folder, ...names);
    const put = async (path: string, text: string): Promise<void> => {
      await using file = await fs.open(path, 'replace');
      await file.write(0, Buffer.from(text));
    };
    const textOf = async (path: string): Promise<string> => (await readWholeFile(fs, path)).toString();
    const codeOf = async (promise: Promise<unknown>): Promise<unknown> =>
      promise.then(
        () => 'none',
        (error: NodeJS.ErrnoException) => error.code,
      );

    beforeEach(async () => {
      ({ fs, folder } = await make());
    });

    test('what is written at a position is read there, and gaps are zeros', async () => {
      await using file = await fs.open(at('a'), 'create');
      await file.write(4, Buffer.from('abcdef'));
      await file.write(6, Buffer.from('XY'));
      expect(await file.sizeBytes()).toBe(10);
      expect((await file.read(0, 100)).toString('latin1')).toBe('\0\0\0\0abXYef');
      expect((await file.read(8, 1)).toString()).toBe('e');
      expect(await file.read(10, 5)).toHaveLength(0);
      const mine = Buffer.alloc(8, '-');
      expect((await file.read(8, 5, mine)).toString()).toBe('ef');
      expect(mine.toString()).toBe('ef------');
      expect(await file.read(99, 5)).toHaveLength(0);
      const room = Buffer.from('......');
      if (file.readNow) {
        expect(file.readNow(5, room)).toBe(5);
        expect(room.toString('latin1')).toBe('bXYef.');
        expect(file.readNow(99, room)).toBe(0);
      }
      await file.datasync();
      await file.sync();
    });

    test('a large write arrives whole', async () => {
      const bytes = Buffer.alloc(3_000_000, 'pattern');
      await using file = await fs.open(at('large'), 'create');
      await file.write(7, bytes);
      expect((await file.read(7, bytes.length)).equals(bytes)).toBe(true);
    });

    test('writes at the same time to different places all arrive', async () => {
      await using file = await fs.open(at('many'), 'create');
      await Promise.all(
        Array.from({ length: 20 }, (_, i) => file.write(i * 1000, Buffer.alloc(1000, 97 + i))),
      );
      for (let i = 0; i < 20; i++) {
        expect((await file.read(i * 1000, 1000)).equals(Buffer.alloc(1000, 97 + i))).toBe(true);
      }
    });

    test('what is written at once is there, next to what was written before', async () => {
      const bytes = Buffer.alloc(100_000, 'pattern');
      await using file = await fs.open(at('now'), 'create');
      await file.write(0, Buffer.from('first'));
      if (file.writeNow) file.writeNow(5, bytes);
      else await file.write(5, bytes);
      expect(
        (await file.read(0, 5 + bytes.length)).equals(Buffer.concat([Buffer.from('first'), bytes])),
      ).toBe(true);
      await using readOnly = await fs.open(at('now'), 'read');
      if (readOnly.writeNow) expect(() => readOnly.writeNow?.(0, bytes)).toThrow('EBADF');
    });

    test('opening says what is wrong', async () => {
      await put(at('here'), 'x');
      expect(await codeOf(fs.open(at('none'), 'read'))).toBe('ENOENT');
      expect(await codeOf(fs.open(at('none'), 'update'))).toBe('ENOENT');
      expect(await codeOf(fs.open(at('here'), 'create'))).toBe('EEXIST');
      expect(await codeOf(fs.open(at('none', 'below'), 'create'))).toBe('ENOENT');
    });

    test('update keeps the content, replace empties it, read refuses writes', async () => {
      await put(at('f'), 'first');
      await using updated = await fs.open(at('f'), 'update');
      await updated.write(0, Buffer.from('F'));
      expect(await textOf(at('f'))).toBe('First');
      await using reading = await fs.open(at('f'), 'read');
      expect(await codeOf(reading.write(0, Buffer.from('x')))).toBe('EBADF');
      await using replaced = await fs.open(at('f'), 'replace');
      expect(await replaced.sizeBytes()).toBe(0);
      expect(await textOf(at('f'))).toBe('');
    });

    test('truncate cuts and extends with zeros', async () => {
      await using file = await fs.open(at('t'), 'create');
      await file.write(0, Buffer.from('abcdef'));
      await file.truncate(3);
      await file.truncate(5);
      expect((await file.read(0, 10)).toString('latin1')).toBe('abc\0\0');
    });

    test('close may be called twice, and ends the use of the file', async () => {
      const file = await fs.open(at('c'), 'create');
      await file.close();
      await file.close();
      await file[Symbol.asyncDispose]();
      expect(await codeOf(file.write(0, Buffer.from('x')))).not.toBe('none');
    });

    test('many files are synced together, and few as well; one that is not there is told', async () => {
      for (const count of [2, 40]) {
        await fs.makeFolder(at(`of-${count}`));
        const files = Array.from({ length: count }, (_, i) => at(`of-${count}`, `f${i}`));
        for (const path of files) await put(path, path);
        await fs.syncAll({ files, folders: [at(`of-${count}`), folder] });
        for (const path of files) expect(await textOf(path)).toBe(path);
      }
      await fs.syncAll({ files: [], folders: [] });
      expect(await codeOf(fs.syncAll({ files: [at('none')], folders: [] }))).toBe('ENOENT');
    });

    test('rename replaces; an open file stays what it was', async () => {
      await put(at('old'), 'old');
      await put(at('new'), 'new');
      await using old = await fs.open(at('old'), 'read');
      await fs.rename(at('new'), at('old'));
      expect(await textOf(at('old'))).toBe('new');
      expect((await old.read(0, 10)).toString()).toBe('old');
      expect(await fs.stat(at('new'))).toBeUndefined();
      expect(await codeOf(fs.rename(at('new'), at('old')))).toBe('ENOENT');
    });

    test('a removed file is gone, a missing one is an error', async () => {
      await put(at('r'), 'x');
      await fs.remove(at('r'));
      expect(await codeOf(fs.remove(at('r')))).toBe('ENOENT');
      expect(await codeOf(fs.open(at('r'), 'read'))).toBe('ENOENT');
    });

    test('folders are listed by name, and removed when empty', async () => {
      await fs.makeFolder(at('z'));
      await put(at('b'), '1');
      await put(at('a'), '22');
      await put(at('z', 'inner'), '333');
      expect(await fs.list(folder)).toEqual([
        { name: 'a', kind: 'file' },
        { name: 'b', kind: 'file' },
        { name: 'z', kind: 'folder' },
      ]);
      expect(await fs.stat(at('z', 'inner'))).toEqual({ kind: 'file', sizeBytes: 3 });
      expect((await fs.stat(at('z')))?.kind).toBe('folder');
      expect(await codeOf(fs.makeFolder(at('z')))).toBe('EEXIST');
      expect(await codeOf(fs.makeFolder(at('y', 'x')))).toBe('ENOENT');
      expect(await codeOf(fs.removeFolder(at('z')))).toBe('ENOTEMPTY');
      await fs.remove(at('z', 'inner'));
      await fs.removeFolder(at('z'));
      expect(await codeOf(fs.list(at('z')))).toBe('ENOENT');
      expect(await codeOf(fs.removeFolder(at('z')))).toBe('ENOENT');
      await fs.syncFolder(folder);
    });

    test('many small files are read at once; one that fails is an error of its own', async () => {
      await put(at('s1'), 'one');
      await put(at('s2'), 'x'.repeat(200_000));
      await put(at('s3'), '');
      const [one, missing, two, three] = await fs.readFiles([at('s1'), at('gone'), at('s2'), at('s3')]);
      expect(one).toEqual(Buffer.from('one'));
      expect(hasCode(missing, 'ENOENT')).toBe(true);
      expect((two as Buffer).toString()).toBe('x'.repeat(200_000));
      expect(three).toEqual(Buffer.alloc(0));
    });

    test('whole files are written anew, small and large', async () => {
      await put(at('w1'), 'longer than what comes');
      const large = Buffer.alloc(300_000, 7);
      await fs.writeFiles([
        { path: at('w1'), bytes: Buffer.from('one') },
        { path: at('w2'), bytes: large },
        { path: at('w3'), bytes: Buffer.alloc(0) },
      ]);
      expect(await textOf(at('w1'))).toBe('one');
      const [second, third] = await fs.readFiles([at('w2'), at('w3')]);
      // To look at each byte takes seconds.
      expect(large.equals(second as Buffer)).toBe(true);
      expect(third).toEqual(Buffer.alloc(0));
      const first = { path: at('w4'), bytes: Buffer.from('4') };
      expect(await codeOf(fs.writeFiles([first, { path: at('none', 'w5'), bytes: Buffer.from('5') }]))).toBe(
        'ENOENT',
      );
      expect(await textOf(at('w4'))).toBe('4');
    });

    test('free space is a number of bytes', async () => {
      expect(await fs.freeBytes(folder)).toBeGreaterThan(0);
    });

    test('makeFolders makes what is missing and leaves what is there', async () => {
      expect(await makeFolders(fs, folder, ['m', 'n'])).toBe(at('m', 'n'));
      await put(at('m', 'n', 'file'), 'kept');
      expect(await makeFolders(fs, folder, ['m', 'n', 'o'])).toBe(at('m', 'n', 'o'));
      expect(await textOf(at('m', 'n', 'file'))).toBe('kept');
    });

    test('writeFileAtomically replaces a file and leaves nothing beside it', async () => {
      await put(at(`w${TEMPORARY_SUFFIX}`), 'left by a crash, longer than the new one');
      await writeFileAtomically(fs, at('w'), Buffer.from('one'));
      await writeFileAtomically(fs, at('w'), Buffer.from('two'));
      expect(await textOf(at('w'))).toBe('two');
      expect(await fs.list(folder)).toEqual([{ name: 'w', kind: 'file' }]);
    });

    test('writeZeros fills a range, and stops when told', async () => {
      await using file = await fs.open(at('zeros'), 'create');
      await file.write(0, Buffer.from('head'));
      await writeZeros(file, 4, 700_000);
      expect(await file.sizeBytes()).toBe(700_000);
      expect((await file.read(0, 700_000)).subarray(4).every((byte) => byte === 0)).toBe(true);
      await expect(writeZeros(file, 0, 10, AbortSignal.abort(new Error('stop')))).rejects.toThrow('stop');
    });
  });
}

/** Of the loop that both share. */
export function testWriteFully(): void {
  test('a write that takes fewer bytes is repeated for the rest', async () => {
    const taken: string[] = [];
    await writeFully(Buffer.from('abcdefgh'), async (part, doneBytes) => {
      taken.push(`${doneBytes}:${Buffer.from(part).toString()}`);
      return Math.min(3, part.length);
    });
    expect(taken).toEqual(['0:abcdefgh', '3:defgh', '6:gh']);
  });

  test('a device that takes nothing is an error, not an endless loop', async () => {
    await expect(writeFully(Buffer.from('x'), async () => 0)).rejects.toThrow('took no bytes');
  });
}
