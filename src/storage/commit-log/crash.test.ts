import { expect, test, vi } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import type { CommitLogMode } from './commit-log.ts';
import { read, reopen, settle, testDeps } from './commit-log.suite.ts';
import type { LogPosition } from './replay.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

const SEEDS = seedCount(180);

interface Instant {
  readonly disk: SimulatedDisk;
  readonly acknowledged: readonly string[];
  readonly attempted: readonly string[];
  /** What may be gone because it was made unnecessary. */
  readonly unneeded: ReadonlySet<string>;
  readonly from: LogPosition | undefined;
  readonly what: string;
}

/**
 * Writes with several writers, rotates and removes, and takes the disk as a crash would leave it before and
 * after every operation, together with what had been acknowledged then. Records are unique, by `name`.
 */
async function crashEverywhere(
  start: SimulatedDisk,
  seed: number,
  options: {
    name: string;
    mode: CommitLogMode;
    crash: 'power' | 'process';
    records: number;
    skipped: number;
    cleans: boolean;
  },
): Promise<{ instants: Instant[]; initial: string[] }> {
  const random = new SeededRandom(seed);
  const { log, found } = await reopen(testDeps(start, seed), { mode: options.mode, segmentBytes: 512 });
  const initial = found.map(({ text }) => text);
  const acknowledged = [...initial];
  const attempted = [...initial];
  let unneeded: ReadonlySet<string> = new Set<string>();
  let from: LogPosition | undefined;
  const sequences = new Map<string, number>();
  const instants: Instant[] = [];
  start.onOperation = ({ index, kind, phase, path }) => {
    if (random.chance(options.skipped)) return;
    const at = seed * 100_000 + index;
    instants.push({
      disk: options.crash === 'power' ? start.powerLoss(at) : start.processCrash(at),
      acknowledged: [...acknowledged],
      attempted: [...attempted],
      unneeded,
      from,
      what: `seed ${seed}, ${phase} operation ${index} (${kind} ${path})`,
    });
  };
  const writer = async (name: string): Promise<void> => {
    for (let i = 0; i < options.records; i++) {
      const text = `${options.name} ${name} ${i} ${'.'.repeat(random.below(90))}`;
      attempted.push(text);
      sequences.set(text, await log.append(Buffer.from(text)));
      acknowledged.push(text);
      for (let turns = random.below(30); turns > 0; turns--) await Promise.resolve();
    }
  };
  const cleaner = async (): Promise<void> => {
    if (!options.cleans) return;
    await settle();
    const place = await log.rotate();
    // What is before the place is, for this test, kept elsewhere.
    unneeded = new Set(acknowledged.filter((text) => (sequences.get(text) ?? 0) < place.sequence));
    from = place;
    await log.removeBefore(place.segment);
  };
  await Promise.all([writer('a'), writer('b'), writer('c'), cleaner()]);
  await log[Symbol.asyncDispose]();
  start.onOperation = undefined;
  return { instants, initial };
}

async function check(instant: Instant, from: LogPosition | undefined): Promise<void> {
  const { texts, report } = await read(instant.disk, from);
  const present = new Set(texts);
  expect(present.size, `${instant.what}: nothing twice`).toBe(texts.length);
  const attempted = new Set(instant.attempted);
  expect(
    texts.filter((text) => !attempted.has(text)),
    `${instant.what}: nothing invented`,
  ).toEqual([]);
  expect(
    instant.acknowledged.filter((text) => !present.has(text) && !instant.unneeded.has(text)),
    `${instant.what}: nothing lost`,
  ).toEqual([]);
  // Without the place, segments that were removed and came back in part cannot be told from lost ones.
  const harmless = from === undefined && instant.unneeded.size > 0 ? ['torn', 'missing'] : ['torn'];
  expect(
    report.damages.filter(({ kind }) => !harmless.includes(kind)),
    `${instant.what}: a crash is no damage`,
  ).toEqual([]);
  const orders = new Map<string, number>();
  for (const text of texts) {
    const [name = '', writer = '', number] = text.split(' ');
    expect(Number(number)).toBeGreaterThan(orders.get(name + writer) ?? -1);
    orders.set(name + writer, Number(number));
  }
}

test.each([
  ['sync', 'power'],
  ['sync', 'process'],
  ['behind', 'process'],
] as const)(
  'in %s mode, a crash (loss of %s) at any operation loses nothing acknowledged and invents nothing',
  async (mode, crash) => {
    let instants = 0;
    for (let seed = 0; seed < SEEDS / 3; seed++) {
      const run = await crashEverywhere(new SimulatedDisk({ seed }), seed, {
        name: 'one',
        mode,
        crash,
        records: 4,
        skipped: 0.5,
        cleans: true,
      });
      instants += run.instants.length;
      for (const instant of run.instants) {
        await check(instant, instant.from);
        if (instant.from) await check(instant, undefined);
      }
    }
    expect(instants).toBeGreaterThan(SEEDS * 10);
  },
);

