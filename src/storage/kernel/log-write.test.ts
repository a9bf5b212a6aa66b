import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { damage, damaged, bitsOf } from './columns.suite.ts';
import { LOG_RESTART, MAX_SERIES, RECORD, type Address } from './kernel.ts';
import { checked } from './kernel-fault.ts';
import { KernelHarness, outcome } from './kernel-harness.suite.ts';
import { LogState, type LogSample } from './log-batch.ts';
import { encodeLogWrite, LogWriteReader, type LogWrite } from './log-write.ts';
import { labelBytes } from './remote-write.suite.ts';

const harness = new KernelHarness();
const { calls } = harness.kernel;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const LIMITS = { maxReference: MAX_SERIES, capacity: 500 };

afterEach(() => expect(calls.usedPages()).toBe(0));

const labels = Array.from({ length: 12 }, (_, i) => labelBytes([['a', `${i}`.repeat(i + 1)]]));

const writes = fc.array(
  fc.record({
    restart: fc.constantFrom('none', 'none', 'values', 'names'),
    samples: fc.array(
      fc.record({
        reference: fc.nat(labels.length - 1),
        time: fc.nat(9).map((ms) => BigInt(ms) * 1_000_000n),
        value: fc.nat(50).map(bitsOf),
      }),
      { maxLength: 20 },
    ),
  }),
  { minLength: 1, maxLength: 8 },
);

/** A writer with its table, in the kernel and plain, side by side. */
class Writers {
  readonly table = calls.createSeriesTable(100, 7n);
  readonly #state = calls.createLogState();
  readonly #plain = new LogState();
  readonly #named = new Set<number>();
  #epoch = 0n;
  #ordinal = 0;
  #version = 100n;

  constructor() {
    for (const one of labels) checked(calls.resolveLabels(this.table, harness.put(0, one), one.length, 1));
  }

