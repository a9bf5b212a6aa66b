import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { VarveError } from '../../core/errors.ts';
import { decodeLabels, encodeLabels, type LabelPair } from '../index/labels.ts';
import { labelMatcher } from '../index/matcher.ts';
import { bitsOf } from '../kernel/columns.suite.ts';
import { decodeTimes } from '../kernel/time-column.ts';
import { decodeValues } from '../kernel/value-column.ts';
import { bodyOf, contentOf, HOUR, keyOf, MINUTE, MS, newBuffer, newMemory, NOW } from './buffer.suite.ts';
import type { NamespaceBuffer } from './namespace-buffer.ts';

const STALE = 0x7ff0_0000_0000_0002n;
const labels = (name: string): LabelPair[] => [
  ['__name__', 'm'],
  ['instance', name],
];
const ms = (timeNs: bigint): bigint => timeNs / MS;

/** A log that keeps payloads in an array. */
function logTo(payloads: Uint8Array[]): (payload: Uint8Array) => Promise<void> {
  return (payload) => {
    payloads.push(payload.slice());
    return Promise.resolve();
  };
}

const one = (name: string, timeNs: bigint, value: number) => ({
  labels: labels(name),
  samples: [{ ms: ms(timeNs), bits: bitsOf(value) }],
});

async function write(
  buffer: NamespaceBuffer,
  series: Parameters<typeof bodyOf>[0],
  version = 1n,
  payloads: Uint8Array[] = [],
) {
  return await buffer.commit(buffer.decodeRemote(1, bodyOf(series), NOW), version, logTo(payloads));
}

function codeOf(call: () => unknown): string | undefined {
  try {
    call();
  } catch (error) {
    return (error as VarveError).code;
  }
  return undefined;
}

describe('what is written can be read', () => {
  test('every double bit for bit, by remote write 1.0 and 2.0 and as objects', async () => {
    const bits = [STALE, bitsOf(-0), bitsOf(Infinity), 0x7ff8_0000_0000_0001n, 1n, bitsOf(0.1)];
    for (const version of [1, 2] as const) {
      const buffer = newBuffer();
      const samples = bits.map((value, i) => ({ ms: ms(NOW) + BigInt(i), bits: value }));
      const batch = buffer.decodeRemote(version, bodyOf([{ labels: labels('a'), samples }], version), NOW);
      expect(await buffer.commit(batch, 1n, undefined)).toMatchObject({
        samples: 6,
        series: 1,
        rejected: [],
      });
      expect([
        ...(contentOf(buffer)
          .get(keyOf(labels('a')))
          ?.values() ?? []),
      ]).toEqual(bits.map((value) => ({ bits: value })));
    }
    const buffer = newBuffer();
    const prepared = buffer.prepare(
      [{ labels: [...labels('a')].reverse(), samples: [{ timeNs: NOW + 1n, value: 5 }] }],
      NOW,
    );
    expect(await buffer.commit(prepared, 1n, undefined)).toMatchObject({ samples: 1, series: 1 });
    expect(contentOf(buffer)).toEqual(
      new Map([[keyOf(labels('a')), new Map([[NOW + 1n, { bits: bitsOf(5) }]])]]),
    );
  });

  test('sealed columns are those of the format', async () => {
    const buffer = newBuffer();
    const samples = Array.from({ length: 300 }, (_, i) => ({
      ms: ms(NOW) + BigInt(i * 100),
      bits: bitsOf(i / 10),
    }));
    await write(buffer, [{ labels: labels('a'), samples }]);
    const [block] = buffer.blocks();
    const sealed = buffer.sealBlock(buffer.find(encodeLabels(labels('a'))), block?.startNs ?? 0n);
    expect(sealed?.count).toBe(300);
    expect([...decodeValues(sealed?.values.slice() ?? new Uint8Array(), 300)]).toEqual(
      samples.map(({ bits }) => bits),
    );
    expect([...decodeTimes(sealed?.times.slice() ?? new Uint8Array(), 300)]).toEqual(
      samples.map((sample) => sample.ms * MS),
    );
  });

  test('series of a block come in the order of their labels, each in its shard, and are found by the index', async () => {
    const buffer = newBuffer();
    const names = ['b', 'a', 'ccc', 'aa', 'd'];
    await write(
      buffer,
      names.map((name) => one(name, NOW, 1)),
    );
    const [{ startNs } = { startNs: 0n }] = buffer.blocks();
    const all = [...buffer.seriesOfBlock(startNs)].map((reference) => buffer.labelsOf(reference));
    expect(all).toEqual([...all].sort((x, y) => Buffer.compare(x, y)));
    expect(all).toHaveLength(5);
    const byShard = [0, 1, 2, 3].flatMap((shard) =>
      [...buffer.seriesOfBlock(startNs, shard)].map((reference) => {
        expect(buffer.shardOf(reference)).toBe(shard);
        return reference;
      }),
    );
    expect(new Set(byShard)).toEqual(new Set([0, 1, 2, 3, 4]));
    expect(buffer.indexSome(2)).toBe(3);
    const found = buffer.index().series({ selectors: [[labelMatcher('instance', '=~', 'a+')]] });
    expect(found.count).toBe(2);
    expect(decodeLabels(buffer.labelsOf(buffer.find(encodeLabels(labels('ccc')))))).toEqual(labels('ccc'));
    expect(buffer.find(encodeLabels(labels('none')))).toBe(-1);
  });
});

