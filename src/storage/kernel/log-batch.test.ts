import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { damage, damaged, bitsOf } from './columns.suite.ts';
import { type Address } from './kernel.ts';
import { checked } from './kernel-fault.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import * as plain from './log-batch.ts';

const harness = new KernelHarness();
const { kernel } = harness;
const { calls } = kernel;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const LIMITS = { maxReference: 5000, capacity: 500 };

afterEach(() => expect(calls.usedPages()).toBe(0));

function encode(state: Address, restarts: boolean, samples: readonly plain.LogSample[]): Uint8Array {
  // A sample of a series that was refused must leave no trace.
  const all = [{ reference: -14, time: 99n, value: 99n }, ...samples];
  const size = checked(
    calls.encodeLogSamples(
      state,
      restarts ? 1 : 0,
      harness.put(0, Uint32Array.from(all.flatMap((_, i) => [0, 0, i, 1]))),
      all.length,
      harness.put(
        1,
        Int32Array.from(all, ({ reference }) => reference),
      ),
      harness.put(
        2,
        BigInt64Array.from(all, ({ time }) => time),
      ),
      harness.put(
        3,
        BigUint64Array.from(all, ({ value }) => value),
      ),
      harness.region(4),
    ),
  );
  expect(size).toBeLessThanOrEqual(calls.maxLogSamplesBytes(samples.length));
  return harness.take(harness.region(4), size);
}

function decode(state: Address, bytes: Uint8Array): plain.LogSample[] {
  const [references, times, values] = [harness.region(1), harness.region(2), harness.region(3)];
  const { maxReference, capacity } = LIMITS;
  const count = checked(
    calls.decodeLogSamples(
      state,
      harness.put(0, bytes),
      bytes.length,
      maxReference,
      references,
      times,
      values,
      capacity,
    ),
  );
  const allReferences = new Uint32Array(harness.take(references, count * 4).buffer);
  const allTimes = new BigInt64Array(harness.take(times, count * 8).buffer);
  const allValues = new BigUint64Array(harness.take(values, count * 8).buffer);
  return Array.from(allReferences, (reference, i) => ({
    reference,
    time: allTimes[i] ?? 0n,
    value: allValues[i] ?? 0n,
  }));
}

const sample = fc.record({
  reference: fc.oneof(fc.nat(5), fc.nat(4999)),
  time: fc.oneof(
    fc.nat(3).map((ms) => 1_700_000_000_000_000_000n + BigInt(ms) * 1_000_000n),
    fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
  ),
  value: fc.oneof(
    fc.integer({ min: 0, max: 1000 }).map(bitsOf),
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    fc.nat(7).chain((i) => fc.nat(255).map((byte) => BigInt(byte) << BigInt(8 * i))),
  ),
});

/** Batches, some of which start anew. */
const log = fc.array(fc.record({ restarts: fc.boolean(), samples: fc.array(sample, { maxLength: 40 }) }), {
  minLength: 1,
  maxLength: 6,
});

test('kernel and plain counterpart write the same batches and read back what was written', () => {
  fc.assert(
    fc.property(log, (batches) => {
      const [writer, reader] = [calls.createLogState(), calls.createLogState()];
      const [plainWriter, plainReader] = [new plain.LogState(), new plain.LogState()];
      for (const { restarts, samples } of batches) {
        const bytes = encode(writer, restarts, samples);
        expect(hex(bytes)).toBe(hex(plain.encodeLogSamples(plainWriter, restarts, samples)));
        expect(decode(reader, bytes)).toEqual(samples);
        expect(plain.decodeLogSamples(plainReader, bytes, LIMITS)).toEqual(samples);
      }
      calls.freeLogState(writer);
      calls.freeLogState(reader);
    }),
    { numRuns: 200 },
  );
});

test('a damaged batch is refused by both for the same reason, or read alike by both; a restart heals', () => {
  fc.assert(
    fc.property(log, damage, (batches, how) => {
      const state = calls.createLogState();
      const [plainWriter, plainState] = [new plain.LogState(), new plain.LogState()];
      for (const { restarts, samples } of batches) {
        const bytes = damaged(plain.encodeLogSamples(plainWriter, restarts, samples), how);
        const expected = plainOutcome(plainState, bytes);
        if ('fault' in expected) expect(faultOf(() => decode(state, bytes))).toBe(expected.fault);
        else expect(decode(state, bytes)).toEqual(expected.samples);
        const whole = plain.encodeLogSamples(plainWriter, true, samples);
        expect(decode(state, whole)).toEqual(samples);
        plain.decodeLogSamples(plainState, whole, LIMITS);
      }
      calls.freeLogState(state);
    }),
    { numRuns: 300 },
  );
});

function plainOutcome(
  state: plain.LogState,
  bytes: Uint8Array,
): { fault: string } | { samples: plain.LogSample[] } {
  let samples: plain.LogSample[] = [];
  const fault = faultOf(() => {
    samples = plain.decodeLogSamples(state, bytes, LIMITS);
  });
  return fault === undefined ? { samples } : { fault };
}

test('the second scrape of series in the same order takes a byte a sample, and what changed', () => {
  const state = calls.createLogState();
  const scrape = (ms: number, value: number): plain.LogSample[] =>
    [5, 9, 3, 11].map((reference) => ({ reference, time: BigInt(ms) * 1_000_000n, value: bitsOf(value) }));
  encode(state, true, scrape(1000, 1));
  // Kind, count; four heads; the first series and time; one byte that differs in each value.
  expect(encode(state, false, scrape(1000, 1.5))).toHaveLength(2 + 4 + 1 + 2 + 4);
  expect(encode(state, false, scrape(1000, 1.5))).toHaveLength(2 + 4 + 1 + 2);
  calls.freeLogState(state);
});

test('the bytes of format version 1 stay what they are', () => {
  const state = calls.createLogState();
  const samples = [
    { reference: 2, time: 3_000_000n, value: bitsOf(1) },
    { reference: 3, time: 3_000_001n, value: bitsOf(-0) },
  ];
  expect(hex(encode(state, true, samples))).toBe('02028f040cf03f9202010000000000000080');
  calls.freeLogState(state);
});
