/**
 * The kernels on the way of a remote write request, on data set A in requests of 2,000 samples, one scrape after
 * the other: `npx tsx bench/storage-ingest.ts [hosts]`. Nanoseconds are per sample, of one thread.
 */
import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { type Address, ENTRY, KERNEL_FILE, Kernel } from '../src/storage/kernel/kernel.ts';
import { checked } from '../src/storage/kernel/kernel-fault.ts';
import * as plainWrite from '../src/storage/kernel/remote-write.ts';
import { encodeWriteRequest } from '../src/storage/kernel/remote-write.suite.ts';
import { SeriesTable } from '../src/storage/kernel/series-table.ts';
import { decodeSnappy } from '../src/storage/kernel/snappy.ts';
import { median, noise } from './measure.ts';
import { DATA_SETS, labelsOf, timesOf, valuesOf } from './storage-data.ts';

const SAMPLES_PER_REQUEST = 2000;
const SCRAPES = 8;
const ROUNDS = 9;
const LIMITS = { maxSeries: SAMPLES_PER_REQUEST, maxSamples: SAMPLES_PER_REQUEST };

const hosts = Number(process.argv[2] ?? 100);
const kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 1 << 30 });
const { calls } = kernel;
const body = kernel.allocate(1 << 20);
const scratch = kernel.allocate(1 << 20);
const entries = kernel.allocate(SAMPLES_PER_REQUEST * 4 * ENTRY.length);
const times = kernel.allocate(SAMPLES_PER_REQUEST * 8);
const values = kernel.allocate(SAMPLES_PER_REQUEST * 8);
const references = kernel.allocate(SAMPLES_PER_REQUEST * 4);
const batch = kernel.allocate(calls.maxLogSamplesBytes(SAMPLES_PER_REQUEST));
const readReferences = kernel.allocate(SAMPLES_PER_REQUEST * 4);
const readTimes = kernel.allocate(SAMPLES_PER_REQUEST * 8 + 32);
const readValues = kernel.allocate(SAMPLES_PER_REQUEST * 8 + 32);

interface Request {
  readonly address: Address;
  readonly sizeBytes: number;
}

const view = new DataView(new ArrayBuffer(8));
const bitsOf = (value: number): bigint => {
  view.setFloat64(0, value);
  return view.getBigUint64(0);
};

const requests: Request[] = [];
let [rawBytes, snappyBytes] = [0, 0];
const seriesCount = hosts * 100;
const perRequest = Math.min(SAMPLES_PER_REQUEST, seriesCount);
const columns = Array.from({ length: seriesCount }, (_, series) => ({
  labels: labelsOf(series),
  times: timesOf(DATA_SETS.A, series).slice(0, SCRAPES),
  values: valuesOf(DATA_SETS.A, series).slice(0, SCRAPES),
}));
for (let scrape = 0; scrape < SCRAPES; scrape++) {
  for (let first = 0; first < seriesCount; first += perRequest) {
    const raw = encodeWriteRequest(
      columns.slice(first, first + perRequest).map((column) => ({
        labels: column.labels,
        samples: [{ ms: BigInt(column.times[scrape] ?? 0), bits: bitsOf(column.values[scrape] ?? 0) }],
      })),
    );
    const from = kernel.allocate(raw.length);
    kernel.bytes.set(raw, from);
    const sizeBytes = checked(calls.encodeSnappy(from, raw.length, body, scratch));
    const address = kernel.allocate(sizeBytes);
    kernel.bytes.copyWithin(address, body, body + sizeBytes);
    requests.push({ address, sizeBytes });
    rawBytes += raw.length;
    snappyBytes += sizeBytes;
  }
}
const samples = SCRAPES * seriesCount;
console.log(`${seriesCount} series, ${SCRAPES} scrapes, ${requests.length} requests`);
console.log(
  `  ${(rawBytes / samples).toFixed(1)} bytes a sample raw, ${(snappyBytes / samples).toFixed(1)} as Snappy`,
);