describe('what cannot be taken is told, and does not hold up the rest', () => {
  test('samples out of bounds, and labels that are none; neither makes a series', async () => {
    const buffer = newBuffer();
    const outcome = await write(buffer, [
      one('old', NOW - 11n * MINUTE, 1),
      one('good', NOW, 2),
      one('new', NOW + 3n * MINUTE, 3),
      {
        labels: [
          ['a', 'x'],
          ['a', 'y'],
        ],
        samples: [{ ms: ms(NOW), bits: 0n }],
      },
      { labels: [], samples: [{ ms: ms(NOW), bits: 0n }] },
      { labels: labels('empty'), samples: [] },
    ]);
    expect(outcome).toMatchObject({ samples: 1, series: 1 });
    expect(outcome.rejected).toEqual([
      { reason: 'tooOld', count: 1, example: '{__name__="m", instance="old"} at 2023-11-15T01:19:00.000Z' },
      { reason: 'tooNew', count: 1, example: '{__name__="m", instance="new"} at 2023-11-15T01:33:00.000Z' },
      { reason: 'invalidLabels', count: 2, example: '{a="x", a="y"}' },
    ]);
    expect(buffer.seriesCount).toBe(1);
  });

  test('with cold writes everything within retention is taken', async () => {
    const buffer = newBuffer({ coldWritesEnabled: true });
    const outcome = await write(buffer, [
      one('a', NOW - 47n * HOUR, 1),
      one('a', NOW - 49n * HOUR, 1),
      one('a', NOW, 1),
    ]);
    expect(outcome).toMatchObject({ samples: 2, rejected: [{ reason: 'tooOld', count: 1 }] });
    expect(buffer.blocks().map(({ samples }) => samples)).toEqual([1, 1]);
  });

  test('new series beyond the limit are refused, also by labels that come in another order', async () => {
    const buffer = newBuffer({ maxSeries: 2 });
    await write(buffer, [one('a', NOW, 1), one('b', NOW, 1)]);
    const outcome = await write(
      buffer,
      [one('c', NOW, 1), one('a', NOW + MS, 2), { ...one('d', NOW, 1), labels: labels('d').reverse() }],
      2n,
    );
    expect(outcome).toMatchObject({ samples: 1, series: 0, rejected: [{ reason: 'seriesLimit', count: 2 }] });
    buffer.configure({ ...buffer.options, maxSeries: 3 });
    expect(await write(buffer, [one('c', NOW, 1)], 3n)).toMatchObject({
      samples: 1,
      series: 1,
      rejected: [],
    });
  });

  test('a body that is no snappy block, or no request, changes nothing', () => {
    const buffer = newBuffer();
    expect(codeOf(() => buffer.decodeRemote(1, Buffer.from([9, 1, 2, 3]), NOW))).toBe('WRITE_INVALID');
    expect(codeOf(() => buffer.decodeRemote(2, bodyOf([]).slice(0, 0), NOW))).toBe('WRITE_INVALID');
    expect(buffer.seriesCount).toBe(0);
  });

  test('a request for very many blocks is refused, one for many is taken', async () => {
    const buffer = newBuffer({ coldWritesEnabled: true, blockSizeNs: 1000n * MS, bufferPastNs: 0n });
    const spread = (count: number, stepMs: number) => ({
      labels: labels('a'),
      samples: Array.from({ length: count }, (_, i) => ({ ms: ms(NOW) - BigInt(i * stepMs), bits: 0n })),
    });
    expect(codeOf(() => buffer.decodeRemote(1, bodyOf([spread(1001, 1000)]), NOW))).toBe('WRITE_INVALID');
    expect(buffer.seriesCount).toBe(0);
    // Far apart, but few.
    expect(await write(buffer, [spread(20, 5_000_000)])).toMatchObject({ samples: 20, rejected: [] });
    expect(buffer.blocks()).toHaveLength(20);
  });

  test('a request of very many samples and series is taken as a whole', async () => {
    const buffer = newBuffer();
    const many = Array.from({ length: 9000 }, (_, i) => one(String(i % 4500), NOW + BigInt(i) * MS, i));
    expect(await write(buffer, many)).toMatchObject({ samples: 9000, series: 4500 });
  });

  test('without memory writes are refused, what is there stays readable, and dropping a block makes room', async () => {
    const memory = newMemory(12 << 20);
    const buffer = newBuffer({}, memory);
    let series = 0;
    let refusal: unknown;
    for (; refusal === undefined && series < 400_000; series += 1000) {
      const some = Array.from({ length: 1000 }, (_, i) => one(`${series + i}`.padStart(60, 'x'), NOW, 1));
      refusal = await write(buffer, some).then(
        () => undefined,
        (error: unknown) => error,
      );
    }
    expect((refusal as VarveError).code).toBe('STORAGE_OVERLOADED');
    expect(memory.use).toMatchObject({ refusing: false });
    const [{ startNs, samples } = { startNs: 0n, samples: 0 }] = buffer.blocks();
    expect(contentOf(buffer).size).toBe(samples);
    buffer.dropBlock(startNs);
    expect(await write(buffer, [one('x', NOW, 1)])).toMatchObject({ samples: 1 });
  });
});

