import { expect, test, vi } from 'vitest';
import { seedCount } from '../../../test/seeded-random.ts';
import { simulate, type SimulationOptions } from './simulation.suite.ts';

// Many seeds on busy machines; a soak takes thousands.
const IS_SOAK = process.env['VARVE_SOAK'] !== undefined;
vi.setConfig({ testTimeout: IS_SOAK ? 3_600_000 : 180_000 });

/** One seed alone, as a failure names it: `VARVE_SIM_SEED=41 npx vitest run src/storage/sim/crash.test.ts`. */
const ONE = process.env['VARVE_SIM_SEED'];

async function seeds(count: number, options: Omit<SimulationOptions, 'seed'>): Promise<void> {
  let restarts = 0;
  const all = ONE === undefined ? [...Array(seedCount(IS_SOAK ? count * 40 : count)).keys()] : [Number(ONE)];
  for (const seed of all) restarts += await simulate({ ...options, seed });
  expect(restarts).toBeGreaterThanOrEqual(all.length);
}

const SIZE = { generations: 2, instants: 2, steps: 8 };

test('in sync mode, a loss of power at any operation takes nothing that was acknowledged', async () => {
  await seeds(60, { ...SIZE, mode: 'sync', crash: 'power', faults: false });
});

test('in behind mode, a process that is killed at any operation loses nothing that was acknowledged', async () => {
  await seeds(60, { ...SIZE, mode: 'behind', crash: 'process', faults: false });
});

test('full disks and failing ones: what was acknowledged is there, and a full disk that has room again is used again', async () => {
  await seeds(60, { ...SIZE, mode: 'sync', crash: 'power', faults: true });
});

test('in behind mode, a loss of power takes at most what was not yet made durable, and invents nothing', async () => {
  await seeds(30, { ...SIZE, mode: 'behind', crash: 'power', faults: false });
});
