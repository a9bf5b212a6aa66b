import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { bitsOf } from './columns.suite.ts';
import { type Address, ENTRY, NO_VERSION } from './kernel.ts';
import { checked } from './kernel-fault.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import { type LogSample } from './log-batch.ts';
import { murmur3 } from './murmur3.ts';
import { OpenChunks, type OpenSample } from './open-chunks.ts';
import { labelBytes } from './remote-write.suite.ts';

const harness = new KernelHarness();
const { kernel } = harness;
const { calls } = kernel;
const CAPACITY = 60_000;
const late = kernel.allocate(CAPACITY * 8);
const replaced = kernel.allocate(CAPACITY * 16);
const versionsRegion = kernel.allocate(CAPACITY * 8);
const [readTimes, readValues] = [kernel.allocate(CAPACITY * 8 + 64), kernel.allocate(CAPACITY * 8 + 64)];

afterEach(() => expect(calls.usedPages()).toBe(0));

/** Appends samples as one write, half of the times as rows; puts series in order that are due. */
function append(chunks: Address, samples: readonly LogSample[], version: bigint, target = harness): number {
  const { calls } = target.kernel;
  const references = target.put(
    1,
    Int32Array.from(samples, ({ reference }) => reference),
  );
  const times = target.put(
    2,
    BigInt64Array.from(samples, ({ time }) => time),
  );
  const values = target.put(
    3,
    BigUint64Array.from(samples, ({ value }) => value),
  );
  const count = samples.length;
  if (version % 2n === 0n) calls.appendRows(chunks, count, references, times, values, version);
  else {
    const entries = target.put(0, Uint32Array.from(samples.flatMap((_, i) => [0, 0, i, 1])));
    calls.appendSamples(chunks, entries, count, references, times, values, version);
  }
  const refused = calls.appendedRefused();
  for (let due = calls.takeDue(chunks); due >= 0; due = calls.takeDue(chunks)) merge(chunks, due);
  return refused;
}

function merge(chunks: Address, reference: number): number {
  return checked(calls.mergeLate(chunks, reference, readTimes, readValues, CAPACITY, late));
}

function read(chunks: Address, reference: number, capacity = CAPACITY): OpenSample[] {
  const count = checked(calls.readSeries(chunks, reference, readTimes, readValues, capacity, late, replaced));
  const times = new BigInt64Array(harness.take(readTimes, count * 8).buffer);
  const values = new BigUint64Array(harness.take(readValues, count * 8).buffer);
  const marks = new BigInt64Array(harness.take(replaced, calls.readOverwrites() * 16).buffer);
  const versions = new Map<number, bigint>();
  for (let i = 0; i < marks.length; i += 2) versions.set(Number(marks[i]), marks[i + 1] ?? 0n);
  expect(versions.size).toBe(calls.readOverwrites());
  return Array.from(times, (time, i) => {
    const version = versions.get(i);
    return { time, value: values[i] ?? 0n, ...(version === undefined ? {} : { version }) };
  });
}

function insert(chunks: Address, reference: number, samples: readonly OpenSample[]): void {
  kernel.bytes.set(
    new Uint8Array(BigInt64Array.from(samples, ({ version }) => version ?? NO_VERSION).buffer),
    versionsRegion,
  );
  const times = harness.put(
    2,
    BigInt64Array.from(samples, ({ time }) => time),
  );
  const values = harness.put(
    3,
    BigUint64Array.from(samples, ({ value }) => value),
  );
  checked(
    calls.insertSamples(
      chunks,
      reference,
      times,
      values,
      versionsRegion,
      samples.length,
      readTimes,
      readValues,
      CAPACITY,
      late,
      replaced,
    ),
  );
}

function cut(chunks: Address, reference: number, from: bigint, to: bigint): number {
  return checked(calls.cutSeries(chunks, reference, from, to, readTimes, readValues, CAPACITY));
}

const START = 1_000_000n;
const END = START + 100_000n;

type Step =
  | { readonly kind: 'write'; readonly moves: readonly Move[] }
  | { readonly kind: 'cut'; readonly from: number; readonly size: number; readonly reference: number }
  | { readonly kind: 'merge'; readonly reference: number }
  | { readonly kind: 'insert'; readonly reference: number; readonly samples: readonly Inserted[] };

