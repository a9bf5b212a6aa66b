import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../../src/core/clock.ts';
import { systemClock } from '../../src/core/clock.ts';
import { NodeFileSystem } from '../../src/core/node-file-system.ts';
import { Engine } from '../../src/storage/engine/engine.ts';
import { namespaceOptions, type NamespaceRequest } from '../../src/storage/engine/namespace-options.ts';
import { parseSelector } from '../../src/storage/index/selector.ts';
import { median } from '../measure.ts';
import { labelsOf, STEP_MS, valuesOf, type DataSet } from '../storage-data.ts';
import { writeBodies } from './bodies.ts';
import { middle, short, Table } from './figures.ts';

const MS_NS = 1_000_000n;
const HOUR_MS = 3_600_000;
/** The beginning of a block of two hours. */
const START_MS = 1_700_006_400_000;
const STEPS_PER_BLOCK = (2 * HOUR_MS) / STEP_MS;
const SILENT = { info: () => {}, warn: () => {}, error: () => {} };

export interface EngineFigures {
  readonly bytesPerSample: number;
  readonly indexBytesPerSample: number;
  readonly readMs: number;
  readonly startMs: number;
  readonly bareNodeMs: number;
}

/** Of an engine that could not be measured. */
export const NO_ENGINE_FIGURES: EngineFigures = {
  bytesPerSample: Number.NaN,
  indexBytesPerSample: Number.NaN,
  readMs: Number.NaN,
  startMs: Number.NaN,
  bareNodeMs: Number.NaN,
};

/** The time of day as the data has it; what sleeps, sleeps for real. */
class DataClock implements Clock {
  ms = START_MS;

  nowMs(): number {
    return this.ms;
  }

  monotonicMs(): number {
    return systemClock.monotonicMs();
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return systemClock.sleep(ms, signal);
  }
}

async function openEngine(
  folder: string,
  clock: Clock,
  namespaces: readonly NamespaceRequest[],
): Promise<Engine> {
  await mkdir(folder, { recursive: true });
  const engine = await Engine.open(
    {
      fs: new NodeFileSystem(),
      clock,
      random: Math.random,
      randomUint32: () => randomInt(2 ** 32),
      log: SILENT,
    },
    { folder, logMode: 'behind', tickMs: 0 },
  );
  await engine.applyNamespaces(namespaces.map(namespaceOptions));
  await engine.ready();
  return engine;
}

/**
 * Data set A as it would come in over three hours, sealed in blocks of two hours and read again, bit for bit, through
 * the engine's iterator; and a start with a thousand filesets.
 */
export async function engineFigures(base: string, set: DataSet, rounds: number): Promise<EngineFigures> {
  const folder = join(base, 'engine');
  try {
    const sealed = await sealAndRead(folder, set, rounds);
    const started = await manyFilesets(join(base, 'many'), rounds);
    return { ...sealed, ...started };
  } finally {
    await rm(folder, { recursive: true, force: true });
    await rm(join(base, 'many'), { recursive: true, force: true });
  }
}

async function sealAndRead(
  folder: string,
  set: DataSet,
  rounds: number,
): Promise<Pick<EngineFigures, 'bytesPerSample' | 'indexBytesPerSample' | 'readMs'>> {
  await mkdir(folder, { recursive: true });
  const clock = new DataClock();
  await using engine = await openEngine(join(folder, 'files'), clock, [{ name: 'a' }]);
  const table = new Table('all of A through the reader of the engine, in this process', [
    'ms',
    'M samples/s',
  ]);
  const samples = set.series * set.samplesPerSeries;
  const row = (name: string, times: readonly number[]): void =>
    table.row(name, [middle(times), short(samples / median(times) / 1000)]);
  await feed(engine, clock, { set, path: join(folder, 'bodies') });
  row('from memory', await timesOf(rounds, () => sumOf(engine, samples)));
  clock.ms = START_MS + 5 * HOUR_MS;
  const from = performance.now();
  const { filesets, failures } = await engine.flush();
  const flushMs = performance.now() - from;
  if (failures.length > 0) throw new Error(`flush: ${failures[0]?.reason}`);
  const read = await timesOf(rounds * 3, () => sumOf(engine, samples));
  row('from files', read);
  row(`(flush, ${filesets} filesets)`, [flushMs]);
  table.print();
  await compare(engine, set);
  return { ...(await showSizes(engine, join(folder, 'files'), samples)), readMs: median(read) };
}

