import { randomBytes, randomInt } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/core/clock.ts';
import { NodeFileSystem } from '../src/core/node-file-system.ts';
import { CommitLog, type CommitLogMode } from '../src/storage/commit-log/commit-log.ts';
import { replayCommitLog, type LogEnd } from '../src/storage/commit-log/replay.ts';
import { listShards } from '../src/storage/fileset/fileset-folder.ts';
import { FilesetReader } from '../src/storage/fileset/fileset-reader.ts';
import { FilesetWriter } from '../src/storage/fileset/fileset-writer.ts';
import { recoverFilesets } from '../src/storage/fileset/recover-filesets.ts';
import { median, noise } from './measure.ts';

/**
 * The commit log and the filesets on this machine's disk: throughput and latency of appends in both modes,
 * replay, filesets written, read and found at a restart. About half a minute.
 *   npm run bench -- storage-log [FOLDER]
 */
const MIB = 1024 * 1024;
const RUN_MS = 1500;
const ROUNDS = 3;
const NOTHING: LogEnd = { segment: 0, sequence: 0, open: [], unused: [] };

const base = process.argv[2] ?? tmpdir();
const folder = await mkdtemp(join(base, 'varve-bench-'));
const fs = new NodeFileSystem();
const silent = { info: () => {}, warn: () => {}, error: () => {} };
const deps = {
  fs,
  clock: systemClock,
  hybridClock: () => process.hrtime.bigint(),
  randomUint32: () => randomInt(2 ** 32),
  log: silent,
};

try {
  await bareDisk();
  for (const mode of ['sync', 'behind'] as const) {
    for (const [writers, payloadBytes] of [
      [1, 4096],
      [16, 4096],
      [16, 65_536],
      [4, MIB],
    ] as const) {
      await appends(mode, writers, payloadBytes);
    }
  }
  await replay();
  await filesets();
  await restart();
} finally {
  await rm(folder, { recursive: true });
}

/** What the disk alone can do: the yardstick for `sync`. */
async function bareDisk(): Promise<void> {
  const file = await open(join(folder, 'bare'), 'w');
  await file.write(Buffer.alloc(16 * MIB));
  await file.sync();
  const block = Buffer.alloc(4096, 1);
  const times: number[] = [];
  const endMs = performance.now() + RUN_MS;
  for (let i = 0; performance.now() < endMs; i = (i + 1) % 4096) {
    const start = performance.now();
    await file.write(block, 0, block.length, i * 4096);
    await file.datasync();
    times.push(performance.now() - start);
  }
  await file.close();
  line('bare write + fdatasync, 4 KiB', `${perSecond(times.length)}   ${latencies(times)}`);
}

async function appends(mode: CommitLogMode, writers: number, payloadBytes: number): Promise<void> {
  const rates: number[] = [];
  const times: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const path = join(folder, `${mode}-${writers}-${payloadBytes}-${round}`);
    const log = await CommitLog.open(deps, { folder: path, mode }, NOTHING);
    const payload = randomBytes(payloadBytes);
    await log.append(payload);
    let count = 0;
    const start = performance.now();
    const endMs = start + RUN_MS / ROUNDS;
    const writer = async (): Promise<void> => {
      while (performance.now() < endMs) {
        const from = performance.now();
        await log.append(payload);
        times.push(performance.now() - from);
        count++;
      }
    };
    await Promise.all(Array.from({ length: writers }, writer));
    rates.push((count / (performance.now() - start)) * 1000);
    await log[Symbol.asyncDispose]();
    await rm(path, { recursive: true });
  }
  const rate = median(rates);
  const throughput = `${((rate * payloadBytes) / MIB).toFixed(0).padStart(5)} MiB/s ± ${(noise(rates) * 100).toFixed(0)} %`;
  line(
    `${mode}, ${writers} at a time, ${payloadBytes / 1024} KiB`,
    `${rate.toFixed(0).padStart(7)}/s ${throughput}   ${latencies(times)}`,
  );
}

