import type { SeededRandom } from '../../../test/seeded-random.ts';
import { VarveError } from '../../core/errors.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import type {
  NamespaceOptions,
  SeriesSamples,
  StorageEngine,
  WriteOutcome,
} from '../engine/storage-engine.ts';
import { parseSelector } from '../index/selector.ts';
import { encodeWriteRequest, encodeWriteRequest2 } from '../kernel/remote-write.suite.ts';
import { encodeSnappy } from '../kernel/snappy.ts';
import { keyOf, labelsOf } from './check.suite.ts';
import type { SimulatedClock } from './clock.suite.ts';
import type { Model } from './model.suite.ts';

const MS_NS = 1_000_000n;
const MINUTE_NS = 60_000_000_000n;
const SERIES = 12;

/** The engine that is run, with what is known of it. */
export interface Stage {
  readonly engine: StorageEngine;
  readonly model: Model;
  readonly clock: SimulatedClock;
  readonly random: SeededRandom;
  /** Values are all different, so that each tells which write it came from. */
  readonly nextValue: () => bigint;
  /** The disk failed, now or before: refusals and errors of the operating system are expected. */
  readonly faulty: () => boolean;
}

export function randomNamespace(random: SeededRandom, name: string): NamespaceOptions {
  const blockSizeNs = random.pick([1n, 2n, 7n]) * MINUTE_NS;
  return namespaceOptions({
    name,
    blockSizeNs,
    retentionNs: blockSizeNs * BigInt(3 + random.below(4)),
    indexBlockSizeNs: blockSizeNs * random.pick([1n, 1n, 2n]),
    bufferPastNs: (blockSizeNs * BigInt(random.below(9))) / 10n,
    bufferFutureNs: (blockSizeNs * BigInt(random.below(9))) / 10n,
    coldWritesEnabled: random.chance(0.6),
    snapshotEnabled: random.chance(0.9),
    cachePolicy: random.pick(['none', 'all', 'recentlyRead', 'lru']),
    cacheBytes: random.pick([0, 2000, 1 << 20]),
  });
}

/** One step of a client or of the maintenance. Never fails, unless the engine does what it must not. */
export async function step(stage: Stage): Promise<void> {
  const { random } = stage;
  const kind = random.below(100);
  if (kind < 67) return write(stage);
  if (kind < 77) return maintain('flush', stage, () => stage.engine.flush());
  if (kind < 81) return maintain('forced flush', stage, () => stage.engine.flush({ force: true }));
  if (kind < 91) return maintain('snapshot', stage, () => stage.engine.snapshot());
  return maintain('clean-up', stage, () => stage.engine.cleanUp());
}

/**
 * Time goes by, mostly a little, or somebody sets the clock back. While nothing else happens: what a write may say
 * depends on the time.
 */
export function letTimePass({ clock, random, model }: Stage): void {
  clock.advance(random.pick([0, 0, 50, 1000, 20_000, 60_000, 200_000]));
  if (random.chance(0.03)) clock.set(clock.nowMs() - random.below(600_000));
  const nowNs = BigInt(clock.nowMs()) * MS_NS;
  if (nowNs > model.latestNs) model.latestNs = nowNs;
}

/** A step that must be alone, since its order among others would not be known. */
export async function lonelyStep(stage: Stage): Promise<void> {
  const { random } = stage;
  if (random.chance(0.7)) return deleteSome(stage);
  return changeNamespaces(stage);
}

async function maintain(what: string, stage: Stage, run: () => Promise<unknown>): Promise<void> {
  trace(stage, `${what} begins`);
  try {
    trace(stage, `${what} ends`, await run());
  } catch (error) {
    trace(stage, `${what} fails`, error);
    expected(what, stage, error);
  }
}

/** Tells what happens, for those who look for the cause of a failure: `VARVE_SIM_LOG=1`. */
function trace({ clock, model }: Stage, what: string, facts: unknown = ''): void {
  if (process.env['VARVE_SIM_LOG'] !== undefined) console.log(clock.nowMs(), model.moment, what, facts);
}

