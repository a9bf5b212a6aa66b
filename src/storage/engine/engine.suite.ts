import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { LabelPair } from '../index/labels.ts';
import { labelMatcher } from '../index/matcher.ts';
import type { EngineDeps } from './engine-parts.ts';
import { Engine } from './engine.ts';
import { namespaceOptions, type NamespaceRequest } from './namespace-options.ts';
import type { EngineOptions, SeriesSamples, WriteOutcome } from './storage-engine.ts';

export const MINUTE_NS = 60_000_000_000n;
export const HOUR_NS = 60n * MINUTE_NS;
/** 2026-03-05T14:30:00Z, in the middle of a block of two hours. */
export const NOW_NS = 1_772_721_000_000_000_000n;
export const BLOCK_NS = NOW_NS - (NOW_NS % (2n * HOUR_NS));

/** Stands still until it is moved; sleeps end when it is moved beyond them. */
export class ManualClock implements Clock {
  #ns = NOW_NS;
  readonly #sleepers = new Set<{ readonly untilNs: bigint; readonly wake: () => void }>();

  get nowNs(): bigint {
    return this.#ns;
  }

  nowMs(): number {
    return Number(this.#ns / 1_000_000n);
  }

  monotonicMs(): number {
    return this.nowMs();
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      const sleeper = {
        untilNs: this.#ns + BigInt(Math.ceil(ms * 1e6)),
        wake: () => {
          this.#sleepers.delete(sleeper);
          resolve();
        },
      };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(sleeper);
        reject(signal.reason as Error);
      });
    });
  }

  advance(ns: bigint): void {
    this.#ns += ns;
    for (const sleeper of this.#sleepers) if (sleeper.untilNs <= this.#ns) sleeper.wake();
  }
}

export const FOLDER = '/engine';

export interface Place {
  readonly fs: FileSystem;
  readonly folder: string;
  readonly clock: ManualClock;
  readonly seed?: number;
}

export async function simulatedPlace(seed = 1): Promise<Place & { readonly fs: SimulatedDisk }> {
  const fs = new SimulatedDisk({ seed });
  await fs.makeFolder(FOLDER);
  await fs.syncFolder('/');
  return { fs, folder: FOLDER, clock: new ManualClock(), seed };
}

/** One that works only when it is told to. */
export async function openEngine(
  place: Place,
  options: Partial<EngineOptions> = {},
  deps: Partial<EngineDeps> = {},
): Promise<Engine> {
  const random = new SeededRandom(place.seed ?? 1);
  const silent = { info: () => {}, warn: () => {}, error: () => {} };
  const all: EngineDeps = {
    fs: place.fs,
    clock: place.clock,
    random: () => random.next(),
    randomUint32: () => random.below(2 ** 32),
    log: silent,
    ...deps,
  };
  return await Engine.open(all, {
    folder: place.folder,
    logMode: 'sync',
    shardCount: 4,
    memoryMb: 64,
    tickMs: 0,
    logSegmentBytes: 256 * 1024,
    keepFreeBytes: 0,
    ...options,
  });
}

export async function readyEngine(
  place: Place,
  requests: readonly NamespaceRequest[] = [{ name: 'default' }],
  options: Partial<EngineOptions> = {},
): Promise<Engine> {
  const engine = await openEngine(place, options);
  await engine.ready();
  await engine.applyNamespaces(requests.map(namespaceOptions));
  await engine.ready();
  return engine;
}

export function labelsOf(name: string, more: Readonly<Record<string, string>> = {}): LabelPair[] {
  return [['__name__', name], ...Object.entries(more)];
}

export type Samples = readonly (readonly [timeNs: bigint, value: number])[];

export function seriesOf(labels: readonly LabelPair[], samples: Samples): SeriesSamples {
  return { labels, samples: samples.map(([timeNs, value]) => ({ timeNs, value })) };
}

export async function write(
  engine: Engine,
  name: string,
  samples: Samples,
  namespace = 'default',
): Promise<WriteOutcome> {
  return await engine.writeSeries(namespace, [seriesOf(labelsOf(name), samples)]);
}

/** Every series of the namespace with its samples: `name{a="b"}` → `time=bits`, sorted by key. */
export async function dump(
  engine: Engine,
  namespace = 'default',
  range: { startNs: bigint; endNs: bigint } = { startNs: 0n, endNs: 2n ** 62n },
): Promise<Record<string, string[]>> {
  const found: Record<string, string[]> = {};
  const matchers = [labelMatcher('__name__', '=~', '.+')];
  for await (const series of engine.read(namespace, { matchers, ...range })) {
    const key = keyOf(series.labels);
    const samples: string[] = [];
    for await (const { times, bits } of series.batches) {
      for (const [place, time] of times.entries()) samples.push(`${time}=${bits[place]?.toString(16)}`);
    }
    found[key] = samples;
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function keyOf(labels: readonly LabelPair[]): string {
  const name = labels.find(([label]) => label === '__name__')?.[1] ?? '';
  const rest = labels.filter(([label]) => label !== '__name__').map(([label, value]) => `${label}=${value}`);
  return rest.length === 0 ? name : `${name}{${rest.join(',')}}`;
}

export function expected(samples: Samples): string[] {
  const floats = new Float64Array(1);
  const bits = new BigUint64Array(floats.buffer);
  return samples.map(([time, value]) => {
    floats[0] = value;
    return `${time}=${bits[0]?.toString(16)}`;
  });
}