interface Move {
  readonly reference: number;
  readonly move: number;
  readonly value: bigint;
}

interface Inserted {
  readonly tick: number;
  readonly value: bigint;
  readonly replaces: boolean;
}

const value = fc.oneof(
  { weight: 3, arbitrary: fc.bigInt({ min: 0n, max: 2n }) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
);
const reference = fc.nat(2);
const move: fc.Arbitrary<Move> = fc.record({
  reference: fc.oneof(
    { weight: 12, arbitrary: reference },
    { weight: 1, arbitrary: fc.constantFrom(-1, -14, 5000) },
  ),
  move: fc.oneof(
    { weight: 20, arbitrary: fc.constant(0) },
    { weight: 2, arbitrary: fc.integer({ min: -3, max: 3 }).map((steps) => steps * 100) },
    { weight: 1, arbitrary: fc.integer({ min: -300, max: 300 }) },
    { weight: 1, arbitrary: fc.integer({ min: -200_000, max: 200_000 }) },
  ),
  value,
});
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      moves: fc.array(move, { maxLength: 250, size: 'max' }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('merge' as const), reference }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('cut' as const),
      from: fc.nat(20_000),
      size: fc.nat(5000),
      reference,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('insert' as const),
      reference,
      samples: fc.uniqueArray(fc.record({ tick: fc.nat(400), value, replaces: fc.boolean() }), {
        selector: ({ tick }) => tick,
        maxLength: 50,
      }),
    }),
  },
);

test('kernel and plain counterpart agree on what is there after any writes, late ones, deletions and insertions', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 14 }), fc.boolean(), (steps, cold) => {
      const chunks = calls.createChunks(START, END, cold ? 1 : 0);
      try {
        const plain = new OpenChunks(START, END, cold);
        const ticks = new Map<number, number>();
        let version = 10n;
        for (const one of steps) {
          version += 1n;
          if (one.kind === 'write') {
            const samples = one.moves.map((sample) => {
              const tick = ticks.get(sample.reference) ?? 0;
              ticks.set(sample.reference, tick + 1);
              return { ...sample, time: START + BigInt(tick * 100 + sample.move) };
            });
            expect(append(chunks, samples, version)).toBe(0);
            for (const sample of samples) plain.append(sample, version);
          } else if (one.kind === 'merge') merge(chunks, one.reference);
          else if (one.kind === 'cut') {
            const [from, to] = [START + BigInt(one.from), START + BigInt(one.from + one.size)];
            cut(chunks, one.reference, from, to);
            plain.cut(one.reference, from, to);
          } else {
            const sorted = [...one.samples].sort((a, b) => a.tick - b.tick);
            const samples = sorted.map(({ tick, value, replaces }) => ({
              time: START + BigInt(tick * 100),
              value,
              ...(replaces || cold ? { version } : {}),
            }));
            if (samples.length > 0) insert(chunks, one.reference, samples);
            plain.insert(one.reference, samples);
          }
        }
        for (const one of [0, 1, 2, 3, 5000]) expect(read(chunks, one)).toEqual(plain.read(one));
      } finally {
        calls.freeChunks(chunks);
      }
      expect(calls.usedPages()).toBe(0);
    }),
    { numRuns: 300 },
  );
});

test('five thousand samples of one series, regular and then not, are given back', () => {
  const chunks = calls.createChunks(0n, 1n << 60n, 0);
  const all = Array.from({ length: 5000 }, (_, i) => ({
    reference: 7,
    time: BigInt(i * 1000 + (i < 2000 ? 0 : i % 7)),
    value: BigInt(i),
  }));
  for (let from = 0; from < all.length; from += 1000) append(chunks, all.slice(from, from + 1000), 1n);
  expect(read(chunks, 7)).toEqual(all.map(({ time, value }) => ({ time, value })));
  expect(faultOf(() => read(chunks, 7, 4999))).toBe('TOO_LARGE');
  expect([calls.chunksOrdered(chunks), calls.chunksLate(chunks)]).toEqual([5000, 0]);
  calls.freeChunks(chunks);
});