/** Few series, so that writes meet; half of them are this writer's own, half everybody's in turn. */
export async function write(stage: Stage): Promise<void> {
  const { engine, model, random } = stage;
  const namespace = pickNamespace(stage);
  if (!namespace) return;
  const own = busy.get(model) ?? new Set<string>();
  busy.set(model, own);
  const keys = new Set(Array.from({ length: 1 + random.below(4) }, () => seriesKey(random.below(SERIES))));
  // Two writes of one series at once have no order that is known here.
  const free = [...keys].filter((key) => !own.has(`${namespace.name} ${key}`));
  for (const key of free) own.add(`${namespace.name} ${key}`);
  const attempt = model.begin('write');
  let rejected = 0;
  let samples = 0;
  const series = free.map((key) => {
    const taken: { ms: bigint; bits: bigint }[] = [];
    for (let i = 1 + random.below(random.chance(0.1) ? 150 : 6); i > 0; i--) {
      const { timeNs, accepted } = randomTime(stage, namespace, key);
      const bits = randomBits(stage);
      if (accepted) model.write(namespace.name, { series: key, timeNs, bits }, attempt);
      else rejected++;
      samples++;
      taken.push({ ms: timeNs / MS_NS, bits });
    }
    return { labels: labelsOf(key), samples: taken };
  });
  trace(
    stage,
    `write to ${namespace.name}`,
    series.map(({ labels, samples }) => [keyOf(labels), ...samples.map(({ ms }) => ms)].join(' ')),
  );
  try {
    const outcome = await send(engine, namespace.name, random, series);
    model.end(attempt, true);
    const refused = outcome.rejected.reduce((sum, { count }) => sum + count, 0);
    if (refused !== rejected || outcome.samples !== samples - rejected) {
      throw new Error(
        `the engine took ${outcome.samples} and refused ${refused} of ${samples} samples; ${rejected} were to be refused: ${JSON.stringify(outcome.rejected)}`,
      );
    }
  } catch (error) {
    if (attempt.endedAt === Number.POSITIVE_INFINITY) model.end(attempt, false);
    expected('write', stage, error);
  } finally {
    for (const key of free) own.delete(`${namespace.name} ${key}`);
  }
}

/** Series that a write under way touches. */
const busy = new WeakMap<Model, Set<string>>();

function send(
  engine: StorageEngine,
  namespace: string,
  random: SeededRandom,
  series: readonly { labels: SeriesSamples['labels']; samples: readonly { ms: bigint; bits: bigint }[] }[],
): Promise<WriteOutcome> {
  const kind = random.below(3);
  if (kind < 2) {
    const body = kind === 0 ? encodeWriteRequest(series) : encodeWriteRequest2(series);
    const bytes = encodeSnappy(body);
    const result = engine.writeRemote(namespace, kind === 0 ? 1 : 2, bytes);
    // It may be used again as soon as the call has returned.
    bytes.fill(0xee);
    return result;
  }
  return engine.writeSeries(
    namespace,
    series.map(({ labels, samples }) => ({
      labels,
      samples: samples.map(({ ms, bits }) => ({ timeNs: ms * MS_NS, value: doubleOf(bits) })),
    })),
  );
}

const view = new DataView(new ArrayBuffer(8));

function doubleOf(bits: bigint): number {
  view.setBigUint64(0, bits);
  return view.getFloat64(0);
}

function seriesKey(number: number): string {
  return keyOf([
    ['__name__', `metric${number % 3}`],
    ['host', `h${number}`],
    ...(number % 2 === 0 ? ([['zone', 'ä "quoted"']] as const) : []),
  ]);
}

/** On time, late, long ago, tomorrow, at the edges of each, and where there is a sample already. */
function randomTime(
  { model, clock, random }: Stage,
  options: NamespaceOptions,
  key: string,
): { timeNs: bigint; accepted: boolean } {
  const nowNs = BigInt(clock.nowMs()) * MS_NS;
  const oldestNs = nowNs - options.bufferPastNs;
  const newestNs = nowNs + options.bufferFutureNs;
  const between = (from: bigint, to: bigint): bigint =>
    from + ((to - from) * BigInt(random.below(1000))) / 1000n;
  const known = model.times(options.name, key);
  const kind = random.below(10);
  let timeNs: bigint;
  if (kind < 4) timeNs = nowNs - BigInt(random.below(2000)) * MS_NS;
  else if (kind < 6) timeNs = between(oldestNs, newestNs);
  else if (kind < 8 && known.length > 0) timeNs = known[random.below(known.length)] ?? nowNs;
  else if (kind < 9) timeNs = between(nowNs - options.retentionNs + options.blockSizeNs, oldestNs);
  else timeNs = random.pick([oldestNs, newestNs, newestNs - MS_NS, oldestNs - MS_NS, newestNs + MINUTE_NS]);
  timeNs -= timeNs % MS_NS;
  const isWarm = timeNs >= oldestNs && timeNs < newestNs;
  const isWithin = timeNs >= nowNs - options.retentionNs + options.blockSizeNs;
  if (!isWarm && options.coldWritesEnabled && timeNs < oldestNs && !isWithin) {
    // At the edge of retention it depends on blocks: not asked here.
    return { timeNs: nowNs - (nowNs % MS_NS), accepted: options.bufferFutureNs > 0n };
  }
  return { timeNs, accepted: isWarm || (options.coldWritesEnabled && timeNs < oldestNs) };
}