test('in behind mode a loss of power keeps what was flushed, and what is there was appended', async () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const random = new SeededRandom(seed);
    const disk = new SimulatedDisk({ seed });
    const { log } = await reopen(testDeps(disk, seed), { mode: 'behind', segmentBytes: 512 });
    const texts = Array.from({ length: 30 }, (_, i) => `record ${i} ${'.'.repeat(random.below(60))}`);
    const flushed = random.below(30);
    for (const [index, text] of texts.entries()) {
      await log.append(Buffer.from(text));
      if (index === flushed) await log.flush();
    }
    const { texts: found, report } = await read(disk.powerLoss(seed));
    const present = new Set(found);
    expect(present.size).toBe(found.length);
    expect(texts.slice(0, flushed + 1).filter((text) => !present.has(text))).toEqual([]);
    expect(found.filter((text) => !texts.includes(text))).toEqual([]);
    expect(report.damages.filter(({ kind }) => kind !== 'torn')).toEqual([]);
    await log[Symbol.asyncDispose]();
  }
});

test('crashes one after the other, of both kinds, add up to nothing lost', async () => {
  for (let seed = 0; seed < SEEDS / 3; seed++) {
    const random = new SeededRandom(seed);
    let disk = new SimulatedDisk({ seed });
    let acknowledged: readonly string[] = [];
    let attempted: readonly string[] = [];
    for (let run = 0; run < 5; run++) {
      const { instants } = await crashEverywhere(disk, seed * 10 + run, {
        name: `run${run}`,
        mode: 'sync',
        crash: random.pick(['power', 'process']),
        records: 2,
        skipped: 0.8,
        cleans: false,
      });
      const instant = instants[random.below(instants.length)] as Instant;
      const known = new Set(acknowledged);
      const all = { ...instant, attempted: [...attempted, ...instant.attempted] };
      await check({ ...all, acknowledged: [...known, ...instant.acknowledged] }, undefined);
      ({ disk, attempted } = all);
      acknowledged = [...new Set([...known, ...instant.acknowledged])];
    }
  }
});

test('faults of every operation, one at a time: what is acknowledged is kept', async () => {
  const workload = async (
    seed: number,
    fault: SimulatedDisk['fault'],
  ): Promise<{ disk: SimulatedDisk; acknowledged: string[]; attempted: string[] }> => {
    const disk = new SimulatedDisk({ seed });
    disk.fault = fault;
    const acknowledged: string[] = [];
    const attempted: string[] = [];
    const deps = testDeps(disk, seed);
    const opened = await reopen(deps, { segmentBytes: 512 }).catch(() => undefined);
    for (let i = 0; i < (opened ? 20 : 0); i++) {
      const text = `record ${i} ${'.'.repeat(i * 3)}`;
      attempted.push(text);
      await opened?.log.append(Buffer.from(text)).then(
        () => acknowledged.push(text),
        () => {},
      );
      deps.clock.wakeAll();
    }
    await opened?.log[Symbol.asyncDispose]().catch(() => {});
    disk.fault = undefined;
    return { disk, acknowledged, attempted };
  };
  const whole = await workload(1, undefined);
  expect(whole.acknowledged).toHaveLength(20);
  for (const code of ['EIO', 'ENOSPC']) {
    for (let index = 0; index < whole.disk.operations; index++) {
      const seed = index + 1;
      let failed = '';
      const run = await workload(seed, (operation) => {
        if (operation.index !== index) return undefined;
        failed = operation.kind;
        return code;
      });
      for (const disk of [run.disk, run.disk.powerLoss(seed), run.disk.powerLoss(seed + 1)]) {
        const { texts } = await read(disk);
        const what = `${code} at operation ${index}`;
        expect(
          run.acknowledged.filter((text) => !texts.includes(text)),
          what,
        ).toEqual([]);
        expect(
          texts.filter((text) => !run.attempted.includes(text)),
          what,
        ).toEqual([]);
        expect(new Set(texts).size, what).toBe(texts.length);
      }
      // A log that opened recovers from it, unless it was a sync that failed.
      const opened = run.attempted.length > 0 && !failed.includes('sync');
      if (code === 'ENOSPC' && opened)
        expect(run.acknowledged.length, `after operation ${index}`).toBeGreaterThan(10);
    }
  }
});
