import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import type { Engine } from '../engine/engine.ts';
import type { StorageEngine } from '../engine/storage-engine.ts';
import { check } from './check.suite.ts';
import { SimulatedClock } from './clock.suite.ts';
import { Model } from './model.suite.ts';
import { openEngine } from './open-engine.suite.ts';
import { letTimePass, lonelyStep, randomNamespace, step, write, type Stage } from './script.suite.ts';

export interface SimulationOptions {
  readonly seed: number;
  readonly mode: 'sync' | 'behind';
  /** What a crash takes: with the process only what it had in memory, with the power also what was not synced. */
  readonly crash: 'power' | 'process';
  /** Full disks and errors of the operating system. */
  readonly faults: boolean;
  /** How many crashes follow on each other, and how many more are looked at and left. */
  readonly generations: number;
  readonly instants: number;
  readonly steps: number;
}

interface Instant {
  readonly disk: SimulatedDisk;
  readonly model: Model;
  readonly nowMs: number;
  readonly what: string;
}

const START_MS = 1_767_225_600_000;
const TURNS = 20_000;

/** One run of the whole engine by its seed. Returns how many restarts were looked at; throws what is wrong. */
export async function simulate(options: SimulationOptions): Promise<number> {
  const { seed, generations } = options;
  const random = new SeededRandom(seed);
  const disk = new SimulatedDisk({ seed });
  await disk.makeFolder('/storage');
  await disk.syncFolder('/');
  let instant: Instant = { disk, model: new Model(), nowMs: START_MS + random.below(1e9), what: 'at first' };
  let values = 0n;
  const nextValue = (): bigint => (values += 1n);
  let restarts = 0;
  for (let generation = 0; generation < generations; generation++) {
    const run = new Run(options, instant, {
      random,
      nextValue,
      name: `seed ${seed}, generation ${generation}`,
    });
    const instants = await run.live();
    for (const one of instants) {
      const restarted = new Run(options, one, { random, nextValue, name: `seed ${seed}, ${one.what}` });
      await restarted.open();
      await restarted.close();
      restarts++;
    }
    instant = instants[random.below(instants.length)] ?? instant;
  }
  return restarts;
}

interface RunParts {
  readonly random: SeededRandom;
  readonly nextValue: () => bigint;
  readonly name: string;
}

/** One life of an engine, on a disk as a crash before left it. */
class Run {
  readonly #options: SimulationOptions;
  readonly #parts: RunParts;
  readonly #disk: SimulatedDisk;
  readonly #model: Model;
  readonly #clock: SimulatedClock;
  #engine: Engine | undefined;
  /** What was there when this life began was on the disk. */
  readonly #startedAt: number;
  #wasFull = false;
  #failed = false;

  constructor(options: SimulationOptions, instant: Instant, parts: RunParts) {
    this.#options = options;
    this.#parts = parts;
    this.#model = instant.model.frozen();
    this.#startedAt = this.#model.moment;
    // The instant stays as it is: it may be started from again.
    this.#disk = instant.disk.processCrash(options.seed);
    // Somebody may have set the clock back meanwhile: later writes win all the same.
    const backMs = parts.random.chance(0.2) ? parts.random.below(600_000) : 0;
    this.#clock = new SimulatedClock(instant.nowMs - backMs);
  }

  /** Starts the engine and compares all that it has. */
  async open(): Promise<Engine> {
    const { mode: logMode, seed } = this.#options;
    const deps = { fs: this.#disk, clock: this.#clock, seed };
    // Images are dear: they are many in some lives, and few in most.
    const imageLogBytes = this.#parts.random.pick([2000, 50_000, 0]);
    const engine = await this.#patiently(
      'the start',
      openEngine(deps, { folder: '/storage', logMode, imageLogBytes }),
    );
    this.#engine = engine;

    await this.#compare(this.#parts.name);
    return engine;
  }

  async close(): Promise<void> {
    const engine = this.#engine;
    this.#engine = undefined;
    if (engine) await this.#patiently('closing', Promise.resolve(engine[Symbol.asyncDispose]()));
  }