describe('a batch', () => {
  test('of before another one was decoded is not taken', async () => {
    const buffer = newBuffer();
    const batch = buffer.decodeRemote(1, bodyOf([one('a', NOW, 1)]), NOW);
    buffer.decodeRemote(1, bodyOf([one('b', NOW, 1)]), NOW);
    await expect(buffer.commit(batch, 1n, undefined)).rejects.toThrow('not the last');
  });

  test('that builds upon one that the log refused is not acknowledged, and the next one builds upon nothing', async () => {
    const buffer = newBuffer();
    const payloads: Uint8Array[] = [];
    await write(buffer, [one('a', NOW, 1)], 1n, payloads);
    // A log answers in the order of the appends.
    const answers: (() => void)[] = [];
    const refused = buffer.commit(
      buffer.decodeRemote(1, bodyOf([one('b', NOW, 2)]), NOW),
      2n,
      () => new Promise((_, reject) => answers.push(() => reject(new Error('full')))),
    );
    const behind = buffer.commit(
      buffer.decodeRemote(1, bodyOf([one('b', NOW + MS, 3)]), NOW),
      3n,
      (payload) => {
        payloads.push(payload.slice());
        return new Promise((resolve) => answers.push(() => resolve(undefined)));
      },
    );
    for (const answer of answers) answer();
    await expect(refused).rejects.toThrow('full');
    await expect(behind).rejects.toMatchObject({ code: 'COMMIT_LOG_BUSY' });
    await write(buffer, [one('b', NOW + 2n * MS, 4)], 4n, payloads);
    const restored = newBuffer();
    expect(payloads.map((payload) => restored.replay(payload).unreadable)).toEqual([false, true, false]);
    expect(restored.seriesCount).toBe(2);
    expect([
      ...(contentOf(restored)
        .get(keyOf(labels('b')))
        ?.keys() ?? []),
    ]).toEqual([NOW + 2n * MS]);
  });
});

