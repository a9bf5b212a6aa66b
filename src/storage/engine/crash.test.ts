import { describe, expect, test } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import type { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { labelMatcher } from '../index/matcher.ts';
import type { Engine } from './engine.ts';
import {
  BLOCK_NS,
  dump,
  expected,
  FOLDER,
  HOUR_NS,
  ManualClock,
  MINUTE_NS,
  openEngine,
  readyEngine,
  simulatedPlace,
  write,
  type Place,
} from './engine.suite.ts';

/** What the engine has to have, by series and time. */
type Model = ReadonlyMap<string, ReadonlyMap<bigint, number>>;

interface Step {
  readonly name: string;
  readonly run: (engine: Engine, place: Place) => Promise<unknown>;
  /** What is different when it has taken effect. */
  readonly change?: (model: Model) => Model;
}

interface Crash {
  readonly disk: SimulatedDisk;
  readonly nowNs: bigint;
  /** Steps that were acknowledged. */
  readonly done: number;
  readonly what: string;
}

const NAMES = ['a', 'b', 'c'] as const;
const OPTIONS = { name: 'default', coldWritesEnabled: true, retentionNs: 24n * HOUR_NS };

function written(name: string, samples: readonly (readonly [bigint, number])[]): Step {
  return {
    name: `write ${name}`,
    run: (engine) => write(engine, name, samples),
    change: (model) => new Map([...model, [name, new Map([...(model.get(name) ?? []), ...samples])]]),
  };
}

function deleted(name: string, startNs: bigint, endNs: bigint): Step {
  const selectors = [[labelMatcher('__name__', '=', name)]];
  return {
    name: `delete ${name}`,
    run: (engine) => engine.deleteSeries('default', { selectors, startNs, endNs }),
    change: (model) => {
      const left = [...(model.get(name) ?? [])].filter(([time]) => time < startNs || time >= endNs);
      return new Map([...model, [name, new Map(left)]]);
    },
  };
}

function advanced(ns: bigint): Step {
  return {
    name: 'wait',
    run: async (_, { clock }) => {
      clock.advance(ns);
    },
  };
}

/** Anything, but every sample of a series has a time that may be written at that instant. */
function script(random: SeededRandom): Step[] {
  const steps: Step[] = [];
  let hours = 0n;
  const time = (): bigint => BLOCK_NS + MINUTE_NS * BigInt(15 + random.below(15));
  const late = (): bigint => BLOCK_NS + hours * HOUR_NS + MINUTE_NS * BigInt(15 + random.below(15));
  for (let i = 0; i < 18; i++) {
    const at = random.chance(0.5) ? time : late;
    const kind = random.below(12);
    if (kind < 6) {
      const samples = Array.from({ length: 1 + random.below(3) }, () => [at(), random.below(100)] as const);
      // One time once in a request: which of them wins is another test's matter.
      const times = new Map(samples);
      steps.push(written(random.pick(NAMES), [...times]));
    } else if (kind < 7) {
      const startNs = at();
      steps.push(deleted(random.pick(NAMES), startNs, startNs + 8n * MINUTE_NS));
    } else if (kind < 9)
      steps.push({ name: 'flush', run: (engine) => engine.flush({ force: random.chance(0.3) }) });
    else if (kind < 10) steps.push({ name: 'snapshot', run: (engine) => engine.snapshot() });
    else if (kind < 11) steps.push({ name: 'clean up', run: (engine) => engine.cleanUp() });
    else {
      steps.push(advanced(3n * HOUR_NS));
      hours += 3n;
    }
  }
  return steps;
}

function dumpOf(model: Model): Record<string, string[]> {
  const entries = [...model].flatMap(([name, samples]) => {
    const sorted = [...samples].sort(([a], [b]) => (a < b ? -1 : 1));
    return sorted.length === 0 ? [] : [[name, expected(sorted)] as const];
  });
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

async function crashesOf(
  seed: number,
  { share, kind }: { readonly share: number; readonly kind: 'power' | 'process' },
): Promise<{ crashes: Crash[]; models: Model[] }> {
  const random = new SeededRandom(seed);
  const steps = script(random);
  const place = await simulatedPlace(seed);
  const crashes: Crash[] = [];
  const models: Model[] = [new Map()];
  let done = 0;
  // With images a restart hardly ever reads a snapshot: half of the runs go without.
  const imageLogBytes = seed % 2 === 0 ? 0 : 1024 * 1024;
  await using engine = await readyEngine(place, [OPTIONS], { imageLogBytes });
  place.fs.onOperation = ({ index, phase, kind: operation, path }) => {
    if (!random.chance(share)) return;
    const disk = kind === 'power' ? place.fs.powerLoss(seed + index) : place.fs.processCrash(seed + index);
    const what = `seed ${seed}, ${phase} operation ${index} (${operation} ${path}), in step ${done} (${steps[done]?.name})`;
    crashes.push({ disk, nowNs: place.clock.nowNs, done, what });
  };
  for (const step of steps) {
    await step.run(engine, place);
    models.push(step.change?.(models.at(-1) ?? new Map()) ?? models.at(-1) ?? new Map());
    done++;
  }
  place.fs.onOperation = undefined;
  expect(await dump(engine), `seed ${seed} without any crash`).toEqual(dumpOf(models.at(-1) ?? new Map()));
  return { crashes, models };
}

async function recovered(crash: Crash, seed: number): Promise<Record<string, string[]>> {
  const clock = new ManualClock();
  clock.advance(crash.nowNs - clock.nowNs);
  const place = { fs: crash.disk, folder: FOLDER, clock, seed };
  await using engine = await openEngine(place);
  await engine.ready();
  return await dump(engine);
}

describe('after a crash at any operation, what was acknowledged is there, and nothing else', () => {
  test.each(['power', 'process'] as const)('of the %s', { timeout: 600_000 }, async (kind) => {
    for (let seed = 1; seed <= seedCount(8); seed++) {
      const { crashes, models } = await crashesOf(seed, { share: 0.05, kind });
      expect(crashes.length, `seed ${seed}`).toBeGreaterThan(3);
      for (const crash of crashes) {
        const found = await recovered(crash, seed).catch((error: unknown) => {
          throw new Error(`the engine does not open: ${crash.what}`, { cause: error });
        });
        const [before, after] = [crash.done, crash.done + 1].map((step) => dumpOf(models[step] ?? new Map()));
        // The step under way may have taken effect or not.
        const isAfter = JSON.stringify(found) === JSON.stringify(after);
        if (!isAfter) expect(found, crash.what).toEqual(before);
      }
    }
  });
});
