import { join } from 'node:path';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { FileSystem } from '../../core/file-system.ts';
import { verifyImages } from '../buffer/verify-image.ts';
import { replayCommitLog, type LogPosition } from '../commit-log/replay.ts';
import { segmentPath } from '../commit-log/segment-folder.ts';
import { FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import { listShard, listShards, readInfos } from '../fileset/fileset-folder.ts';
import { filesetPath, isNamespaceFolder, type FilesetId } from '../fileset/fileset-id.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { loadSnapshots } from '../fileset/snapshots.ts';
import { verifyFileset } from '../fileset/verify-fileset.ts';
import { decodeAnnotation } from './block-annotation.ts';
import { BlockReader } from './block-reader.ts';
import { catalogDamage } from './catalog.ts';
import { FilesetSummary } from './fileset-summary.ts';
import { DATA_FOLDER } from './fileset-store.ts';
import { IMAGE_FOLDER } from './image-folder.ts';
import { INDEX_FOLDER, IndexStore } from './index-store.ts';
import { LOG_FOLDER } from './log-folder.ts';
import { memoryIndexDamages } from './memory-index.ts';
import type { ColumnCodec } from './sealed-series.ts';
import type { Finding, StoredFileset } from './storage-engine.ts';
import { snapshotRoot } from './take-snapshot.ts';
import { TOMBSTONE_FOLDER, TombstoneSet } from './tombstones.ts';

export interface CheckDeps {
  readonly fs: FileSystem;
  readonly codec: () => ColumnCodec;
}

/**
 * Everything in an engine's folder that is not as it was written: every byte of every file is read, every series
 * decoded. Changes nothing; the engine may run or be stopped. What it removes meanwhile is no finding.
 *
 * One thing is taken for what it mostly is: where the log of an engine that was killed ends with bytes that are no
 * record, its last write was interrupted.
 * @param written of an engine that runs: where its log stands
 */
export async function* verifyFolder(
  deps: CheckDeps,
  folder: string,
  {
    signal,
    written,
  }: { readonly signal?: AbortSignal | undefined; readonly written?: LogPosition | undefined },
): AsyncIterable<Finding> {
  const { fs } = deps;
  for (const damage of await catalogDamage(fs, folder)) yield { kind: 'namespaces', ...damage };
  yield* verifyFilesets(deps, join(folder, DATA_FOLDER), { kind: 'fileset', signal });
  const { damagedManifests, damagedSnapshots } = await loadSnapshots({ fs }, snapshotRoot(folder));
  for (const damage of damagedManifests) yield { kind: 'manifest', ...damage };
  for (const { damage } of damagedSnapshots) yield { kind: 'snapshot', ...damage };
  yield* verifyFilesets(deps, snapshotRoot(folder), { kind: 'snapshot', signal });
  for (const name of await namesIn(fs, join(folder, INDEX_FOLDER))) {
    signal?.throwIfAborted();
    const index = new IndexStore(fs, { folder, namespace: name, indexBlockSizeNs: 1n, memoryBytes: 0 });
    await index.load({ repair: false });
    for (const damage of index.damages) yield { kind: 'index', ...damage };
    for await (const damage of index.verify()) yield { kind: 'index', ...damage };
  }
  for (const file of await namesIn(fs, join(folder, TOMBSTONE_FOLDER), 'file')) {
    const damage = await damageOf(() => new TombstoneSet(fs, folder, file.replace(/\.db$/, '')).load());
    if (damage) yield { kind: 'tombstones', ...damage };
  }
  for (const name of await namesIn(fs, join(folder, DATA_FOLDER))) {
    const damage = await new FilesetSummary(fs, join(folder, DATA_FOLDER), name).verify();
    if (damage) yield { kind: 'summary', ...damage };
  }
  signal?.throwIfAborted();
  for (const damage of await verifyImages(fs, join(folder, IMAGE_FOLDER))) yield { kind: 'image', ...damage };
  for (const damage of await memoryIndexDamages(fs, folder)) yield { kind: 'image', ...damage };
  yield* verifyLog(deps, folder, { signal, written });
}

/** What is on the disk, from small files alone. */
export async function* inspectFolder(
  deps: Pick<CheckDeps, 'fs'>,
  folder: string,
  namespace?: string,
): AsyncIterable<StoredFileset> {
  const { fs } = deps;
  for (const [kind, root] of [
    ['flush', join(folder, DATA_FOLDER)],
    ['snapshot', snapshotRoot(folder)],
  ] as const) {
    for (const shard of await listShards(fs, root)) {
      if (namespace !== undefined && shard.namespace !== namespace) continue;
      const { complete } = await listShard(fs, root, shard);
      const infos = await readInfos(fs, root, complete);
      for (const [index, id] of complete.entries()) {
        const info = infos[index];
        if (info instanceof FileDamageError) yield damagedFileset(kind, id, info.damage);
        else if (info) yield storedFileset(kind, info, root);
      }
    }
  }
}

function storedFileset(kind: 'flush' | 'snapshot', info: FilesetInfo, root: string): StoredFileset {
  const { namespace, shard, blockStartNs, blockSizeNs, volume, payloadBytes, indexBytes, createdAtNs } = info;
  const base = {
    kind,
    namespace,
    shard,
    blockStartNs,
    blockSizeNs,
    volume,
    payloadBytes,
    indexBytes,
    createdAtNs,
  };
  try {
    const { series, samples } = decodeAnnotation(info, filesetPath(root, info, 'info'));
    return { ...base, series, samples, damage: undefined };
  } catch (error) {
    return { ...base, series: 0, samples: 0, damage: messageOf(error) };
  }
}

function damagedFileset(kind: 'flush' | 'snapshot', id: FilesetId, damage: FileDamage): StoredFileset {
  return {
    kind,
    ...id,
    blockSizeNs: 0n,
    series: 0,
    samples: 0,
    payloadBytes: 0,
    indexBytes: 0,
    createdAtNs: 0n,
    damage: `${damage.file}: ${damage.reason}`,
  };
}

async function* verifyFilesets(
  deps: CheckDeps,
  root: string,
  { kind, signal }: { readonly kind: 'fileset' | 'snapshot'; readonly signal: AbortSignal | undefined },
): AsyncIterable<Finding> {
  const { fs } = deps;
  for (const shard of await listShards(fs, root)) {
    for (const id of (await listShard(fs, root, shard)).complete) {
      signal?.throwIfAborted();
      const found = [...(await verifyFileset(deps, root, id, signal))];
      if (found.length === 0) found.push(...(await verifySeries(deps, root, id)));
      // It may have been removed while it was looked at.
      if (found.length > 0 && !(await fs.stat(filesetPath(root, id, 'checkpoint')))) continue;
      for (const damage of found) yield { kind, ...damage };
    }
  }
}

/** Checksums only say that the bytes are those that were written. */
async function verifySeries({ fs, codec }: CheckDeps, root: string, id: FilesetId): Promise<FileDamage[]> {
  const [info] = await readInfos(fs, root, [id]);
  if (!info || info instanceof FileDamageError) return [];
  const damage = await damageOf(async () => {
    const reader = new BlockReader({ fs, codec: codec() }, root, info);
    try {
      for await (const { payload } of reader.series()) await reader.decode(payload);
    } finally {
      await reader.close();
    }
  });
  return damage ? [damage] : [];
}

async function* verifyLog(
  { fs }: CheckDeps,
  folder: string,
  {
    signal,
    written,
  }: { readonly signal: AbortSignal | undefined; readonly written: LogPosition | undefined },
): AsyncIterable<Finding> {
  const { from } = await loadSnapshots({ fs }, snapshotRoot(folder));
  const logFolder = join(folder, LOG_FOLDER);
  const current = written && segmentPath(logFolder, written.segment);
  /** In the segment that is written to, what is before it was acknowledged. */
  let writtenBytes = 0;
  const options = { folder: logFolder, from, signal, untilEnd: true };
  const report = await replayCommitLog({ fs }, options, ({ segment, sequence, offset }) => {
    if (segment === written?.segment && sequence < written.sequence) writtenBytes = offset;
  });
  const lacks = written !== undefined && report.end.sequence + 1 < written.sequence;
  for (const { kind, file, offset, sizeBytes } of report.damages) {
    // The end of what is being written looks torn.
    const isBefore = file === current && (lacks || offset < writtenBytes);
    if (kind === 'torn' && !isBefore) continue;
    yield { kind: 'log', file, offset, reason: `${kind}, ${sizeBytes} bytes` };
  }
}

async function damageOf(work: () => Promise<unknown>): Promise<FileDamage | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    if (error instanceof FileDamageError) return error.damage;
    if (error instanceof VarveError) return { file: '', offset: 0, reason: error.message };
    throw error;
  }
}

async function namesIn(fs: FileSystem, path: string, kind: 'file' | 'folder' = 'folder'): Promise<string[]> {
  if (!(await fs.stat(path))) return [];
  const entries = await fs.list(path);
  return entries
    .filter((entry) => entry.kind === kind && isNamespaceFolder(entry.name))
    .map(({ name }) => name);
}
