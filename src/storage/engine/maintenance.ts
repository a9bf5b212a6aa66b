import { messageOf } from '../../core/errors.ts';
import { isOutOfSpace, type FileSystem } from '../../core/file-system.ts';
import type { BlockSummary } from '../buffer/block-columns.ts';
import type { BufferMemory } from '../buffer/buffer-memory.ts';
import { floorToBlock } from '../bootstrap/time-ranges.ts';
import type { CommitLog } from '../commit-log/commit-log.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import { removeFileset } from '../fileset/remove-fileset.ts';
import { cleanSnapshots } from '../fileset/snapshots.ts';
import { flushBlock, flushedShards, isDue } from './flush-block.ts';
import { forgetSeries } from './forget-series.ts';
import type { HybridClock } from './hybrid-clock.ts';
import { encodeFlushed } from './log-records.ts';
import type { Namespace } from './namespace.ts';
import type { ColumnCodec } from './sealed-series.ts';
import type { CleanUpReport, FlushReport } from './storage-engine.ts';
import { snapshotRoot } from './take-snapshot.ts';

export interface MaintenanceDeps {
  readonly fs: FileSystem;
  readonly folder: string;
  readonly clock: HybridClock;
  readonly codec: () => ColumnCodec;
  readonly memory: BufferMemory;
  readonly commitLog: CommitLog;
  readonly log: Log;
  readonly onDamage: (namespace: Namespace, error: FileDamageError) => void;
}

export interface FlushChoice {
  /** Also blocks that are still written, and late samples that came just now. */
  readonly force: boolean;
}

type Failure = FlushReport['failures'][number];

class Totals {
  filesets = 0;
  series = 0;
  bytes = 0;
  dropped = 0;
  readonly failures: Failure[] = [];
}

/** Moves data from memory to files, and removes what nobody needs. Its calls must not overlap: one after the other. */
export class Maintenance {
  readonly #deps: MaintenanceDeps;
  /** Blocks left the memory since the last snapshot: the log has more than is needed. */
  flushedSinceSnapshot = false;
  lastFlushFailure: string | undefined;
  outOfSpace = false;

  constructor(deps: MaintenanceDeps) {
    this.#deps = deps;
  }

  async flush(namespaces: readonly Namespace[], choice: FlushChoice): Promise<FlushReport> {
    const totals = new Totals();
    for (const namespace of namespaces) {
      if (namespace.deleted || !(namespace.options.flushEnabled || choice.force)) continue;
      this.#dropExpired(namespace);
      for (const block of namespace.buffer.blocks()) {
        if (choice.force || this.#isDue(namespace, block)) await this.#flushOne(namespace, block, totals);
      }
      await this.#carryOutDeletions(namespace, totals);
      if (namespace.superseded.length === 0) await namespace.filesets.saveSummary();
    }
    const { filesets, series, bytes, failures } = totals;
    if (filesets > 0 && failures.length === 0) {
      this.lastFlushFailure = undefined;
      this.outOfSpace = false;
    }
    return { filesets, series, bytes, failures };
  }

  /**
   * Gives memory back: blocks are moved to files although they are still written, the oldest first. Writes to their
   * namespace are refused meanwhile, so that nothing is left behind.
   */
  async relieve(namespaces: readonly Namespace[], atOnce: boolean): Promise<void> {
    const totals = new Totals();
    const blocks = namespaces
      .flatMap((namespace) => namespace.buffer.blocks().map((block) => ({ namespace, block })))
      .sort((a, b) => (a.block.startNs < b.block.startNs ? -1 : 1));
    for (const { namespace, block } of blocks) {
      const enough = !this.#deps.memory.use.pressing && !(atOnce && totals.dropped === 0);
      if (enough || totals.failures.length > 0) return;
      if (namespace.deleted || !namespace.options.flushEnabled) continue;
      namespace.frozen = true;
      try {
        await this.#flushOne(namespace, block, totals);
      } finally {
        namespace.frozen = false;
      }
    }
  }

  async cleanUp(namespaces: readonly Namespace[]): Promise<CleanUpReport> {
    const { fs, folder, clock } = this.#deps;
    let expiredFilesets = 0;
    let supersededFilesets = 0;
    let indexSegments = 0;
    for (const namespace of namespaces) {
      if (namespace.deleted || !namespace.options.cleanupEnabled) continue;
      supersededFilesets += await this.#removeSuperseded(namespace);
      expiredFilesets += await this.#removeExpired(namespace);
      this.#dropExpired(namespace);
      forgetSeries(namespace, clock.nowNs());
      indexSegments += await namespace.index.removeUnused(namespace.isStored.bind(namespace));
      await this.#retireTombstones(namespace);
      await namespace.filesets.saveSummary();
      namespace.expireCache(clock.nowNs());
    }
    const snapshots = await cleanSnapshots({ fs }, snapshotRoot(folder));
    return { expiredFilesets, supersededFilesets, indexSegments, snapshots };
  }

  #isDue({ options }: Namespace, block: BlockSummary): boolean {
    const nowNs = this.#deps.clock.nowNs();
    if (nowNs <= block.endNs + options.bufferPastNs) return false;
    // Late samples of a flushed block come one by one: they are collected for a while.
    return !block.cold || nowNs - block.firstVersion >= options.bufferPastNs;
  }