async function replay(): Promise<void> {
  const path = join(folder, 'replay');
  const log = await CommitLog.open(deps, { folder: path, mode: 'behind' }, NOTHING);
  const payload = randomBytes(65_536);
  for (let i = 0; i < 4096; i++) await log.append(payload);
  await log[Symbol.asyncDispose]();
  const times: number[] = [];
  let payloadBytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    ({ payloadBytes } = await replayCommitLog(deps, { folder: path }, () => {}));
    times.push(performance.now() - start);
  }
  line('replay, checked, of 64 KiB records', bandwidth(payloadBytes, times));
  await rm(path, { recursive: true });
}

async function filesets(): Promise<void> {
  const payload = randomBytes(1100);
  const id = (i: number): Buffer =>
    Buffer.from(`{__name__="cpu",host="host-${String(i).padStart(7, '0')}",job="node"}`);
  const writes: number[] = [];
  const reads: number[] = [];
  const copies: number[] = [];
  let sizeBytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const root = await mkdtemp(join(folder, 'filesets-'));
    const start = performance.now();
    const writer = await FilesetWriter.create(deps, {
      root,
      id: { namespace: 'bench', shard: 0, blockStartNs: 0n, volume: 0 },
      kind: 'flush',
      blockSizeNs: 1n,
      createdAtNs: 0n,
    });
    for (let i = 0; i < 100_000; i++) await writer.add(id(i), payload);
    const info = await writer.finish();
    writes.push(performance.now() - start);
    sizeBytes = info.payloadBytes + info.indexBytes;
    const readStart = performance.now();
    await using reader = new FilesetReader(deps, root, info);
    let count = 0;
    for await (const series of reader.series()) count += series.length;
    if (count !== info.entryCount) throw new Error('series are missing');
    reads.push(performance.now() - readStart);
    const copyStart = performance.now();
    const plain = await open(join(root, 'plain'), 'w');
    const piece = randomBytes(MIB);
    for (let at = 0; at < sizeBytes; at += MIB) await plain.write(piece);
    await plain.sync();
    await plain.close();
    copies.push(performance.now() - copyStart);
    await rm(root, { recursive: true });
  }
  line('fileset of 100,000 series written, durable', bandwidth(sizeBytes, writes));
  line('  as many bytes written and synced plainly', bandwidth(sizeBytes, copies));
  line('  read and checked', bandwidth(sizeBytes, reads));
}

async function restart(): Promise<void> {
  const root = await mkdtemp(join(folder, 'restart-'));
  for (let i = 0; i < 1000; i++) {
    const writer = await FilesetWriter.create(deps, {
      root,
      id: { namespace: 'bench', shard: i % 64, blockStartNs: BigInt(i), volume: 0 },
      kind: 'flush',
      blockSizeNs: 1n,
      createdAtNs: 0n,
    });
    await writer.add(Buffer.from('a'), Buffer.from('b'));
    await writer.finish();
  }
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const start = performance.now();
    const shards = await listShards(fs, root);
    const { filesets: found } = await recoverFilesets(deps, root, { shards, repair: true });
    times.push(performance.now() - start);
    if (found.length !== 1000) throw new Error('filesets are missing');
  }
  line('1,000 filesets found at a restart', `${median(times).toFixed(1)} ms`);
}

function line(name: string, value: string): void {
  console.log(`  ${name.padEnd(44)} ${value}`);
}

function perSecond(count: number): string {
  return `${((count / RUN_MS) * 1000).toFixed(0).padStart(7)}/s`;
}

function bandwidth(sizeBytes: number, times: readonly number[]): string {
  const rate = (sizeBytes / MIB / median(times)) * 1000;
  return `${rate.toFixed(0).padStart(5)} MiB/s ± ${(noise(times) * 100).toFixed(0)} %`;
}

function latencies(times: number[]): string {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number): string =>
    (sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN).toFixed(2);
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`;
}
