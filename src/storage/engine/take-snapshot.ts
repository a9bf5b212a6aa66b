import { join } from 'node:path';
import { makeFolders, type FileSystem } from '../../core/file-system.ts';
import type { CommitLog } from '../commit-log/commit-log.ts';
import type { SnapshotEntry } from '../fileset/snapshot-manifest.ts';
import { SnapshotRun } from '../fileset/snapshot-run.ts';
import { cleanSnapshots } from '../fileset/snapshots.ts';
import { BlockWriter } from './block-writer.ts';
import type { HybridClock } from './hybrid-clock.ts';
import type { Namespace } from './namespace.ts';
import type { SnapshotReport } from './storage-engine.ts';

export const SNAPSHOT_FOLDER = 'snapshots';

export interface SnapshotDeps {
  readonly fs: FileSystem;
  readonly folder: string;
  readonly log: CommitLog;
  readonly clock: HybridClock;
}

/** What a block was when its snapshots were written: they are kept while it has not changed. */
interface KeptBlock {
  readonly lastVersion: bigint;
  readonly samples: number;
  readonly entries: readonly SnapshotEntry[];
}

/**
 * Snapshots of all that is only in memory and log; then what they make unnecessary is removed. Nothing else works on
 * files meanwhile.
 */
export class Snapshots {
  readonly #deps: SnapshotDeps;
  #kept = new Map<string, KeptBlock>();

  constructor(deps: SnapshotDeps) {
    this.#deps = deps;
  }

  /** After a deletion nothing that was written before may be kept. */
  forget(): void {
    this.#kept.clear();
  }

  /** @throws when any of it failed: then the manifest before stays in force, and the log with it */
  async take(namespaces: readonly Namespace[]): Promise<SnapshotReport> {
    const { fs, folder, log, clock } = this.#deps;
    await log.rotate();
    // In one turn: what is appended from here on is behind the position, and builds upon nothing before it.
    const position = log.position();
    for (const { buffer } of namespaces) buffer.beginLogEpoch();
    const root = await makeFolders(fs, folder, [SNAPSHOT_FOLDER]);
    const run = await SnapshotRun.begin({ fs }, { root, kind: 'cycle', position, createdAtNs: clock.next() });
    const kept = new Map<string, KeptBlock>();
    let snapshots = 0;
    for (const namespace of namespaces) {
      for (const { startNs, lastVersion, samples } of namespace.buffer.blocks()) {
        const key = `${namespace.id}/${startNs}`;
        const before = this.#kept.get(key);
        if (before && before.lastVersion === lastVersion && before.samples === samples) {
          for (const entry of before.entries) run.keep(entry);
          kept.set(key, before);
          continue;
        }
        const entries = await this.#writeBlock(run, namespace, startNs);
        snapshots += entries.length;
        kept.set(key, { lastVersion, samples, entries });
      }
      await namespace.tombstones.save();
    }
    await run.commit(encodeIds(namespaces));
    this.#kept = kept;
    const removedLogSegments = await log.removeBefore(position.segment);
    await cleanSnapshots({ fs }, root);
    return { snapshots, removedLogSegments };
  }

  async #writeBlock(run: SnapshotRun, namespace: Namespace, blockStartNs: bigint): Promise<SnapshotEntry[]> {
    const { buffer, ownership, options } = namespace;
    const entries: SnapshotEntry[] = [];
    for (const shard of ownership.owned) {
      const references = buffer.seriesOfBlock(blockStartNs, shard);
      if (references.length === 0) continue;
      const block = { namespace: namespace.name, shard, blockStartNs, blockSizeNs: options.blockSizeNs };
      const info = await run.write(block, async (files) => {
        const writer = new BlockWriter(files);
        for (const reference of references) {
          const id = buffer.labelsOf(reference);
          const columns = buffer.sealBlock(reference, blockStartNs);
          if (columns) await writer.add(id, columns);
        }
        return await writer.complete(this.#deps.clock.last);
      });
      entries.push(info);
    }
    return entries;
  }
}

/** A name may have been deleted and given anew since: the numbers tell. */
function encodeIds(namespaces: readonly Namespace[]): Buffer {
  return Buffer.from(JSON.stringify(Object.fromEntries(namespaces.map(({ name, id }) => [name, id]))));
}

/** The numbers of namespaces by name, as a manifest has them; none in one of another writer. */
export function decodeIds(annotation: Uint8Array): Readonly<Record<string, number>> {
  try {
    return JSON.parse(Buffer.from(annotation).toString()) as Readonly<Record<string, number>>;
  } catch {
    return {};
  }
}

export function snapshotRoot(folder: string): string {
  return join(folder, SNAPSHOT_FOLDER);
}