/** Requests of a scrape of the fleet, when they would have come. */
async function feed(
  engine: Engine,
  clock: DataClock,
  { set, path }: { set: DataSet; path: string },
): Promise<void> {
  const file = writeBodies(path, set, START_MS);
  const content = readFileSync(path);
  await rm(path);
  const lanes = file.bodies / set.samplesPerSeries;
  let count = 0;
  for (let at = 0; at < content.length; count++) {
    const size = content.readUInt32LE(at + 4);
    clock.ms = START_MS + Math.floor(count / lanes) * STEP_MS + STEP_MS;
    const { rejected } = await engine.writeRemote('a', 1, content.subarray(at + 8, at + 8 + size));
    if (rejected.length > 0) throw new Error(`refused: ${rejected[0]?.example}`);
    at += 8 + size;
  }
}

const EVERYTHING = { matchers: parseSelector('{__name__!=""}'), startNs: 0n, endNs: 1n << 62n };

/** Four sums at once: one addition need not wait for the one before. */
function sumUp(values: Float64Array): number {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let i = 0;
  for (const whole = values.length & ~3; i < whole; i += 4) {
    a += values[i] as number;
    b += values[i + 1] as number;
    c += values[i + 2] as number;
    d += values[i + 3] as number;
  }
  for (; i < values.length; i++) a += values[i] as number;
  return a + b + (c + d);
}

/** A page at a time, as whoever evaluates queries will read. */
async function sumOf(engine: Engine, samples: number): Promise<number> {
  let [sum, count] = [0, 0];
  for await (const page of engine.readPages('a', EVERYTHING)) {
    for (const { columns = [] } of page) {
      for (const { values } of columns) {
        sum += sumUp(values);
        count += values.length;
      }
    }
  }
  if (count !== samples) throw new Error(`${count} samples were read of ${samples}`);
  return sum;
}

async function timesOf(rounds: number, work: () => Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    const from = performance.now();
    await work();
    if (round > 0) times.push(performance.now() - from);
  }
  return times;
}

/** Every bit of every value is what was written. */
async function compare(engine: Engine, set: DataSet): Promise<void> {
  const seriesOf = new Map(Array.from({ length: set.series }, (_, i) => [labelsOf(i).join(), i]));
  let count = 0;
  for await (const { labels, batches } of engine.read('a', EVERYTHING)) {
    const series = seriesOf.get(labels.join());
    if (series === undefined) throw new Error(`${labels.join()} was never written`);
    const wanted = new BigUint64Array(valuesOf(set, series).buffer);
    let at = 0;
    for await (const { bits } of batches) {
      for (const one of bits)
        if (one !== wanted[at++]) throw new Error(`series ${series} differs at ${at - 1}`);
    }
    count += at;
  }
  if (count !== set.series * set.samplesPerSeries) throw new Error(`${count} samples are there`);
}

