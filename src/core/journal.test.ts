import {
  appendFile,
  type FileHandle,
  mkdtemp,
  open,
  readFile,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Journal } from './journal.ts';

// Disks and machines that others use as well may be slow.
vi.setConfig({ testTimeout: 60_000 });

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-journal-'));
  path = join(folder, 'journal');
});
afterEach(() => rm(folder, { recursive: true }));

async function contentOf(file = path): Promise<unknown[]> {
  await using journal = await Journal.open<unknown>(file);
  return [...journal.records()];
}

/** Where a fault can be put into any open file. */
async function fileHandlePrototype(): Promise<FileHandle> {
  await using file = await open(join(folder, 'any'), 'w');
  return Object.getPrototypeOf(file) as FileHandle;
}

async function filled(...records: unknown[]): Promise<Buffer> {
  await using journal = await Journal.open<unknown>(path);
  for (const record of records) await journal.append(record);
  return readFile(path);
}

describe('a journal', () => {
  test('is empty when there is no file', async () => {
    expect(await contentOf()).toEqual([]);
  });

  test('gives back what was appended, in order, after it is opened again', async () => {
    await filled({ n: 1 }, 'zwei ü\n', [3], null);
    expect(await contentOf()).toEqual([{ n: 1 }, 'zwei ü\n', [3], null]);
  });

  test('cut at any byte holds a prefix of its records, and can be appended to', async () => {
    const whole = await filled({ n: 1 }, { n: 2, text: 'ä' }, { n: 3 });
    const lineEnds = [...whole].flatMap((byte, i) => (byte === 0x0a ? [i + 1] : []));
    for (let size = 0; size <= whole.length; size += 1) {
      await writeFile(path, whole.subarray(0, size));
      const kept = lineEnds.filter((end) => end <= size).length;
      await using journal = await Journal.open<{ n: number }>(path);
      expect(
        journal.records().map(({ n }) => n),
        `cut at ${size}`,
      ).toEqual([1, 2, 3].slice(0, kept));
      await journal.append({ n: 9 });
      expect((await contentOf()).length, `cut at ${size}`).toBe(kept + 1);
    }
  });

  test('drops a last write of which only later pages reached the disk', async () => {
    const whole = await filled({ n: 1 }, { n: 2, text: 'x'.repeat(9000) });
    const second = whole.indexOf(0x0a) + 1;
    whole.fill(0, second, second + 4096);
    await writeFile(path, whole);
    expect(await contentOf()).toEqual([{ n: 1 }]);
  });

  test('refuses damage before the last write and says at which offset', async () => {
    const whole = await filled({ n: 1 }, { n: 2 }, { n: 3 });
    const second = whole.indexOf(0x0a) + 1;
    for (let offset = second; offset < whole.indexOf(0x0a, second); offset += 1) {
      const damaged = Buffer.from(whole);
      damaged[offset] = (damaged[offset] ?? 0) ^ 0x01;
      await writeFile(path, damaged);
      await expect(Journal.open(path)).rejects.toMatchObject({
        code: 'JOURNAL_DAMAGED',
        message: `${path} is damaged at offset ${second}`,
      });
    }
  });

  test('keeps concurrent appends in the order of the calls, several in one write', async () => {
    const journal = await Journal.open<number>(path);
    const numbers = Array.from({ length: 200 }, (_, i) => i);
    await Promise.all(numbers.map((n) => journal.append(n)));
    expect(journal.records()).toEqual(numbers);
    await journal[Symbol.asyncDispose]();
    expect(await contentOf()).toEqual(numbers);
    const lines = (await readFile(path, 'utf8')).split('\n').length - 1;
    expect(lines).toBeLessThan(20);
  });

  test('compacts to what its owner keeps, while appends go on', async () => {
    const journal = await Journal.open<number>(path);
    await Promise.all([1, 2, 3].map((n) => journal.append(n)));
    const later = [
      journal.append(4),
      journal.compact((all) => all.filter((n) => n % 2 === 0)),
      journal.append(5),
    ];
    await Promise.all(later);
    await journal.append(6);
    expect(journal.records()).toEqual([2, 4, 5, 6]);
    expect(journal.sizeBytes).toBe((await readFile(path)).length);
    await journal[Symbol.asyncDispose]();
    expect(await contentOf()).toEqual([2, 4, 5, 6]);
  });

  test('ignores the file of a compaction that a crash cut short', async () => {
    await filled(1, 2);
    await writeFile(`${path}.new`, 'half a li');
    expect(await contentOf()).toEqual([1, 2]);
    await using journal = await Journal.open<number>(path);
    await journal.compact((all) => [...all]);
    expect(await contentOf()).toEqual([1, 2]);
  });

  test('holds no records in memory for an owner that does not want them', async () => {
    await filled(1, 2);
    const journal = await Journal.open<number>(path);
    journal.forgetRecords();
    await journal.append(3);
    expect(journal.records()).toEqual([]);
    await journal[Symbol.asyncDispose]();
    expect(await contentOf()).toEqual([1, 2, 3]);
  });

  test('refuses only the record that cannot be encoded', async () => {
    await using journal = await Journal.open<unknown>(path);
    const outcomes = await Promise.allSettled([journal.append(1), journal.append(2n), journal.append(3)]);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(journal.records()).toEqual([1, 3]);
  });

  test('closes once what was appended is written, and refuses what comes later', async () => {
    const journal = await Journal.open<number>(path);
    const pending = journal.append(1);
    await journal[Symbol.asyncDispose]();
    await journal[Symbol.asyncDispose]();
    await pending;
    await expect(journal.append(2)).rejects.toMatchObject({ code: 'JOURNAL_UNWRITABLE' });
    await expect(journal.compact(() => [])).rejects.toMatchObject({ code: 'JOURNAL_UNWRITABLE' });
    expect(await contentOf()).toEqual([1]);
  });

  test.each(['appendFile', 'datasync'] as const)(
    'refuses what comes after a failed %s, because it may rest on what was lost',
    async (operation) => {
      const journal = await Journal.open<number>(path);
      await journal.append(1);
      const failure = vi
        .spyOn(await fileHandlePrototype(), operation)
        .mockRejectedValueOnce(new Error('ENOSPC'));
      const outcomes = await Promise.allSettled([journal.append(2), journal.append(3)]);
      failure.mockRestore();
      expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
      await expect(journal.append(4)).rejects.toMatchObject({
        code: 'JOURNAL_UNWRITABLE',
        message: `${path} cannot be written: ENOSPC`,
      });
      await expect(journal.compact(() => [])).rejects.toMatchObject({ code: 'JOURNAL_UNWRITABLE' });
      expect(journal.records()).toEqual([1]);
      await journal[Symbol.asyncDispose]();
      expect((await contentOf())[0]).toBe(1);
    },
  );

  test('keeps its content when a compaction fails', async () => {
    await using journal = await Journal.open<number>(path);
    await journal.append(1);
    const failure = vi.spyOn(await fileHandlePrototype(), 'sync').mockRejectedValueOnce(new Error('EIO'));
    await expect(journal.compact(() => [])).rejects.toMatchObject({ code: 'JOURNAL_UNWRITABLE' });
    failure.mockRestore();
    await journal.append(2);
    expect(journal.records()).toEqual([1, 2]);
    expect(await contentOf()).toEqual([1, 2]);
  });

  test('drops a tail without a line end, and then refuses it once something follows', async () => {
    await filled(1);
    await appendFile(path, '00000000 [2]');
    expect(await contentOf()).toEqual([1]);
    await appendFile(path, '00000000 [2]\n00000000 [3]\n');
    await expect(Journal.open(path)).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
    await truncate(path, 0);
    expect(await contentOf()).toEqual([]);
  });
});