test('samples that come in reverse are put in order, and take no more than a few bytes each', () => {
  const chunks = calls.createChunks(0n, 1n << 60n, 0);
  const all = Array.from({ length: 20_000 }, (_, i) => ({
    reference: 1,
    time: BigInt((20_000 - i) * 1000),
    value: BigInt(i),
  }));
  for (let from = 0; from < all.length; from += 500)
    append(chunks, all.slice(from, from + 500), BigInt(from));
  const sorted = all.reverse().map(({ time, value }) => ({ time, value }));
  expect(read(chunks, 1)).toEqual(sorted);
  expect(calls.chunksLate(chunks)).toBeLessThan(12_000);
  merge(chunks, 1);
  expect(calls.chunksLate(chunks)).toBe(0);
  expect(read(chunks, 1)).toEqual(sorted);
  calls.freeChunks(chunks);
});

test('a series of a dozen regular samples takes 160 bytes', () => {
  const chunks = calls.createChunks(0n, 1n << 60n, 0);
  for (let i = 0; i < 12; i++) {
    append(
      chunks,
      Array.from({ length: 4000 }, (_, reference) => ({
        reference,
        time: BigInt(i * 15_000),
        value: BigInt(i),
      })),
      1n,
    );
  }
  // Two pages of lines, eight of pieces, and the set's own.
  expect(calls.usedPages()).toBe(11);
  expect(calls.chunksPages(chunks)).toBe(11);
  calls.freeChunks(chunks);
});

test('series of 480 regular samples take less than 4 bytes a sample, most of them for the open piece', () => {
  const chunks = calls.createChunks(0n, 1n << 60n, 0);
  const series = 1000;
  for (let i = 0; i < 480; i++) {
    append(
      chunks,
      Array.from({ length: series }, (_, reference) => ({
        reference,
        time: BigInt(i * 15_000),
        value: bitsOf(i * 37 + reference),
      })),
      1n,
    );
  }
  expect((calls.usedPages() * 65_536) / (480 * series)).toBeLessThan(4);
  calls.freeChunks(chunks);
});

test('series are listed by shard, and sorted by the bytes of their labels', () => {
  const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 20, unit: 'binary' }), { maxLength: 40 });
  fc.assert(
    fc.property(names, fc.integer({ min: 1, max: 5 }), (all, shards) => {
      const table = calls.createSeriesTable(100, 1n);
      const chunks = calls.createChunks(0n, 1n << 60n, 0);
      try {
        const labels = all.map((name) => labelBytes([['a', name]]));
        for (const one of labels) checked(calls.resolveLabels(table, harness.put(0, one), one.length, 1));
        const written = labels.flatMap((_, reference) => (reference % 4 === 3 ? [] : [reference]));
        append(
          chunks,
          written.map((reference) => ({ reference, time: 5n, value: 1n })),
          1n,
        );
        const out = harness.region(0);
        const found = Array.from({ length: shards }, (_, shard) => {
          const count = calls.listSeries(chunks, table, shard, shards, out);
          calls.sortSeries(table, out, count, harness.region(1));
          return [...new Uint32Array(harness.take(out, count * 4).buffer)];
        });
        const shardOf = (reference: number): number =>
          murmur3(labels[reference] ?? new Uint8Array(), 0) % shards;
        const inOrder = [...written].sort((a, b) =>
          Buffer.compare(labels[a] ?? new Uint8Array(), labels[b] ?? new Uint8Array()),
        );
        expect(found).toEqual(
          found.map((_, shard) => inOrder.filter((reference) => shardOf(reference) === shard)),
        );
      } finally {
        calls.freeChunks(chunks);
        calls.freeSeriesTable(table);
      }
    }),
    { numRuns: 40 },
  );
});

test('when memory ends samples are refused, and those before are kept', () => {
  const small = new KernelHarness(8 << 20);
  const chunks = small.kernel.calls.createChunks(0n, 1n << 60n, 0);
  let refused = 0;
  for (let from = 0; from < 40_000 && refused === 0; from += 1000) {
    const samples = Array.from({ length: 1000 }, (_, i) => ({ reference: from + i, time: 5n, value: 1n }));
    refused = append(chunks, samples, 1n, small);
  }
  expect(refused).toBeGreaterThan(0);
  expect(small.kernel.calls.seriesOrdered(chunks, 0)).toBe(1);
  expect(ENTRY.length).toBe(4);
});
