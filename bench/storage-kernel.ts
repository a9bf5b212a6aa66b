/**
 * The storage kernels side by side with the XOR chunk and with their plain counterparts, on data set A in blocks
 * of two hours: `npx tsx bench/storage-kernel.ts [series]`. Nanoseconds are per sample, of one thread's
 * processor time.
 */
import { readFileSync } from 'node:fs';
import { KERNEL_FILE, Kernel } from '../src/storage/kernel/kernel.ts';
import { checked } from '../src/storage/kernel/kernel-fault.ts';
import * as plainTimes from '../src/storage/kernel/time-column.ts';
import * as plainValues from '../src/storage/kernel/value-column.ts';
import * as plainXor from '../src/storage/kernel/xor-chunk.ts';
import { m3tszBytes, tszBytes } from './m3tsz-size.ts';
import { median, noise } from './measure.ts';
import { DATA_SETS, hostOf, timesOf, valuesOf } from './storage-data.ts';

const BLOCK = 480;
const CHUNK = 120;
const ROUNDS = 25;
/** The plain counterparts are read, not run: a few series are enough. */
const PLAIN_SERIES = 4;

interface Piece {
  readonly address: number;
  readonly sizeBytes: number;
}

interface Series {
  readonly times: number;
  readonly values: number;
  readonly column: Piece;
  readonly chunks: readonly Piece[];
}

const seriesCount = Number(process.argv[2] ?? 2000);
const set = DATA_SETS.A;
const kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 1 << 30 });
const { calls } = kernel;
const out = kernel.allocate(64 << 10);
const out2 = kernel.allocate(64 << 10);
const scratch = kernel.allocate(64 << 10);

/** Pieces of one kind lie one behind the other, as in a file. */
class Store {
  #next: number;

  constructor(roomBytes: number) {
    this.#next = kernel.allocate(roomBytes);
  }

  keep(from: number, sizeBytes: number): Piece {
    const address = this.#next;
    kernel.bytes.copyWithin(address, from, from + checked(sizeBytes));
    this.#next += sizeBytes;
    return { address, sizeBytes };
  }
}

const columnStore = new Store(seriesCount * calls.maxValueColumnBytes(BLOCK));
const chunkStore = new Store((seriesCount * BLOCK * calls.maxXorChunkBytes(CHUNK)) / CHUNK);
const valueStore = new Store(seriesCount * BLOCK * 8);
const timeStore = new Store(seriesCount * BLOCK * 8);

function load(column: BigInt64Array | Float64Array, store: Store): number {
  kernel.bytes.set(new Uint8Array(column.buffer, column.byteOffset, column.byteLength), scratch);
  return store.keep(scratch, column.byteLength).address;
}

const sizes = { values: 0, sharedTimes: 0, privateTimes: 0, xor: 0, m3tsz: 0, tsz: 0 };
const timeColumns = new Set<string>();
const all: Series[] = [];
for (let series = 0; series < seriesCount; series++) {
  const timesMs = timesOf(set, series).subarray(0, BLOCK);
  const doubles = valuesOf(set, series).slice(0, BLOCK);
  const times = load(BigInt64Array.from(timesMs, BigInt), timeStore);
  const values = load(doubles, valueStore);
  const column = columnStore.keep(out, calls.encodeValues(values, BLOCK, out, scratch));
  checked(calls.decodeValues(column.address, column.sizeBytes, BLOCK, out2));
  const decoded = kernel.bytes.subarray(out2, out2 + BLOCK * 8);
  if (Buffer.compare(decoded, kernel.bytes.subarray(values, values + BLOCK * 8)) !== 0) {
    throw new Error(`series ${series} is not bit for bit what it was`);
  }
  const timesNs = BigInt64Array.from(timesMs, (ms) => BigInt(ms) * 1_000_000n);
  kernel.bytes.set(new Uint8Array(timesNs.buffer), out2);
  const timeBytes = checked(calls.encodeTimes(out2, BLOCK, out, scratch));
  const chunks: Piece[] = [];
  for (let from = 0; from < BLOCK; from += CHUNK) {
    chunks.push(chunkStore.keep(out, calls.encodeXorChunk(times + from * 8, values + from * 8, CHUNK, out)));
  }
  all.push({ times, values, column, chunks });
  sizes.values += column.sizeBytes;
  sizes.privateTimes += timeBytes;
  const timeKey = `${hostOf(series)}`;
  if (!timeColumns.has(timeKey)) sizes.sharedTimes += timeBytes;
  timeColumns.add(timeKey);
  sizes.xor += chunks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  sizes.m3tsz += m3tszBytes(timesMs, doubles);
  sizes.tsz += tszBytes(timesMs, doubles);
}