  /** Steps, with the disk as it would be found after crashes at some operations. */
  async live(): Promise<Instant[]> {
    const { steps, faults } = this.#options;
    const { random, nextValue } = this.#parts;
    const engine = await this.open();
    const instants: Instant[] = [];
    this.#observe(instants);
    await this.#firstNamespaces(engine);
    const stage: Stage = {
      engine,
      model: this.#model,
      clock: this.#clock,
      random,
      nextValue,
      faulty: () => this.#failed || this.#wasFull,
    };
    for (let i = 0; i < steps; i++) {
      if (faults && random.chance(0.05)) this.#breakDisk();
      const alone = random.chance(0.1);
      const together = alone ? [lonelyStep(stage)] : this.#group(stage);
      await this.#patiently(`step ${i}`, Promise.all(together));
      letTimePass(stage);
      if (random.chance(process.env['VARVE_SIM_CHECK'] === undefined ? 0.1 : 1)) {
        this.#repairDisk();
        await this.#compare(`${this.#parts.name}, live, after step ${i}`);
      }
    }
    this.#repairDisk();
    if (this.#wasFull && !this.#failed) await this.#provesItRecovered(stage);
    this.#disk.onOperation = undefined;
    await this.#compare(`${this.#parts.name}, live, at the end`);
    await this.close().catch((error: unknown) => {
      if (!this.#options.faults) throw error;
    });
    instants.push(this.#instant('after a stop in order'));
    return instants;
  }

  #group(stage: Stage): Promise<void>[] {
    const { random } = stage;
    return Array.from({ length: 1 + random.below(4) }, async () => {
      // One may come in the middle of another.
      for (let turns = random.chance(0.5) ? random.below(600) : 0; turns > 0; turns--)
        await Promise.resolve();
      await step(stage);
    });
  }

  async #firstNamespaces(engine: StorageEngine): Promise<void> {
    if (this.#model.namespaces.size > 0) return;
    const { random } = this.#parts;
    const wanted = [randomNamespace(random, 'first'), randomNamespace(random, 'second')];
    const attempt = this.#model.begin('namespaces');
    this.#model.pendingNamespaces = { attempt, wanted };
    await this.#patiently('the first namespaces', engine.applyNamespaces(wanted));
    this.#model.end(attempt, true);
    this.#model.setNamespaces(wanted);
    this.#model.pendingNamespaces = undefined;
  }

  /** Some of all operations, spread over the run: reservoir sampling, since nobody knows how many there will be. */
  #observe(instants: Instant[]): void {
    const random = new SeededRandom(this.#options.seed * 31 + 7);
    let seen = 0;
    this.#disk.onOperation = ({ index, kind, path, phase }) => {
      seen++;
      const place = seen <= this.#options.instants ? seen - 1 : random.below(seen);
      if (place < this.#options.instants) {
        instants[place] = this.#instant(`${phase} operation ${index} (${kind} ${path})`);
      }
    };
  }

  #instant(what: string): Instant {
    const { crash, mode, seed } = this.#options;
    const at = seed * 100_000 + this.#disk.operations;
    const disk = crash === 'power' ? this.#disk.powerLoss(at) : this.#disk.processCrash(at);
    disk.capacityBytes = Number.POSITIVE_INFINITY;
    const model = this.#model.frozen();
    if (crash === 'power' && mode === 'behind') model.forgetWritesAfter(this.#startedAt);
    return { disk, model, nowMs: this.#clock.nowMs(), what };
  }

  /** A disk that was full and has room again is written to again, without anybody's help. */
  async #provesItRecovered(stage: Stage): Promise<void> {
    this.#clock.advance(5000);
    await new Promise<void>((resolve) => void setImmediate(resolve));
    letTimePass(stage);
    await this.#patiently('a write after the disk was full', write({ ...stage, faulty: () => false }));
  }

  async #compare(what: string): Promise<void> {
    const engine = this.#engine;
    if (!engine) return;
    const wrong = await this.#patiently(`reading (${what})`, check(engine, this.#model));
    if (wrong.length > 0) {
      const told = [...engine.findings, ...engine.status().bootstrapRuns].map(inWords);
      throw new Error(`${what}:\n  ${[...wrong.slice(0, 10), ...told].join('\n  ')}`);
    }
  }

  /** No room for a while, or one operation that fails. */
  #breakDisk(): void {
    const { random } = this.#parts;
    if (random.chance(0.5)) {
      this.#wasFull = true;
      let usedBytes = 0;
      for (const content of this.#disk.files().values()) usedBytes += content.length;
      this.#disk.capacityBytes = usedBytes + random.below(3000);
      return;
    }
    this.#failed = true;
    const failing = random.below(40) + this.#disk.operations;
    this.#disk.fault = ({ index, kind }) =>
      index === failing && kind !== 'read' && kind !== 'list' && kind !== 'stat' ? 'EIO' : undefined;
  }

  #repairDisk(): void {
    this.#disk.capacityBytes = Number.POSITIVE_INFINITY;
    this.#disk.fault = undefined;
  }

  /** Time goes by while something is waited for; what takes too much of it hangs. */
  async #patiently<T>(what: string, work: Promise<T>): Promise<T> {
    const state = { done: false };
    const settled = work.finally(() => (state.done = true));
    settled.catch(() => {});
    for (let turn = 0; !state.done; turn++) {
      await new Promise<void>((resolve) => void setImmediate(resolve));
      if (turn > 50 && turn % 50 === 0) this.#clock.advance(100);
      const nowNs = BigInt(this.#clock.nowMs()) * 1_000_000n;
      if (nowNs > this.#model.latestNs) this.#model.latestNs = nowNs;
      if (turn > TURNS) throw new Error(`${this.#parts.name}: ${what} hangs`);
    }
    return await settled;
  }
}

function inWords(facts: object): string {
  return JSON.stringify(facts, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
}
