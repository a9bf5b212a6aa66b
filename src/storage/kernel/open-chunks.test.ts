import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { APPEND_RESULT, type Address, ENTRY } from './kernel.ts';
import { checked } from './kernel-fault.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import { type LogSample } from './log-batch.ts';
import { OpenChunks } from './open-chunks.ts';

const harness = new KernelHarness();
const { kernel } = harness;
const { calls } = kernel;

afterEach(() => expect(calls.usedPages()).toBe(0));

function append(chunks: Address, samples: readonly LogSample[], target = harness): (string | undefined)[] {
  const entries = samples.flatMap((_, i) => [0, 0, i, 1]);
  const refused = target.kernel.calls.appendSamples(
    chunks,
    target.put(0, Uint32Array.from(entries)),
    entries.length / ENTRY.length,
    target.put(
      1,
      Int32Array.from(samples, ({ reference }) => reference),
    ),
    target.put(
      2,
      BigInt64Array.from(samples, ({ time }) => time),
    ),
    target.put(
      3,
      BigUint64Array.from(samples, ({ value }) => value),
    ),
    target.region(4),
  );
  const results = Array.from(
    target.take(target.region(4), samples.length),
    (result) => APPEND_RESULT[result],
  );
  expect(refused).toBe(results.filter((result) => result !== 'appended').length);
  return results;
}

function read(chunks: Address, reference: number, capacity = 60_000): LogSample[] {
  const [times, values] = [harness.region(1), harness.region(2)];
  const count = checked(calls.readChunk(chunks, reference, times, values, capacity));
  const allTimes = new BigInt64Array(harness.take(times, count * 8).buffer);
  const allValues = new BigUint64Array(harness.take(values, count * 8).buffer);
  return Array.from(allTimes, (time, i) => ({ reference, time, value: allValues[i] ?? 0n }));
}

const START = 1_000_000n;
const END = START + 100_000n;

/** Mostly regular samples of a few series, with gaps, returns, strays, and refused series between. */
const samples = fc
  .array(
    fc.record({
      reference: fc.oneof(
        { weight: 9, arbitrary: fc.nat(2) },
        { weight: 1, arbitrary: fc.constantFrom(-1, -14, 5000) },
      ),
      move: fc.oneof(
        { weight: 30, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.integer({ min: -300, max: 300 }) },
        { weight: 1, arbitrary: fc.integer({ min: -200_000, max: 200_000 }) },
      ),
      value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    }),
    { maxLength: 400 },
  )
  .map((all) => {
    const ticks = new Map<number, number>();
    return all.map(({ reference, move, value }) => {
      const tick = ticks.get(reference) ?? 0;
      ticks.set(reference, tick + 1);
      return { reference, time: START + BigInt(tick * 100 + move), value };
    });
  });

test('kernel and plain counterpart take and refuse the same samples, and give back what they took', () => {
  fc.assert(
    fc.property(samples, fc.integer({ min: 1, max: 100 }), (all, batch) => {
      const chunks = calls.createChunks(START, END);
      const plain = new OpenChunks(START, END);
      for (let from = 0; from < all.length; from += batch) {
        const some = all.slice(from, from + batch);
        expect(append(chunks, some)).toEqual(some.map((sample) => plain.append(sample)));
      }
      let total = 0;
      for (const reference of [0, 1, 2, 3, 5000]) {
        expect(read(chunks, reference)).toEqual(plain.samplesOf(reference));
        expect(calls.chunkCount(chunks, reference)).toBe(plain.samplesOf(reference).length);
        total += plain.samplesOf(reference).length;
      }
      expect(calls.chunksSamples(chunks)).toBe(total);
      calls.freeChunks(chunks);
      expect(calls.usedPages()).toBe(0);
    }),
    { numRuns: 200 },
  );
});

test('five thousand samples of one series, regular and then not, are given back', () => {
  const chunks = calls.createChunks(0n, 1n << 60n);
  const all = Array.from({ length: 5000 }, (_, i) => ({
    reference: 7,
    time: BigInt(i * 1000 + (i < 2000 ? 0 : i % 7)),
    value: BigInt(i),
  }));
  for (let from = 0; from < all.length; from += 1000) append(chunks, all.slice(from, from + 1000));
  expect(read(chunks, 7)).toEqual(all);
  expect(faultOf(() => read(chunks, 7, 4999))).toBe('TOO_LARGE');
  calls.freeChunks(chunks);
});

test('a series of a dozen regular samples takes 160 bytes', () => {
  const chunks = calls.createChunks(0n, 1n << 60n);
  for (let i = 0; i < 12; i++) {
    append(
      chunks,
      Array.from({ length: 4000 }, (_, reference) => ({
        reference,
        time: BigInt(i * 15_000),
        value: BigInt(i),
      })),
    );
  }
  // Two pages of lines, eight of pieces, and the set's own.
  expect(calls.usedPages()).toBe(11);
  calls.freeChunks(chunks);
});

test('when memory ends samples are refused, and those before are kept', () => {
  const small = new KernelHarness(8 << 20);
  const chunks = small.kernel.calls.createChunks(0n, 1n << 60n);
  const refused = new Set<string | undefined>();
  for (let from = 0; from < 40_000 && refused.size === 0; from += 1000) {
    const results = append(
      chunks,
      Array.from({ length: 1000 }, (_, i) => ({ reference: from + i, time: 5n, value: 1n })),
      small,
    );
    for (const result of results) if (result !== 'appended') refused.add(result);
  }
  expect([...refused]).toEqual(['no memory']);
  expect(small.kernel.calls.chunkCount(chunks, 0)).toBe(1);
});