test('memory above two gigabytes is as good as that below', async () => {
  const memory = newMemory(8 * 1024 ** 3);
  expect(memory.limitBytes).toBeLessThan(2 ** 32);
  // Nothing of it is touched.
  memory.kernel.allocate(2 ** 31 + 65_536);
  const buffer = newBuffer({}, memory);
  const payloads: Uint8Array[] = [];
  for (let i = 0; i < 100; i++)
    await write(buffer, [one('a', NOW + BigInt(i) * MS, i), one('b', NOW, i)], BigInt(i + 1), payloads);
  const replayed = newBuffer({}, memory);
  for (const payload of payloads) expect(replayed.replay(payload).unreadable).toBe(false);
  expect(sorted(contentOf(replayed))).toEqual(sorted(contentOf(buffer)));
  expect(contentOf(buffer).get(keyOf(labels('a')))?.size).toBe(100);
  expect(buffer.index().seriesCount()).toBe(2);
  expect(replayed.dropUnusedSeries()).toBe(0);
});

test('series without samples are forgotten, the others keep what they have, in memory and log', async () => {
  const memory = newMemory();
  const buffer = newBuffer({ coldWritesEnabled: true }, memory);
  const payloads: Uint8Array[] = [];
  const before = NOW - 4n * HOUR;
  const names = Array.from({ length: 5000 }, (_, i) => `n${i}`);
  await write(
    buffer,
    names.map((name, i) => one(name, before, i)),
    1n,
  );
  const late = {
    ...one('n7', NOW, 1),
    samples: [one('n7', NOW, 1), one('n7', NOW - MS, 2)].flatMap(({ samples }) => samples),
  };
  await write(buffer, [...names.slice(4000).map((name, i) => one(name, NOW, i)), late], 2n);
  expect(buffer.dropUnusedSeries()).toBe(0);
  const [old] = buffer.blocks();
  buffer.dropBlock(old?.startNs ?? 0n);
  const live = contentOf(buffer);
  expect(buffer.index().seriesCount()).toBe(5000);
  expect(buffer.dropUnusedSeries()).toBe(3999);
  expect([buffer.seriesCount, buffer.index().seriesCount()]).toEqual([1001, 1001]);
  expect(sorted(contentOf(buffer))).toEqual(sorted(live));
  expect(buffer.dropUnusedSeries()).toBe(0);

  await write(buffer, [one('n1', NOW, 5), one('n4999', NOW + MS, 6)], 3n, payloads);
  const replayed = newBuffer({}, memory);
  expect(payloads.map((payload) => replayed.replay(payload))).toMatchObject([
    { samples: 2, unreadable: false },
  ]);
  expect(contentOf(buffer).get(keyOf(labels('n1')))).toEqual(contentOf(replayed).get(keyOf(labels('n1'))));
  expect(buffer.seriesCount).toBe(1002);
  for (const each of [buffer, replayed]) each.dispose();
  expect(memory.kernel.calls.usedPages()).toBe(0);
});

interface Write {
  readonly namespace: 0 | 1;
  readonly version: 1 | 2;
  readonly epoch: boolean;
  readonly samples: readonly { readonly name: string; readonly tick: number; readonly bits: bigint }[];
}