const samples = seriesCount * BLOCK;
const perSample = (bytes: number): string => (bytes / samples).toFixed(3);
console.log(`data set ${set.name}, ${seriesCount} series of ${BLOCK} samples`);
console.log('bytes per sample:');
console.log(`  column                 ${perSample(sizes.values)} values`);
console.log(`    + times, shared      ${perSample(sizes.values + sizes.sharedTimes)}`);
console.log(`    + times, private     ${perSample(sizes.values + sizes.privateTimes)}`);
console.log(`  XOR chunk (Prometheus) ${perSample(sizes.xor)}`);
console.log(`  M3TSZ, counted         ${perSample(sizes.m3tsz)}`);
console.log(`  TSZ, counted           ${perSample(sizes.tsz)}`);

const plain = all.slice(0, PLAIN_SERIES).map(({ times, values, column, chunks }) => ({
  times: new BigInt64Array(kernel.bytes.slice(times, times + BLOCK * 8).buffer),
  values: new BigUint64Array(kernel.bytes.slice(values, values + BLOCK * 8).buffer),
  column: kernel.bytes.slice(column.address, column.address + column.sizeBytes),
  chunks: chunks.map(({ address, sizeBytes }) => kernel.bytes.slice(address, address + sizeBytes)),
}));

const decodeColumns = (): void => {
  for (const { column } of all) checked(calls.decodeValues(column.address, column.sizeBytes, BLOCK, out));
};
const decodeXor = (): void => {
  for (const { chunks } of all) {
    for (const { address, sizeBytes } of chunks) {
      checked(calls.decodeXorChunk(address, sizeBytes, out, out2, CHUNK));
    }
  }
};
const encodeColumns = (): void => {
  for (const { values } of all) checked(calls.encodeValues(values, BLOCK, out, scratch));
};
const encodeXor = (): void => {
  for (const { times, values } of all) {
    for (let from = 0; from < BLOCK * 8; from += CHUNK * 8) {
      checked(calls.encodeXorChunk(times + from, values + from, CHUNK, out));
    }
  }
};

const contenders: { name: string; series: number; run: () => void }[] = [
  { name: 'decode column', series: seriesCount, run: decodeColumns },
  { name: 'decode XOR chunk', series: seriesCount, run: decodeXor },
  { name: 'encode column', series: seriesCount, run: encodeColumns },
  { name: 'encode XOR chunk', series: seriesCount, run: encodeXor },
  {
    name: 'decode column, plain',
    series: PLAIN_SERIES,
    run: () => plain.forEach(({ column }) => plainValues.decodeValues(column, BLOCK)),
  },
  {
    name: 'decode XOR chunk, plain',
    series: PLAIN_SERIES,
    run: () =>
      plain.forEach(({ chunks }) => chunks.forEach((chunk) => plainXor.decodeXorChunk(chunk, CHUNK))),
  },
  {
    name: 'encode column, plain',
    series: PLAIN_SERIES,
    run: () => plain.forEach(({ values }) => plainValues.encodeValues(values)),
  },
  {
    name: 'encode times, plain',
    series: PLAIN_SERIES,
    run: () => plain.forEach(({ times }) => plainTimes.encodeTimes(times)),
  },
];

/** Processor time, in turn and in changing order: what else the machine does hardly counts. */
const elapsedMs = new Map<string, number[]>(contenders.map(({ name }) => [name, []]));
for (let round = 0; round <= ROUNDS; round++) {
  for (const { name, run } of round % 2 === 0 ? contenders : contenders.toReversed()) {
    const before = process.cpuUsage();
    run();
    const { user, system } = process.cpuUsage(before);
    if (round > 0) elapsedMs.get(name)?.push((user + system) / 1000);
  }
}
console.log('ns of processor time per sample, median and best:');
const nsOf = new Map<string, { median: number; best: number }>();
for (const { name, series } of contenders) {
  const ns = (elapsedMs.get(name) ?? []).map((ms) => (ms * 1e6) / (series * BLOCK));
  const figures = { median: median(ns), best: Math.min(...ns) };
  nsOf.set(name, figures);
  const [middle, best] = [figures.median, figures.best].map((value) => value.toFixed(2).padStart(9));
  console.log(`  ${name.padEnd(26)} ${middle} ${best}   ± ${(noise(ns) * 100).toFixed(0)} %`);
}
function ratioOf(what: string): string {
  const [xor, column] = [nsOf.get(`${what} XOR chunk`), nsOf.get(`${what} column`)];
  if (xor === undefined || column === undefined) return 'unknown';
  return `${(xor.median / column.median).toFixed(1)} (best of each: ${(xor.best / column.best).toFixed(1)})`;
}
console.log(`XOR chunk / column: decode ${ratioOf('decode')}, encode ${ratioOf('encode')}`);