  async #flushOne(namespace: Namespace, block: BlockSummary, totals: Totals): Promise<void> {
    const { startNs } = block;
    try {
      const { filesets, series } = await flushBlock(this.#flushDeps(), namespace, startNs);
      totals.filesets += filesets.length;
      totals.series += series;
      totals.bytes += filesets.reduce(
        (sum, { payloadBytes, indexBytes }) => sum + payloadBytes + indexBytes,
        0,
      );
      const now = namespace.buffer.blocks().find((other) => other.startNs === startNs);
      // What was written meanwhile is in no file yet: then all of it stays, and the next flush merges it.
      if (now && (now.lastVersion !== block.lastVersion || now.samples !== block.samples)) return;
      namespace.dropBlock(startNs);
      this.flushedSinceSnapshot = true;
      totals.dropped++;
      if (!namespace.options.writesToCommitLog) return;
      // In the same turn: what is logged from here on for the block is new.
      await this.#deps.commitLog.append(encodeFlushed(namespace.id, startNs, flushedShards(filesets)));
    } catch (error) {
      this.#fail(namespace, startNs, { error, totals });
    }
  }

  async #carryOutDeletions(namespace: Namespace, totals: Totals): Promise<void> {
    if (namespace.tombstones.all.length === 0) return;
    for (const blockStartNs of namespace.filesets.blockStarts()) {
      const due = namespace.filesets.ofBlock(blockStartNs).filter((reader) => isDue(namespace, reader));
      if (due.length === 0) continue;
      try {
        const shards = due.map(({ info }) => info.shard);
        const { filesets } = await flushBlock(this.#flushDeps(), namespace, blockStartNs, shards);
        totals.filesets += filesets.length;
      } catch (error) {
        this.#fail(namespace, blockStartNs, { error, totals });
      }
    }
    await this.#retireTombstones(namespace);
  }

  async #removeSuperseded(namespace: Namespace): Promise<number> {
    const { filesets, superseded } = namespace;
    if (superseded.length === 0) return 0;
    await filesets.beginChange();
    for (const id of superseded) await removeFileset(this.#deps.fs, filesets.root, id);
    namespace.superseded = [];
    return superseded.length;
  }

  /** Not while an older volume may be left, which would take the place of one that is removed. */
  async #removeExpired(namespace: Namespace): Promise<number> {
    const { filesets } = namespace;
    await filesets.retryRemovals();
    if (!filesets.isCertain) return 0;
    const startNs = earliest(namespace, this.#deps.clock.nowNs());
    const expired = [...filesets.places()].filter(
      ({ blockStartNs, blockSizeNs }) => blockStartNs + blockSizeNs <= startNs,
    );
    if (expired.length > 0) await filesets.beginChange();
    for (const place of expired) filesets.remove(place);
    await filesets.settled();
    return expired.length;
  }

  /** What no file that is left needs. */
  async #retireTombstones({ tombstones, filesets }: Namespace): Promise<void> {
    if (!filesets.isCertain) return;
    const readers = [...filesets.all()];
    const retired = tombstones.retire((tombstone) =>
      readers.every(({ info, annotation }) => {
        const reaches =
          tombstone.startNs < info.blockStartNs + info.blockSizeNs && info.blockStartNs < tombstone.endNs;
        return !reaches || annotation.deletedUpTo >= tombstone.version;
      }),
    );
    if (retired > 0) await tombstones.save();
  }

  /**
   * What the memory has of a block goes after its files, if there are any: older values would be seen again without it,
   * when the clock is set back.
   */
  #dropExpired(namespace: Namespace): void {
    const { filesets, buffer } = namespace;
    if (!filesets.isCertain) return;
    const startNs = earliest(namespace, this.#deps.clock.nowNs());
    for (const { startNs: blockStartNs, endNs } of buffer.blocks()) {
      if (endNs <= startNs && !filesets.hasBlock(blockStartNs)) namespace.dropBlock(blockStartNs);
    }
  }

  #flushDeps(): Parameters<typeof flushBlock>[0] {
    const { fs, folder, clock, codec } = this.#deps;
    return { fs, folder, codec: codec(), createdAtNs: clock.nowNs(), version: clock.next() };
  }

  #fail(
    namespace: Namespace,
    blockStartNs: bigint,
    { error, totals }: { readonly error: unknown; readonly totals: Totals },
  ): void {
    // A bug ends the caller's work; what the disk or damage did is told, and tried again.
    if (!(error instanceof Error)) throw error;
    if (error instanceof FileDamageError) this.#deps.onDamage(namespace, error);
    this.outOfSpace = isOutOfSpace(error) || isOutOfSpace(error.cause);
    this.lastFlushFailure = messageOf(error);
    totals.failures.push({ namespace: namespace.name, blockStartNs, reason: messageOf(error) });
    this.#deps.log.warn(
      { namespace: namespace.name, block: String(blockStartNs), reason: messageOf(error) },
      'a block could not be written to files; it stays in memory',
    );
  }
}

/** Where retention begins. */
export function earliest({ options }: Namespace, nowNs: bigint): bigint {
  return floorToBlock(nowNs - options.retentionNs, options.blockSizeNs);
}
