import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { NodeFileSystem } from '../../src/core/node-file-system.ts';
import { floorToBlock } from '../../src/storage/bootstrap/time-ranges.ts';
import { BlockWriter } from '../../src/storage/engine/block-writer.ts';
import { Engine } from '../../src/storage/engine/engine.ts';
import { namespaceOptions, type NamespaceRequest } from '../../src/storage/engine/namespace-options.ts';
import { ColumnCodec } from '../../src/storage/engine/sealed-series.ts';
import type { FilesetId } from '../../src/storage/fileset/fileset-id.ts';
import { FilesetWriter } from '../../src/storage/fileset/fileset-writer.ts';
import { sealFilesets } from '../../src/storage/fileset/seal-filesets.ts';
import { encodeLabels } from '../../src/storage/index/labels.ts';
import { KERNEL_FILE, Kernel } from '../../src/storage/kernel/kernel.ts';
import { murmur3 } from '../../src/storage/kernel/murmur3.ts';
import { hostOf, labelsOf, STEP_MS, timesOf, valuesOf, type DataSet } from '../storage-data.ts';
import { engineDeps, FixedClock } from './fixed-clock.ts';

/** Sealed blocks as a node has them that has been at work for long. */
export interface History {
  readonly series: number;
  readonly blocks: number;
  readonly shardCount: number;
  /** One series in so many has another value in each block; 0: none. */
  readonly differs?: number;
}

export const NAMESPACE = 'default';
const MS_NS = 1_000_000n;
const BLOCK_MS = 2 * 3_600_000;
const SAMPLES = BLOCK_MS / STEP_MS;
const BLOCK_NS = BigInt(BLOCK_MS) * MS_NS;
const START_NS = floorToBlock(1_700_006_400_000n * MS_NS, BLOCK_NS);
const SEALED_AT_ONCE = 256;

export function samplesOf({ series, blocks }: History): number {
  return series * blocks * SAMPLES;
}

/** In the middle of the block behind the last one, which is flushed by then. */
export function nowMsOf({ blocks }: Pick<History, 'blocks'>): number {
  return Number(START_NS / MS_NS) + (blocks + 1) * BLOCK_MS + BLOCK_MS / 4;
}

export function namespaceOf({ blocks }: Pick<History, 'blocks'>): NamespaceRequest {
  return { name: NAMESPACE, retentionNs: BigInt(blocks + 4) * BLOCK_NS, cachePolicy: 'recentlyRead' };
}

interface Row {
  readonly id: Uint8Array;
  readonly host: number;
  /** Encoded. */
  readonly values: Uint8Array;
}

/**
 * An engine's folder with the history in filesets, indexed, as a clean stop leaves it. Values of a series are those of
 * the data set in every block, with times of the block: to make them takes no more than a minute for a GiB.
 */
export async function writeHistory(folder: string, history: History): Promise<void> {
  await mkdir(folder, { recursive: true });
  await openOnce(folder, history);
  const codec = new ColumnCodec(new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 256 << 20 }));
  const rows = rowsByShard(history, codec);
  const root = join(folder, 'data');
  await mkdir(root, { recursive: true });
  const fs = new NodeFileSystem();
  let written: FilesetId[] = [];
  for (let block = 0; block < history.blocks; block++) {
    const blockStartNs = START_NS + BigInt(block) * BLOCK_NS;
    const times = timesByHost(history, blockStartNs, codec);
    for (const [shard, list] of rows.entries()) {
      if (list.length === 0) continue;
      const id = { namespace: NAMESPACE, shard, blockStartNs, volume: 0 };
      const files = await FilesetWriter.create(
        { fs },
        { root, id, kind: 'flush', blockSizeNs: BLOCK_NS, createdAtNs: blockStartNs + BLOCK_NS },
      );
      const writer = new BlockWriter(files);
      for (const { id: one, host, values } of list) {
        const own = times[host] ?? new Uint8Array();
        await writer.add(one, { count: SAMPLES, times: own, values, overwrites: [] });
      }
      written.push(await files.write(await writer.complete(0n)));
      if (written.length < SEALED_AT_ONCE) continue;
      await sealFilesets(fs, root, written);
      written = [];
    }
  }
  if (written.length > 0) await sealFilesets(fs, root, written);
  // Its index is made when it is opened.
  await openOnce(folder, history);
}

async function openOnce(folder: string, history: History): Promise<void> {
  const clock = new FixedClock(nowMsOf(history));
  const { shardCount } = history;
  await using engine = await Engine.open(engineDeps(clock), {
    folder,
    shardCount,
    logMode: 'behind',
    tickMs: 0,
  });
  await engine.applyNamespaces([namespaceOptions(namespaceOf(history))]);
  await engine.ready();
}

/** In the order of their ids. */
function rowsByShard({ series, shardCount, differs = 0 }: History, codec: ColumnCodec): Row[][] {
  const set: DataSet = { name: 'history', series, samplesPerSeries: SAMPLES };
  const rows: Row[][] = Array.from({ length: shardCount }, () => []);
  for (let i = 0; i < series; i++) {
    const id = encodeLabels(labelsOf(i));
    const floats = valuesOf(set, i);
    if (differs > 0 && i % differs === 0) floats[SAMPLES >>> 1] = (floats[SAMPLES >>> 1] ?? 0) + 1;
    const values = codec.encodeValues(new BigUint64Array(floats.buffer)).slice();
    rows[murmur3(id, 0) % shardCount]?.push({ id, host: hostOf(i), values });
  }
  for (const list of rows) list.sort((a, b) => Buffer.compare(a.id, b.id));
  return rows;
}

function timesByHost({ series }: History, blockStartNs: bigint, codec: ColumnCodec): Uint8Array[] {
  const set: DataSet = { name: 'history', series, samplesPerSeries: SAMPLES };
  const hosts = hostOf(series - 1) + 1;
  return Array.from({ length: hosts }, (_, host) => {
    const ms = timesOf(set, host * 100, 0);
    const first = ms[0] ?? 0;
    // Within the block whatever the jitter.
    return codec
      .encodeTimes(
        BigInt64Array.from(ms, (time) => blockStartNs + BigInt(Math.max(0, time - (first % 10))) * MS_NS),
      )
      .slice();
  });
}