const writes: fc.Arbitrary<Write[]> = fc.array(
  fc.record({
    namespace: fc.constantFrom(0 as const, 1 as const),
    version: fc.constantFrom(1 as const, 2 as const),
    epoch: fc.oneof(
      { weight: 8, arbitrary: fc.constant(false) },
      { weight: 1, arbitrary: fc.constant(true) },
    ),
    samples: fc.array(
      fc.record({
        name: fc.constantFrom('a', 'b', 'c', 'd'),
        tick: fc.integer({ min: -40, max: 40 }),
        bits: fc.oneof(
          fc.constantFrom(STALE, 0n, bitsOf(1), bitsOf(2.5)),
          fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        ),
      }),
      { maxLength: 60, size: 'max' },
    ),
  }),
  { maxLength: 12 },
);

/** What the last write of each time says, with its version when it replaced another. */
type Model = Map<string, Map<bigint, { bits: bigint; version?: bigint }>>;

function applyTo(model: Model, { samples }: Write, version: bigint): void {
  for (const { name, tick, bits } of samples) {
    const series = model.get(keyOf(labels(name))) ?? new Map<bigint, { bits: bigint; version?: bigint }>();
    model.set(keyOf(labels(name)), series);
    const time = NOW + BigInt(tick) * 10_000n * MS;
    const present = series.get(time);
    if (present?.bits === bits) continue;
    series.set(time, { bits, ...(present === undefined ? {} : { version }) });
  }
}

test('replay gives the state that was live, sample for sample and version for version, and that of the model', async () => {
  await fc.assert(
    fc.asyncProperty(writes, async (all) => {
      const memory = newMemory();
      const options = { bufferPastNs: HOUR, bufferFutureNs: HOUR, blockSizeNs: 10n * MINUTE };
      const live = [newBuffer(options, memory), newBuffer(options, memory)] as const;
      const models: [Model, Model] = [new Map(), new Map()];
      const log: { namespace: 0 | 1; payload: Uint8Array }[] = [];
      let version = 100n;
      for (const entry of all) {
        const buffer = live[entry.namespace];
        if (entry.epoch) buffer.beginLogEpoch();
        const series = entry.samples.map(({ name, tick, bits }) => ({
          labels: labels(name),
          samples: [{ ms: ms(NOW) + BigInt(tick) * 10_000n, bits }],
        }));
        const batch = buffer.decodeRemote(entry.version, bodyOf(series, entry.version), NOW);
        await buffer.commit(batch, ++version, (payload) => {
          log.push({ namespace: entry.namespace, payload: payload.slice() });
          return Promise.resolve();
        });
        applyTo(models[entry.namespace], entry, version);
      }
      const replayed = [newBuffer(options, memory), newBuffer(options, memory)] as const;
      for (const { namespace, payload } of log) {
        expect(replayed[namespace].replay(payload)).toMatchObject({ unreadable: false, orphans: 0 });
      }
      for (const namespace of [0, 1] as const) {
        expect(sorted(contentOf(live[namespace]))).toEqual(sorted(models[namespace]));
        expect(sorted(contentOf(replayed[namespace]))).toEqual(sorted(models[namespace]));
      }
      for (const buffer of [...live, ...replayed]) buffer.dispose();
      expect(memory.kernel.calls.usedPages()).toBe(0);
    }),
    { numRuns: 60 },
  );
});