  /** Writes with both, which have to agree. */
  write(restart: keyof typeof LOG_RESTART, samples: readonly LogSample[]): Uint8Array {
    const flags = LOG_RESTART[restart];
    const version = ++this.#version;
    if (restart === 'names') {
      this.#epoch = version;
      this.#ordinal = 0;
      this.#named.clear();
    }
    const references = samples
      .map(({ reference }) => reference)
      .filter((reference) => !this.#named.has(reference));
    for (const reference of references) this.#named.add(reference);
    const write: LogWrite = {
      flags,
      epoch: this.#epoch,
      version,
      ordinal: this.#ordinal++,
      named: [...new Set(references)].map((number) => ({
        number,
        labels: labels[number] ?? new Uint8Array(),
      })),
      samples,
    };
    const bytes = this.#encode(write);
    expect(hex(bytes)).toBe(hex(encodeLogWrite(this.#plain, write)));
    return bytes;
  }

  #encode({ flags, epoch, version, ordinal, samples }: LogWrite): Uint8Array {
    if (flags !== 0) calls.restartLogState(this.#state, flags === LOG_RESTART.names ? 1 : 0);
    const entries = harness.put(0, Uint32Array.from(samples.flatMap((_, i) => [0, 0, i, 1])));
    const references = harness.put(
      1,
      Int32Array.from(samples, ({ reference }) => reference),
    );
    const times = harness.put(
      2,
      BigInt64Array.from(samples, ({ time }) => time),
    );
    const values = harness.put(
      3,
      BigUint64Array.from(samples, ({ value }) => value),
    );
    const room =
      calls.maxLogNamesBytes(this.#state, this.table, entries, samples.length, references) +
      calls.maxLogSamplesBytes(samples.length);
    const out = harness.region(4);
    const size = checked(
      calls.encodeLogWrite(
        this.#state,
        this.table,
        flags,
        epoch,
        version,
        ordinal,
        entries,
        samples.length,
        references,
        times,
        values,
        out,
      ),
    );
    expect(size).toBeLessThanOrEqual(room);
    return harness.take(out, size);
  }

  free(): void {
    calls.freeLogState(this.#state);
    calls.freeSeriesTable(this.table);
  }
}

function read(state: Address, table: Address, bytes: Uint8Array): ReturnType<LogWriteReader['read']> {
  checked(calls.openLogWrite(state, table, harness.put(0, bytes), bytes.length));
  const capacity = calls.logMaxSamples();
  const [references, times, values] = [harness.region(1), harness.region(2), harness.region(3)];
  const from = calls.logSamplesAt();
  const count = checked(
    calls.decodeLogSamples(state, from, capacity, MAX_SERIES, references, times, values, capacity),
  );
  calls.mapReferences(state, references, count);
  const allReferences = new Int32Array(harness.take(references, count * 4).buffer);
  const allTimes = new BigInt64Array(harness.take(times, count * 8).buffer);
  const allValues = new BigUint64Array(harness.take(values, count * 8).buffer);
  return {
    version: calls.logVersion(),
    samples: Array.from(allReferences, (reference, i) => ({
      time: allTimes[i] ?? 0n,
      value: allValues[i] ?? 0n,
      labels: reference < 0 ? undefined : labelsOf(table, reference),
    })),
  };
}

function labelsOf(table: Address, reference: number): Uint8Array {
  const record = new Uint32Array(harness.take(calls.seriesRecord(table, reference), 12).buffer);
  return harness.take(record[RECORD.labels] ?? 0, record[RECORD.labelsBytes] ?? 0);
}

test('kernel and plain counterpart write the same, and a reader with other numbers reads what was written', () => {
  fc.assert(
    fc.property(writes, fc.array(fc.nat(labels.length - 1), { maxLength: 5 }), (all, known) => {
      const writers = new Writers();
      const table = calls.createSeriesTable(100, 8n);
      const state = calls.createLogState();
      try {
        for (const i of known) {
          const one = labels[i] ?? new Uint8Array();
          checked(calls.resolveLabels(table, harness.put(0, one), one.length, 1));
        }
        const plain = new LogWriteReader();
        for (const [i, { restart, samples }] of all.entries()) {
          const bytes = writers.write(i === 0 ? 'names' : restart, samples);
          const expected = plain.read(bytes, LIMITS);
          expect(expected.samples).toEqual(
            samples.map(({ reference, time, value }) => ({
              time,
              value,
              labels: Uint8Array.from(labels[reference] ?? []),
            })),
          );
          expect(read(state, table, bytes)).toEqual(expected);
        }
      } finally {
        calls.freeLogState(state);
        calls.freeSeriesTable(table);
        writers.free();
      }
    }),
    { numRuns: 100 },
  );
});

test('whatever is lost or damaged, both read the same of the rest, and refuse it for the same reason', () => {
  fc.assert(
    fc.property(writes, fc.nat(7), fc.option(damage), (all, which, how) => {
      const writers = new Writers();
      const table = calls.createSeriesTable(100, 8n);
      const state = calls.createLogState();
      try {
        const plain = new LogWriteReader();
        for (const [i, { restart, samples }] of all.entries()) {
          const whole = writers.write(i === 0 ? 'names' : restart, samples);
          if (i === which && how === null) continue;
          const bytes = i === which && how !== null ? damaged(whole, how) : whole;
          const expected = outcome(() => plain.read(bytes, LIMITS));
          const found = outcome(() => read(state, table, bytes));
          if ('fault' in expected) {
            expect(found).toEqual(expected);
            // A reader goes on at the next restart.
            plain.break();
            calls.breakLogState(state);
          } else if (expected.value.samples.every(isOfSeries)) expect(found).toEqual(expected);
          else return;
        }
      } finally {
        calls.freeLogState(state);
        calls.freeSeriesTable(table);
        writers.free();
      }
    }),
    { numRuns: 300 },
  );
});

/** Damaged labels are none: the kernel has no series for them, and the plain counterpart does not know. */
function isOfSeries({ labels: found }: { readonly labels: Uint8Array | undefined }): boolean {
  return found === undefined || labels.some((one) => hex(one) === hex(found));
}
