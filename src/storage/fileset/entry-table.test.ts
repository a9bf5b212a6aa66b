import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { EntryTable } from './entry-table.ts';
import { FileDamageError } from './fileset-damage.ts';
import type { IndexEntry } from './index-pages.ts';

const START = 16;
const payloads = ['one', 'two', 'three', '', 'five'].map((text) => Buffer.from(text));
const bytes = Buffer.concat(payloads);

/** Two pages, of two and three entries; of the first format version they have no checksum of their payloads. */
function tableOf(version: 1 | 2): EntryTable {
  const table = new EntryTable('data.db', payloads.length);
  let offset = START;
  const entries = payloads.map((payload): IndexEntry => {
    const entry = { id: payload, offset, sizeBytes: payload.length, checksum: crc32(payload) };
    offset += payload.length;
    return entry;
  });
  for (const [from, to] of [
    [0, 2],
    [2, 5],
  ] as const) {
    const checksum = crc32(Buffer.concat(payloads.slice(from, to)));
    expect(table.addPage(entries.slice(from, to), version === 1 ? undefined : checksum)).toBe(true);
  }
  return table;
}

const runOf = (content: Buffer): Parameters<EntryTable['check']>[0] => ({
  bytes: content,
  startOffset: START,
  firstEntry: 0,
  endEntry: payloads.length,
});

test('pages are found by their entries, and payloads by their places', () => {
  const table = tableOf(2);
  expect(table.isWhole).toBe(true);
  expect([0, 1, 2, 3, 4].map((entry) => table.pageOf(entry))).toEqual([0, 0, 1, 1, 1]);
  expect([...table.offsets]).toEqual([16, 19, 22, 27, 27, 31]);
  expect(table.addPage([{ id: bytes, offset: 31, sizeBytes: 1, checksum: 0 }], 0)).toBe(false);
});

test.each([1, 2] as const)(
  'version %i: what is intact is accepted, and damage is told with its place',
  (version) => {
    const table = tableOf(version);
    table.check(runOf(bytes), 0, 2);
    for (let at = 0; at < bytes.length; at++) {
      const damaged = Buffer.from(bytes);
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      const entry = [0, 1, 2, 3, 4].findLast((one) => (table.offsets[one] ?? 0) <= START + at) ?? 0;
      const error = outcome(() => table.check(runOf(damaged), 0, 2));
      expect(error).toBeInstanceOf(FileDamageError);
      expect(error).toMatchObject({ damage: { file: 'data.db', offset: table.offsets[entry] } });
    }
    expect(outcome(() => table.check(runOf(bytes.subarray(0, -1)), 0, 2))).toBeInstanceOf(FileDamageError);
  },
);

function outcome(work: () => void): unknown {
  try {
    work();
    return undefined;
  } catch (error) {
    return error;
  }
}
