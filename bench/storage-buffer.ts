/**
 * A namespace in memory: decoding, logging and applying remote write requests, what they take of memory, replaying
 * the log, reading. `npx tsx bench/storage-buffer.ts [A|B|C] [part]`, where a part of 0.1 takes a tenth of the series.
 * One thread; nanoseconds are per sample.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BufferMemory } from '../src/storage/buffer/buffer-memory.ts';
import { MemoryImages } from '../src/storage/buffer/memory-image.ts';
import { restoreImage } from '../src/storage/buffer/restore-image.ts';
import { NodeFileSystem } from '../src/core/node-file-system.ts';
import { NamespaceBuffer, type BufferOptions } from '../src/storage/buffer/namespace-buffer.ts';
import { encodeLabels } from '../src/storage/index/labels.ts';
import { KERNEL_FILE, Kernel } from '../src/storage/kernel/kernel.ts';
import { checked } from '../src/storage/kernel/kernel-fault.ts';
import { median } from './measure.ts';
import { DATA_SETS, hostOf, labelsOf, timesOf, valuesOf } from './storage-data.ts';

const SAMPLES_PER_REQUEST = 2000;
const HOUR_NS = 3_600_000_000_000n;
const name = (process.argv[2] ?? 'A') as keyof typeof DATA_SETS;
const set = DATA_SETS[name];
const seriesCount = Math.round(set.series * Number(process.argv[3] ?? 1));
const perRequest = Math.min(SAMPLES_PER_REQUEST, seriesCount);

const options: BufferOptions = {
  blockSizeNs: 2n * HOUR_NS,
  bufferPastNs: HOUR_NS,
  bufferFutureNs: HOUR_NS,
  retentionNs: 48n * HOUR_NS,
  coldWritesEnabled: true,
  maxSeries: 1_000_000,
  shardCount: 32,
};

/** Makes bodies without an object a sample: the generator is not what is measured. */
class Bodies {
  readonly #kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 64 << 20 });
  readonly #raw = Buffer.alloc(1 << 20);
  readonly #from = this.#kernel.allocate(1 << 20);
  readonly #out = this.#kernel.allocate(2 << 20);
  readonly #scratch = this.#kernel.allocate(1 << 20);
  readonly #labels = Array.from({ length: seriesCount }, (_, series) =>
    Buffer.from(encodeLabels(labelsOf(series))),
  );
  readonly #times = new Map<number, Float64Array>();
  readonly #values: Float64Array[] = [];

  /** Values are made by series, requests by scrape: all values are kept. */
  constructor() {
    for (let series = 0; series < seriesCount; series++) {
      this.#values.push(valuesOf(set, series));
      if (!this.#times.has(hostOf(series))) this.#times.set(hostOf(series), timesOf(set, series));
    }
  }

  timeOf(scrape: number): bigint {
    return BigInt(this.#times.get(0)?.[scrape] ?? 0) * 1_000_000n;
  }

  at(scrape: number, first: number): Uint8Array {
    let at = 0;
    const raw = this.#raw;
    for (let series = first; series < Math.min(first + perRequest, seriesCount); series++) {
      const labels = this.#labels[series] ?? Buffer.alloc(0);
      const time = this.#times.get(hostOf(series))?.[scrape] ?? 0;
      // A time of six bytes: a sample of 16 with its head, a message of labels and 18.
      raw[at++] = 0x0a;
      const length = labels.length + 18;
      raw[at++] = (length & 127) | 128;
      raw[at++] = length >>> 7;
      at += labels.copy(raw, at);
      raw.set([0x12, 16, 0x09], at);
      raw.writeDoubleLE(this.#values[series]?.[scrape] ?? 0, at + 3);
      raw[at + 11] = 0x10;
      let rest = time;
      for (let i = 0; i < 6; i++) {
        raw[at + 12 + i] = (rest % 128) | (i < 5 ? 128 : 0);
        rest = Math.floor(rest / 128);
      }
      at += 18;
    }
    const { bytes, calls } = this.#kernel;
    bytes.set(raw.subarray(0, at), this.#from);
    const size = checked(calls.encodeSnappy(this.#from, at, this.#out, this.#scratch));
    return this.#kernel.bytes.slice(this.#out, this.#out + size);
  }
}

const bodies = new Bodies();
const memory = new BufferMemory({ limitBytes: 1 << 30 });
const buffer = new NamespaceBuffer(memory, options);
const payloads: Uint8Array[] = [];
const append = (payload: Uint8Array): Promise<void> => {
  payloads.push(payload.slice());
  return Promise.resolve();
};
const requestMs: number[] = [];
let [ms, cpuMs, samples, version] = [0, 0, 0, 0n];
for (let scrape = 0; scrape < set.samplesPerSeries; scrape++) {
  for (let first = 0; first < seriesCount; first += perRequest) {
    const body = bodies.at(scrape, first);
    const now = bodies.timeOf(scrape);
    const cpuStart = process.cpuUsage();
    const start = performance.now();
    const outcome = await buffer.commit(buffer.decodeRemote(1, body, now), ++version, append);
    const took = performance.now() - start;
    const { user, system } = process.cpuUsage(cpuStart);
    cpuMs += (user + system) / 1000;
    ms += took;
    requestMs.push(took);
    samples += outcome.samples;
  }
}
const ns = (took: number): string => ((took * 1e6) / samples).toFixed(1);
const mib = (bytes: number): string => (bytes / 1024 / 1024).toFixed(1);
console.log(`${name}: ${seriesCount} series, ${samples} samples, ${payloads.length} requests`);
console.log(
  `  write      ${ns(ms)} ns a sample, ${ns(cpuMs)} of processors, ${(samples / ms / 1000).toFixed(2)} M/s`,
);
const ordered = [...requestMs].sort((a, b) => a - b);
console.log(
  `  request    median ${median(requestMs).toFixed(2)} ms, p99 ${(ordered[Math.floor(ordered.length * 0.99)] ?? 0).toFixed(2)}, most ${(ordered.at(-1) ?? 0).toFixed(2)}`,
);
const logBytes = payloads.reduce((sum, payload) => sum + payload.length, 0);
console.log(`  log        ${(logBytes / samples).toFixed(2)} bytes a sample`);
console.log(
  `  memory     ${mib(memory.use.usedBytes)} MiB in use, kernel ${mib(memory.kernel.bytes.length)}`,
);
for (const block of buffer.blocks()) {
  console.log(
    `  block      ${block.samples} samples, ${mib(block.memoryBytes)} MiB, ${(block.memoryBytes / block.samples).toFixed(2)} bytes a sample`,
  );
}

for (let round = 0; round < 3; round++) {
  const again = new BufferMemory({ limitBytes: 1 << 30 });
  const restored = new NamespaceBuffer(again, options);
  const cpuStart = process.cpuUsage();
  const start = performance.now();
  for (const payload of payloads) restored.replay(payload);
  const took = performance.now() - start;
  const { user, system } = process.cpuUsage(cpuStart);
  console.log(
    `  replay     ${ns(took)} ns a sample, ${ns((user + system) / 1000)} of processors, ${(samples / took / 1000).toFixed(1)} M/s, ${took.toFixed(0)} ms`,
  );
}

const folder = mkdtempSync(join(tmpdir(), 'varve-bench-image-'));
try {
  const fs = new NodeFileSystem();
  const images = new MemoryImages(fs, folder, memory);
  for (let round = 0; round < 2; round++) {
    await images.prepare([buffer]);
    const start = performance.now();
    const image = images.capture([buffer], null);
    const captured = performance.now() - start;
    const report = await images.write(image);
    console.log(
      `  image      ${captured.toFixed(0)} ms to capture, ${(performance.now() - start).toFixed(0)} ms with writing ${mib(report?.bytes ?? 0)} MiB`,
    );
  }
  for (let round = 0; round < 3; round++) {
    const cpuStart = process.cpuUsage();
    const start = performance.now();
    const { restored } = await restoreImage(fs, folder, { limitBytes: 1 << 30 });
    const restoredMs = performance.now() - start;
    const [state] = restored?.buffers ?? [];
    if (!restored || !state) throw new Error('the image was refused');
    NamespaceBuffer.restore(restored.memory, options, state);
    const { user, system } = process.cpuUsage(cpuStart);
    console.log(
      `  restore    ${restoredMs.toFixed(0)} ms for pages, ${(performance.now() - start).toFixed(0)} in all, ${((user + system) / 1000).toFixed(0)} of processors`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}

let start = performance.now();
let sum = 0;
for (const { startNs } of buffer.blocks()) {
  for (let reference = 0; reference < buffer.seriesCount; reference++) {
    const columns = buffer.readBlock(reference, startNs);
    sum += columns?.times.length ?? 0;
  }
}
let took = performance.now() - start;
console.log(`  read       ${ns(took)} ns a sample (${sum === samples ? 'all' : sum})`);
start = performance.now();
let sealedBytes = 0;
for (const { startNs } of buffer.blocks()) {
  for (let shard = 0; shard < 32; shard++) {
    for (const reference of buffer.seriesOfBlock(startNs, shard)) {
      const sealed = buffer.sealBlock(reference, startNs);
      sealedBytes += sealed?.values.length ?? 0;
    }
  }
}
took = performance.now() - start;
console.log(`  seal       ${ns(took)} ns a sample, values ${(sealedBytes / samples).toFixed(3)} bytes`);
start = performance.now();
buffer.index();
took = performance.now() - start;
console.log(`  index      ${took.toFixed(0)} ms, ${(seriesCount / took / 1000).toFixed(2)} M series/s`);
