import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { type Address, ENTRY, RECORD } from './kernel.ts';
import { checked, type KernelFaultName } from './kernel-fault.ts';
import { KernelHarness, outcome } from './kernel-harness.suite.ts';
import { murmur3 } from './murmur3.ts';
import { bytesField, encodeSample, labelBytes } from './remote-write.suite.ts';
import { SeriesTable } from './series-table.ts';

const harness = new KernelHarness();
const { kernel } = harness;
const { calls } = kernel;
const tables: Address[] = [];

function createTable(maxSeries: number): Address {
  const table = calls.createSeriesTable(maxSeries, 42n);
  tables.push(table);
  return table;
}

afterEach(() => {
  for (const table of tables.splice(0)) calls.freeSeriesTable(table);
  expect(calls.usedPages()).toBe(0);
});

function nameOrNumber(result: number): number | KernelFaultName {
  const named = outcome(() => checked(result));
  return 'fault' in named ? named.fault : named.value;
}

/** Resolves all labels at once, as those of one request. */
function resolveAll(
  table: Address,
  all: readonly Uint8Array[],
  after: number,
): { found: unknown[]; last: number } {
  const text = harness.put(0, Buffer.concat(all));
  const entries = new Uint32Array(all.length * ENTRY.length);
  let at = text;
  for (const [i, labels] of all.entries()) {
    entries[i * ENTRY.length + ENTRY.labels] = at;
    entries[i * ENTRY.length + ENTRY.labelsBytes] = labels.length;
    at += labels.length;
  }
  const references = harness.region(2);
  const last = calls.resolveSeries(table, harness.put(1, entries), all.length, references, after);
  const results = new Int32Array(harness.take(references, all.length * 4).buffer);
  return { found: Array.from(results, nameOrNumber), last };
}

/** Walks a request that is in region 0 then; returns how many series it has. */
function walk(table: Address, body: Uint8Array, after: number): number {
  return checked(
    calls.walkKnownSeries(
      table,
      after,
      harness.region(2),
      harness.put(0, body),
      body.length,
      harness.region(1),
      1000,
      harness.region(3),
      harness.region(4),
      1000,
      harness.region(5),
    ),
  );
}

function walkAndResolve(table: Address, body: Uint8Array, after: number): { found: unknown[]; last: number } {
  const count = walk(table, body, after);
  const last =
    calls.walkedUnresolved() === 0
      ? calls.walkedLast()
      : calls.resolveNew(table, harness.region(1), count, harness.region(2), after);
  const results = new Int32Array(harness.take(harness.region(2), count * 4).buffer);
  return { found: Array.from(results, nameOrNumber), last };
}

function labelsOf(table: Address, reference: number): Uint8Array {
  const record = new Uint32Array(harness.take(calls.seriesRecord(table, reference), 12).buffer);
  return harness.take(record[RECORD.labels] ?? 0, record[RECORD.labelsBytes] ?? 0);
}

const series = (i: number): Uint8Array =>
  labelBytes([
    ['__name__', `metric_${i % 7}`],
    ['instance', `host-${i}`.padEnd(8 + (i % 50), 'x')],
  ]);

