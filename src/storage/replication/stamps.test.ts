import { afterEach, describe, expect, test } from 'vitest';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import type { Engine } from '../engine/engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { labelMatcher } from '../index/matcher.ts';
import { encodeLabels } from '../index/labels.ts';
import { SimulatedClock } from '../sim/clock.suite.ts';
import { openEngine } from '../sim/open-engine.suite.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../protocol/remote-write.ts';

const NOW_MS = 1_767_225_600_000;
const NOW = BigInt(NOW_MS) * 1_000_000n;
const kernel = new ProtocolKernel();
const engines: Engine[] = [];
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine[Symbol.asyncDispose]();
});

async function open(
  disk?: SimulatedDisk,
): Promise<{ engine: Engine; disk: SimulatedDisk; clock: SimulatedClock }> {
  const clock = new SimulatedClock(NOW_MS);
  const on = disk ?? new SimulatedDisk({ seed: 1 });
  if (!disk) await on.makeFolder('/storage');
  const engine = await openEngine({ fs: on, clock, seed: 1 }, { folder: '/storage', logMode: 'behind' });
  engines.push(engine);
  await engine.applyNamespaces([namespaceOptions({ name: 'n' })]);
  await engine.ready();
  return { engine, disk: on, clock };
}

const labels = encodeLabels([['__name__', 'm']]);

/** `value` at `time`, written with version `stamp`; the first series unless said otherwise. */
interface Write {
  readonly stamp: number;
  readonly time: number;
  readonly value: number;
}

async function write(engine: Engine, { stamp, time, value }: Write): Promise<number> {
  const samples = [{ timeNs: NOW + BigInt(time) * 1_000_000n, value }];
  const body = kernel.encodeSnappy(encodeWriteRequest([{ labels: [['__name__', 'm']], samples }]));
  const outcome = await engine.replica.writeReplica(
    'n',
    { version: 1, body },
    { stamp: NOW + BigInt(stamp) },
  );
  return outcome.samples;
}

async function read(engine: Engine): Promise<number[]> {
  const values: number[] = [];
  const query = { matchers: [labelMatcher('__name__', '=', 'm')], startNs: 0n, endNs: 1n << 62n };
  for await (const { batches } of engine.read('n', query))
    for await (const batch of batches) values.push(...batch.values);
  return values;
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, i) => permutations(items.toSpliced(i, 1)).map((rest) => [item, ...rest]));
}

describe('of several values of one sample the one with the greatest version stays', () => {
  const sameSample: Write[] = [1, 2, 3].map((stamp) => ({ stamp, time: 0, value: stamp }));

  test.each(
    permutations(sameSample).map((order) => [order.map(({ stamp }) => stamp).join(), order] as const),
  )('when they come as %s', async (_, order) => {
    const { engine, disk } = await open();
    for (const one of order) expect(await write(engine, one)).toBe(1);
    expect(await read(engine)).toEqual([3]);
    // Repeated, as senders and hints do.
    for (const one of order.toReversed()) await write(engine, one);
    expect(await read(engine)).toEqual([3]);
    const restarted = await open(disk.processCrash(1));
    expect(await read(restarted.engine)).toEqual([3]);
    await engine.flush({ force: true });
    expect(await read(engine)).toEqual([3]);
    // What is in files has no versions of samples that replaced nothing: those that come now are late in any case.
    await write(engine, { stamp: 4, time: 0, value: 4 });
    await write(engine, { stamp: 0, time: 1, value: 9 });
    expect(await read(engine)).toEqual([4, 9]);
    await engine.flush({ force: true });
    expect(await read(engine)).toEqual([4, 9]);
  });

  test('also with samples of other times between, in every order', async () => {
    const writes: Write[] = [
      { stamp: 1, time: 0, value: 1 },
      { stamp: 2, time: 5, value: 2 },
      { stamp: 3, time: 0, value: 3 },
      { stamp: 4, time: 0, value: 4 },
    ];
    for (const order of permutations(writes)) {
      const { engine } = await open();
      for (const one of order) await write(engine, one);
      expect(await read(engine)).toEqual([4, 2]);
      await engines.pop()?.[Symbol.asyncDispose]();
    }
  });
});