/** By stage, of each request: its median is hardly moved by what else the machine does. */
const nsPerSample = new Map<string, number[]>();
let stageStart = 0;
let logBytes = 0;
let chunkBytes = 0;
function stage(name: string, samplesInIt: number): void {
  const now = performance.now();
  const all = nsPerSample.get(name) ?? [];
  all.push(((now - stageStart) * 1e6) / samplesInIt);
  nsPerSample.set(name, all);
  stageStart = performance.now();
}

for (let round = 0; round <= ROUNDS; round++) {
  const table = calls.createSeriesTable(1 << 20, 1n);
  const chunks = calls.createChunks(0n, 1n << 62n, 0);
  const [writer, reader] = [calls.createLogState(), calls.createLogState()];
  logBytes = 0;
  if (round === 1) nsPerSample.clear();
  let after = -1;
  for (const [i, { address, sizeBytes }] of requests.entries()) {
    const isFirst = i < requests.length / SCRAPES;
    stageStart = performance.now();
    const size = checked(calls.decodeSnappy(address, sizeBytes, body, (1 << 20) - 64));
    stage('decode Snappy', perRequest);
    const count = checked(
      calls.walkWriteRequest(
        body,
        size,
        entries,
        LIMITS.maxSeries,
        times,
        values,
        LIMITS.maxSamples,
        scratch,
      ),
    );
    stage('walk', perRequest);
    const last = checked(calls.resolveSeries(table, entries, count, references, after));
    stage(isFirst ? 'series, new' : 'series, known', perRequest);
    checked(
      calls.walkKnownSeries(
        table,
        after,
        references,
        body,
        size,
        entries,
        LIMITS.maxSeries,
        times,
        values,
        LIMITS.maxSamples,
        scratch,
      ),
    );
    if (calls.walkedUnresolved() > 0) throw new Error('series are unknown');
    if (!isFirst) stage('walk and series, at once', perRequest);
    else stageStart = performance.now();
    after = last;
    const restarts = i === 0 ? 1 : 0;
    const logSize = checked(
      calls.encodeLogSamples(writer, restarts, entries, count, references, times, values, batch),
    );
    stage('write log batch', perRequest);
    crc32(kernel.bytes.subarray(batch, batch + logSize));
    stage('checksum (zlib)', perRequest);
    calls.appendSamples(chunks, entries, count, references, times, values, 1n);
    stage('append', perRequest);
    checked(
      calls.decodeLogSamples(
        reader,
        batch,
        logSize,
        1 << 20,
        readReferences,
        readTimes,
        readValues,
        SAMPLES_PER_REQUEST,
      ),
    );
    stage('read log batch', perRequest);
    if (i >= requests.length / SCRAPES) logBytes += logSize;
  }
  if (calls.chunksOrdered(chunks) !== samples) throw new Error('samples are missing');
  const before = calls.usedPages();
  calls.freeChunks(chunks);
  chunkBytes = (before - calls.usedPages()) * 65_536;
  calls.freeLogState(writer);
  calls.freeLogState(reader);
  calls.freeSeriesTable(table);
}
console.log('ns per sample:');
for (const [name, ns] of nsPerSample) {
  console.log(
    `  ${name.padEnd(26)} ${median(ns).toFixed(1).padStart(9)}   ± ${(noise(ns) * 100).toFixed(0)} %`,
  );
}

const knownSamples = (samples * (SCRAPES - 1)) / SCRAPES;
console.log(`log: ${(logBytes / knownSamples).toFixed(2)} bytes a sample after the first scrape`);
console.log(`open chunks: ${(chunkBytes / seriesCount).toFixed(0)} bytes a series of ${SCRAPES} samples`);

const plainTable = new SeriesTable(1 << 20);
const plainStart = performance.now();
let plainSamples = 0;
for (const { address, sizeBytes } of requests.slice(0, 3)) {
  const raw = decodeSnappy(kernel.bytes.slice(address, address + sizeBytes), 1 << 20);
  for (const { labels, times: at } of plainWrite.walkWriteRequest(raw, LIMITS).series) {
    plainTable.resolve(labels, true);
    plainSamples += at.length;
  }
}
const plainNs = ((performance.now() - plainStart) * 1e6) / plainSamples;
console.log(`  ${'all of it, plain'.padEnd(26)} ${plainNs.toFixed(1).padStart(9)}`);