describe('the series table', () => {
  const few = fc.record({
    name: fc.constantFrom('a', 'b', '', 'é'),
    value: fc.constantFrom('', '1', '2', 'x'.repeat(40)),
  });
  const pieces = fc
    .array(few, { maxLength: 3 })
    .map((all) => all.map(({ name, value }) => labelBytes([[name, value]])));
  const labels = pieces.map((all) => Uint8Array.from(Buffer.concat(all)));

  test('gives the references of the plain counterpart, whatever comes in which order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(labels, { maxLength: 12 }), { maxLength: 6 }),
        fc.nat(40),
        (requests, maxSeries) => {
          const table = createTable(maxSeries);
          const plain = new SeriesTable(maxSeries);
          let after = -1;
          for (const request of requests) {
            const { found, last } = resolveAll(table, request, after);
            expect(found).toEqual(request.map((one) => plain.resolve(one, true)));
            after = last;
          }
          expect(calls.seriesCount(table)).toBe(plain.count);
          for (const [reference, canonical] of plain.series.entries()) {
            expect(Buffer.compare(labelsOf(table, reference), canonical)).toBe(0);
          }
          calls.freeSeriesTable(tables.pop() ?? 0);
          expect(calls.usedPages()).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('gives the same references when series are found on the walk', () => {
    const sample = encodeSample({ ms: 5n, bits: 1n });
    // Some have their last label behind the sample.
    const message = fc.tuple(pieces, fc.nat(9)).map(([all, place]) => ({
      all: Uint8Array.from(Buffer.concat(all)),
      bytes: bytesField(
        1,
        Buffer.concat(place === 0 ? [...all.slice(0, -1), sample, ...all.slice(-1)] : [...all, sample]),
      ),
    }));
    const body = fc.oneof(
      fc.array(message, { maxLength: 8 }),
      message.map((one) => [one, one, one]),
    );
    fc.assert(
      fc.property(fc.array(body, { maxLength: 6 }), fc.nat(20), (requests, maxSeries) => {
        const table = createTable(maxSeries);
        const plain = new SeriesTable(maxSeries);
        let after = -1;
        for (const messages of [...requests, ...requests]) {
          const { found, last } = walkAndResolve(
            table,
            Buffer.concat(messages.map(({ bytes }) => bytes)),
            after,
          );
          expect(found).toEqual(messages.map(({ all }) => plain.resolve(all, true)));
          after = last;
        }
        expect(calls.seriesCount(table)).toBe(plain.count);
        calls.freeSeriesTable(tables.pop() ?? 0);
      }),
      { numRuns: 300 },
    );
  });

  test('makes no series while a request is walked, and knows those of the next in order', () => {
    const table = createTable(100);
    const request = (numbers: readonly number[]): Uint8Array =>
      Buffer.concat(
        numbers.map((i) => bytesField(1, Buffer.concat([series(i), encodeSample({ ms: 1n, bits: 2n })]))),
      );
    const first = request([1, 2, 3]);
    expect(walk(table, first, -1)).toBe(3);
    expect(calls.walkedUnresolved()).toBe(3);
    expect(calls.seriesCount(table)).toBe(0);
    expect(walkAndResolve(table, first, -1).found).toEqual([0, 1, 2]);
    walk(table, request([3, 9, 1]), 1);
    expect(calls.walkedUnresolved()).toBe(1);
    expect(calls.walkedLast()).toBe(0);
  });

  test('keeps the references of twenty thousand series while it grows, in and out of order', () => {
    const table = createTable(1 << 20);
    const numbers = Array.from({ length: 20_000 }, (_, i) => i);
    for (let from = 0; from < numbers.length; from += 2000) {
      const some = numbers.slice(from, from + 2000);
      expect(resolveAll(table, some.map(series), from - 1).found).toEqual(some);
    }
    for (const some of [numbers.slice(0, 2000), numbers.slice(5000, 7000).reverse(), numbers.slice(-2000)]) {
      expect(resolveAll(table, some.map(series), -1).found).toEqual(some);
    }
    expect(calls.seriesCount(table)).toBe(20_000);
  });

  test('finds a series without making it', () => {
    const table = createTable(10);
    const known = harness.put(0, series(1));
    expect(nameOrNumber(calls.resolveLabels(table, known, series(1).length, 0))).toBe('BAD_REFERENCE');
    expect(calls.resolveLabels(table, known, series(1).length, 1)).toBe(0);
    expect(calls.resolveLabels(table, known, series(1).length, 0)).toBe(0);
    expect(calls.seriesRecord(table, 1)).toBe(0);
  });

  test('refuses labels above 65,000 bytes', () => {
    const table = createTable(10);
    const long = labelBytes([['a', 'x'.repeat(65_000)]]);
    expect(nameOrNumber(calls.resolveLabels(table, harness.put(0, long), long.length, 1))).toBe('TOO_LARGE');
  });

  test('says so when memory ends, and keeps what it has', () => {
    const small = new KernelHarness(9 << 20);
    const table = small.kernel.calls.createSeriesTable(1 << 20, 1n);
    let made = 0;
    for (; ; made++) {
      const bytes = series(made);
      const result = small.kernel.calls.resolveLabels(table, small.put(0, bytes), bytes.length, 1);
      if (result < 0) {
        expect(nameOrNumber(result)).toBe('OUT_OF_MEMORY');
        break;
      }
      expect(result).toBe(made);
    }
    expect(made).toBeGreaterThan(5000);
    for (const i of [0, made >> 1, made - 1]) {
      const bytes = series(i);
      expect(small.kernel.calls.resolveLabels(table, small.put(0, bytes), bytes.length, 0)).toBe(i);
    }
    small.kernel.calls.freeSeriesTable(table);
    expect(small.kernel.calls.usedPages()).toBe(0);
  });

  test('has the hash that shards are chosen by in each record', () => {
    const table = createTable(10);
    resolveAll(table, [series(3)], -1);
    const record = new Uint32Array(harness.take(calls.seriesRecord(table, 0), 12).buffer);
    expect(record[RECORD.shardHash]).toBe(murmur3(series(3), 0));
  });
});

describe('hashes', () => {
  test.each([
    { text: '', seed: 0, hash: 0 },
    { text: '', seed: 1, hash: 0x514e28b7 },
    { text: '', seed: 0xffffffff, hash: 0x81f16f39 },
    { text: 'aaaa', seed: 0x9747b28c, hash: 0x5a97808a },
    { text: 'abc', seed: 0, hash: 0xb3dd93fa },
    { text: 'Hello, world!', seed: 0x9747b28c, hash: 0x24884cba },
    { text: 'The quick brown fox jumps over the lazy dog', seed: 0x9747b28c, hash: 0x2fa826cd },
  ])('murmur3 of "$text" with seed $seed is $hash', ({ text, seed, hash }) => {
    const bytes = Buffer.from(text);
    expect(calls.murmur3(harness.put(0, bytes), bytes.length, seed) >>> 0).toBe(hash);
    expect(murmur3(bytes, seed)).toBe(hash);
  });

  test('murmur3 of kernel and plain counterpart are the same', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 70 }), fc.integer(), (bytes, seed) => {
        expect(calls.murmur3(harness.put(0, bytes), bytes.length, seed) >>> 0).toBe(murmur3(bytes, seed));
      }),
    );
  });

  test.each([
    { text: '', hash: 0xef46db3751d8e999n },
    { text: 'a', hash: 0xd24ec4f1a98c6e5bn },
    { text: 'abc', hash: 0x44bc2cf5ad770999n },
    { text: 'Nobody inspects the spammish repetition', hash: 0xfbcea83c8a378bf1n },
  ])('xxh64 of "$text" is $hash', ({ text, hash }) => {
    const bytes = Buffer.from(text);
    expect(BigInt.asUintN(64, calls.xxh64(harness.put(0, bytes), bytes.length, 0n))).toBe(hash);
  });
});