describe('a write that comes after a restart', () => {
  test('does not replace what is newer, although nothing says any more how new that is', async () => {
    const { engine, disk } = await open();
    await write(engine, { stamp: 2, time: 0, value: 2 });
    await write(engine, { stamp: 3, time: 1, value: 3 });
    const log = await open(disk.processCrash(1));
    await write(log.engine, { stamp: 1, time: 0, value: 1 });
    expect(await read(log.engine)).toEqual([2, 3]);
    await engine.snapshot();
    const snapshot = await open(disk.processCrash(2));
    await write(snapshot.engine, { stamp: 1, time: 0, value: 1 });
    expect(await read(snapshot.engine)).toEqual([2, 3]);
    const again = await open(snapshot.disk.processCrash(3));
    expect(await read(again.engine)).toEqual([2, 3]);
  });

  test('replaces what was there before, when it is newer than all that was, and brings what is missing', async () => {
    const { engine, disk } = await open();
    await write(engine, { stamp: 2, time: 0, value: 2 });
    const restarted = await open(disk.processCrash(1));
    await write(restarted.engine, { stamp: 9, time: 0, value: 9 });
    await write(restarted.engine, { stamp: 1, time: 1, value: 1 });
    expect(await read(restarted.engine)).toEqual([9, 1]);
  });
});

test('what is in bounds is said by the stamp: a hint that comes hours later is taken as by the others', async () => {
  const { engine, clock } = await open();
  clock.advance(3 * 3_600_000);
  expect(await write(engine, { stamp: 0, time: 0, value: 1 })).toBe(1);
  expect(await read(engine)).toEqual([1]);
  await engine.flush({ force: false });
  expect(engine.status().namespaces[0]?.openBlocks).toEqual([]);
  expect(await write(engine, { stamp: 1, time: 1, value: 2 })).toBe(1);
  await engine.flush({ force: true });
  expect(await read(engine)).toEqual([1, 2]);
  const tooOld = { stamp: 0, time: -3_600_000, value: 1 };
  expect(await write(engine, tooOld)).toBe(0);
});

test('a stamp from elsewhere is never given again', async () => {
  const { engine } = await open();
  await write(engine, { stamp: 60_000_000_000, time: 0, value: 1 });
  expect(engine.replica.nextStamp()).toBeGreaterThan(NOW + 60_000_000_000n);
});

test('what heals wins over what has no version, not over what has one, and survives a restart', async () => {
  const { engine, disk } = await open();
  await write(engine, { stamp: 1, time: 0, value: 1 });
  await write(engine, { stamp: 2, time: 1, value: 1 });
  await write(engine, { stamp: 3, time: 1, value: 2 });
  const times = BigInt64Array.from([0n, 1n, 2n], (ms) => NOW + ms * 1_000_000n);
  const bits = new BigUint64Array(Float64Array.from([7, 7, 7]).buffer);
  for (let i = 0; i < 3; i++) {
    await engine.replica.writeBits('n', [{ labels, times, bits }], { stamp: 1n, heals: true });
    expect(await read(engine)).toEqual([7, 2, 7]);
  }
  const restarted = await open(disk.processCrash(2));
  expect(await read(restarted.engine)).toEqual([7, 2, 7]);
  await restarted.engine.replica.writeBits('n', [{ labels, times, bits }], { stamp: 1n, heals: true });
  const again = await open(disk.processCrash(3));
  expect(await read(again.engine)).toEqual([7, 2, 7]);
});

test('NaNs keep their bits on every way', async () => {
  const { engine } = await open();
  const stale = 0x7ff0_0000_0000_0002n;
  const series = [{ labels, times: BigInt64Array.of(NOW), bits: BigUint64Array.of(stale) }];
  await engine.replica.writeBits('n', series, { stamp: NOW });
  const found: bigint[] = [];
  for await (const { columns } of engine.replica.readBatches('n', {
    matchers: [],
    shards: [0, 1],
    startNs: 0n,
    endNs: 1n << 62n,
  })) {
    found.push(...columns.bits);
  }
  expect(found).toEqual([stale]);
  expect(engine.replica.blockStarts('n')).toHaveLength(1);
});