async function showSizes(
  engine: Engine,
  folder: string,
  samples: number,
): Promise<Pick<EngineFigures, 'bytesPerSample' | 'indexBytesPerSample'>> {
  const bytes = { data: 0, index: 0, other: 0 };
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const { size } = await stat(join(entry.parentPath, entry.name));
    if (entry.name.endsWith('-data.db')) bytes.data += size;
    else if (entry.name.endsWith('-index.db') || entry.parentPath.includes('/index/')) bytes.index += size;
    else if (entry.parentPath.includes('/data/')) bytes.other += size;
  }
  // The first block is whole; of the second one only an hour is filled, which cannot be packed as well.
  let [wholeBytes, wholeSamples] = [0, 0];
  for await (const fileset of engine.inspect('a')) {
    if (fileset.kind !== 'flush' || fileset.blockStartNs !== BigInt(START_MS) * MS_NS) continue;
    wholeBytes += fileset.payloadBytes;
    wholeSamples += fileset.series * STEPS_PER_BLOCK;
  }
  const table = new Table('sealed A, bit for bit as it was written', ['bytes/sample']);
  table.row('a block of two hours', [(wholeBytes / wholeSamples).toFixed(3)]);
  table.row('all, with the hour behind it', [(bytes.data / samples).toFixed(3)]);
  table.row('indices: IDs of series, and inverted', [(bytes.index / samples).toFixed(3)]);
  table.row('the rest: info, digest, checkpoint', [(bytes.other / samples).toFixed(3)]);
  table.print();
  return { bytesPerSample: wholeBytes / wholeSamples, indexBytesPerSample: bytes.index / samples };
}

const FILESETS = 1000;

/** How long the engine needs to be ready, in a process of its own, and what a process costs that does nothing. */
async function manyFilesets(
  folder: string,
  rounds: number,
): Promise<Pick<EngineFigures, 'startMs' | 'bareNodeMs'>> {
  const clock = new DataClock();
  const options = {
    name: 'a',
    blockSizeNs: BigInt(HOUR_MS) * MS_NS,
    retentionNs: 1000n * BigInt(HOUR_MS) * MS_NS,
  };
  const engine = await openEngine(folder, clock, [options]);
  for (let hour = 0, filesets = 0; filesets < FILESETS; hour++) {
    clock.ms = START_MS + hour * HOUR_MS + 60_000;
    const series = Array.from({ length: 100 }, (_, i) => ({
      labels: labelsOf(i),
      samples: [{ timeNs: BigInt(clock.ms) * MS_NS, value: i }],
    }));
    await engine.writeSeries('a', series);
    filesets += (await engine.flush({ force: true })).filesets;
  }
  await engine[Symbol.asyncDispose]();
  const root = fileURLToPath(new URL('../../dist/', import.meta.url));
  const script = `
    const load = async (path) => await import(${JSON.stringify(root)} + path);
    const { Engine } = await load('storage/engine/engine.js');
    const { NodeFileSystem } = await load('core/node-file-system.js');
    const { systemClock } = await load('core/clock.js');
    const note = () => {};
    const from = performance.now();
    const engine = await Engine.open({ fs: new NodeFileSystem(), clock: { ...systemClock, nowMs: () => ${clock.ms} },
      random: Math.random, randomUint32: () => 7, log: { info: note, warn: note, error: note } },
      { folder: ${JSON.stringify(folder)}, logMode: 'behind', tickMs: 0 });
    await engine.ready();
    console.log(performance.now() - from);
    process.exit(0);`;
  const [own, whole, bare]: number[][] = [[], [], []];
  const started = (args: readonly string[]): { ms: number; out: string } => {
    const from = performance.now();
    const out = execFileSync(process.execPath, args, { encoding: 'utf8' });
    return { ms: performance.now() - from, out };
  };
  for (let round = 0; round < rounds * 3; round++) {
    const { ms, out } = started(['--input-type=module', '-e', script]);
    own?.push(Number(out));
    whole?.push(ms);
    bare?.push(started(['-e', '0']).ms);
  }
  const table = new Table('a start with 1,000 filesets and nothing else, ms', ['median']);
  table.row('the engine, until it is ready', [middle(own ?? [])]);
  table.row('the process, until its end', [middle(whole ?? [])]);
  table.row('node -e 0', [middle(bare ?? [])]);
  table.print();
  return { startMs: median(own ?? []), bareNodeMs: median(bare ?? []) };
}