const SPECIAL = [
  0x7ff0_0000_0000_0002n, // Prometheus' stale marker, a signalling NaN.
  0x7ff8_0000_0000_0001n,
  0x8000_0000_0000_0000n,
  0x0000_0000_0000_0001n,
  0xfff0_0000_0000_0000n,
];

function randomBits({ random, nextValue }: Stage): bigint {
  if (random.chance(0.1)) return SPECIAL[random.below(SPECIAL.length)] ?? 0n;
  const value = nextValue();
  if (random.chance(0.2)) return 0x7ff8_0000_0000_0000n | value; // A NaN that carries it.
  view.setFloat64(0, Number(value) / random.pick([1, 10, 3]));
  return view.getBigUint64(0);
}

async function deleteSome(stage: Stage): Promise<void> {
  const { engine, model, random } = stage;
  const namespace = pickNamespace(stage);
  if (!namespace) return;
  const number = random.below(SERIES);
  const byMetric = random.chance(0.3);
  const metric = `metric${number % 3}`;
  const selector = byMetric ? metric : `${metric}{host="h${number}"}`;
  const matches = (series: string): boolean =>
    byMetric ? series.startsWith(`__name__=${metric},`) : series === seriesKey(number);
  const known = model.times(namespace.name, seriesKey(number));
  const startNs = random.chance(0.3) ? 0n : (known[random.below(known.length)] ?? 0n);
  const endNs = random.chance(0.3) ? 1n << 62n : startNs + BigInt(random.below(300)) * 1000n * MS_NS + 1n;
  const attempt = model.begin('delete');
  trace(stage, `delete ${selector} of ${namespace.name}`, { startNs, endNs });
  model.delete(namespace.name, (series, t) => matches(series) && t >= startNs && t < endNs, attempt);
  try {
    await engine.deleteSeries(namespace.name, { selectors: [parseSelector(selector)], startNs, endNs });
    model.end(attempt, true);
  } catch (error) {
    model.end(attempt, false);
    expected('delete', stage, error);
  }
}

async function changeNamespaces(stage: Stage): Promise<void> {
  const { engine, model, random } = stage;
  // Until it is settled what the last one did, there is no other.
  if (model.pendingNamespaces) return;
  const current = [...model.namespaces.values()].map(({ options }) => options);
  const kind = random.below(3);
  let wanted: NamespaceOptions[];
  if (kind === 0 && current.length < 3) {
    const taken = new Set(current.map(({ name }) => name));
    const name = ['first', 'second', 'third'].find((one) => !taken.has(one)) ?? 'fourth';
    wanted = [...current, randomNamespace(random, name)];
  } else if (kind === 1 && current.length > 1) {
    wanted = current.toSpliced(random.below(current.length), 1);
  } else {
    wanted = current.map((options) => ({
      ...options,
      coldWritesEnabled: random.chance(0.5),
      bufferPastNs: (options.blockSizeNs * BigInt(random.below(9))) / 10n,
    }));
  }
  trace(stage, 'namespaces', wanted);
  const attempt = model.begin('namespaces');
  model.pendingNamespaces = { attempt, wanted };
  try {
    await engine.applyNamespaces(wanted);
    model.end(attempt, true);
    model.setNamespaces(wanted);
    model.pendingNamespaces = undefined;
  } catch (error) {
    model.end(attempt, false);
    expected('applyNamespaces', stage, error);
  }
}

function pickNamespace({ model, random }: Stage): NamespaceOptions | undefined {
  const all = [...model.namespaces.values()];
  return all[random.below(all.length)]?.options;
}

function expected(what: string, { faulty }: Stage, error: unknown): void {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (faulty() && (error instanceof VarveError || /^E[A-Z]+$/.test(code))) return;
  throw new Error(`${what} failed`, { cause: error });
}