function sorted(model: Model): unknown {
  const byTime = (samples: Map<bigint, unknown>) => [...samples].sort(([a], [b]) => (a < b ? -1 : 1));
  return [...model]
    .map(([key, samples]) => [key, byTime(samples)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

describe('a log with damage', () => {
  test('is read again from the next payload that builds upon nothing', async () => {
    const buffer = newBuffer();
    const payloads: Uint8Array[] = [];
    for (const [i, name] of ['a', 'b', 'c', 'd'].entries()) {
      if (i === 3) buffer.beginLogEpoch();
      await write(
        buffer,
        [one(name, NOW + BigInt(i) * MS, i), one('all', NOW + BigInt(i) * MS, i)],
        BigInt(i + 1),
        payloads,
      );
    }
    const restored = newBuffer();
    const kept = payloads.filter((_, i) => i !== 1);
    expect(kept.map((payload) => restored.replay(payload))).toMatchObject([
      { samples: 2, unreadable: false, version: 1n },
      { samples: 0, unreadable: true },
      { samples: 2, unreadable: false, version: 4n },
    ]);
  });

  test('random bytes and damaged payloads neither crash nor hang the reader, nor leak', async () => {
    const buffer = newBuffer();
    const payloads: Uint8Array[] = [];
    for (let i = 0; i < 6; i++)
      await write(buffer, [one('a', NOW + BigInt(i) * MS, i), one(`b${i}`, NOW, i)], BigInt(i + 1), payloads);
    const memory = newMemory();
    fc.assert(
      fc.property(
        fc.nat(5),
        fc.array(fc.record({ at: fc.nat(200), byte: fc.nat(255) }), { maxLength: 4 }),
        fc.nat(200),
        fc.uint8Array({ maxLength: 100 }),
        (which, flips, size, noise) => {
          const restored = newBuffer({}, memory);
          for (const payload of payloads.slice(0, which)) restored.replay(payload);
          const damaged = (payloads[which] ?? noise).slice(0, Math.max(1, size));
          for (const { at, byte } of flips) if (at < damaged.length) damaged[at] = byte;
          restored.replay(damaged);
          restored.replay(noise);
          contentOf(restored);
          restored.dispose();
          expect(memory.kernel.calls.usedPages()).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
    expect(memory.use.usedBytes).toBeLessThan(16 << 20);
  });
});

describe('samples from elsewhere', () => {
  test('are what they were when they were read, versions included', async () => {
    const source = newBuffer();
    await write(
      source,
      Array.from({ length: 200 }, (_, i) => one('a', NOW + BigInt(i) * MS, i)),
      1n,
    );
    await write(source, [one('a', NOW + 7n * MS, 70), one('a', NOW - MS, -1)], 2n);
    const target = newBuffer();
    const [{ startNs } = { startNs: 0n }] = source.blocks();
    for (const reference of source.seriesOfBlock(startNs)) {
      const id = source.labelsOf(reference);
      const columns = source.readBlock(reference, startNs);
      if (columns) target.insert(id, columns);
    }
    expect(sorted(contentOf(target))).toEqual(sorted(contentOf(source)));
    await write(target, [one('a', NOW + 300n * MS, 1), one('a', NOW + 7n * MS, 71)], 3n);
    expect(
      contentOf(target)
        .get(keyOf(labels('a')))
        ?.get(NOW + 7n * MS),
    ).toEqual({ bits: bitsOf(71), version: 3n });
  });

  test('deleted samples are gone, later ones stay', async () => {
    const buffer = newBuffer();
    await write(
      buffer,
      Array.from({ length: 300 }, (_, i) => one('a', NOW + BigInt(i) * MS, i)),
    );
    const reference = buffer.find(encodeLabels(labels('a')));
    expect(
      buffer.deleteSamples(Uint32Array.of(reference), { startNs: NOW + 5n * MS, endNs: NOW + 295n * MS }),
    ).toBe(290);
    await write(buffer, [one('a', NOW + 10n * MS, 1)], 2n);
    expect(
      [
        ...(contentOf(buffer)
          .get(keyOf(labels('a')))
          ?.keys() ?? []),
      ].map((time) => Number((time - NOW) / MS)),
    ).toEqual([0, 1, 2, 3, 4, 10, 295, 296, 297, 298, 299]);
  });

  test('a block that has a volume on the disk keeps the version of every sample', async () => {
    const buffer = newBuffer({ isFlushed: () => true });
    await write(buffer, [one('a', NOW, 1)], 5n);
    await write(buffer, [one('a', NOW, 1), one('a', NOW + MS, 2)], 6n);
    expect(buffer.blocks()).toMatchObject([{ cold: true, samples: 2 }]);
    expect([
      ...(contentOf(buffer)
        .get(keyOf(labels('a')))
        ?.values() ?? []),
    ]).toEqual([
      { bits: bitsOf(1), version: 5n },
      { bits: bitsOf(2), version: 6n },
    ]);
  });
});
