import { assert } from '../../core/errors.ts';
import type { FileSystem } from '../../core/file-system.ts';
import { logDamageError } from '../commit-log/log-damage.ts';
import { replayCommitLog, type LogPosition, type ReplayReport } from '../commit-log/replay.ts';
import type { LogRecord } from '../commit-log/scan-segment.ts';
import { BlockReader } from '../engine/block-reader.ts';
import type { HybridClock } from '../engine/hybrid-clock.ts';
import { decodeLogRecord, type LogContent } from '../engine/log-records.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { ColumnCodec } from '../engine/sealed-series.ts';
import { decodeIds, snapshotRoot } from '../engine/take-snapshot.ts';
import { applyTombstone } from '../engine/delete-series.ts';
import type { Finding } from '../engine/storage-engine.ts';
import { FileDamageError, FormatFault } from '../fileset/fileset-damage.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import type { LoadedSnapshots } from '../fileset/snapshots.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapRequest,
  type BootstrapResult,
  type BootstrapSource,
  type Unfulfilled,
} from './bootstrap-source.ts';
import { findFlushedBlocks, FlushedBlocks, type FlushedContent } from './flushed-blocks.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { TimeRanges } from './time-ranges.ts';
import { hasOtherReplica, stateAtOrigin } from './topology-snapshot.ts';

export interface CommitLogSourceDeps {
  readonly fs: FileSystem;
  readonly folder: string;
  readonly logFolder: string;
  /** What an image of the memory had already, if there is one: then the log goes on from there. */
  readonly image: LogPosition | undefined;
  readonly snapshots: LoadedSnapshots;
  readonly codec: () => ColumnCodec;
  readonly clock: HybridClock;
  readonly lookup: (name: string) => Namespace | undefined;
  readonly lookupId: (id: number) => Namespace | undefined;
  readonly all: () => readonly Namespace[];
  readonly onFinding: (finding: Finding) => void;
  /** All of the log has been read: it can be written from here on. */
  /** It is read, but counts for nothing: what it has, others are to have, too. */
  readonly claimsNothing?: boolean;
  readonly onReplayed: (report: ReplayReport) => Promise<void>;
}

interface Recovered {
  readonly detail: ReadonlyMap<number, NamespaceRecovery>;
  /** What was lost, by namespace: may be got from other replicas. */
  readonly lost: ReadonlyMap<string, readonly Lost[]>;
  /** Of any namespace and shard. */
  readonly lostRecords: readonly Lost[];
}

interface Lost {
  /** Undefined: any shard. */
  readonly id: FilesetId | undefined;
  readonly detail: string;
}

class NamespaceRecovery {
  snapshots = 0;
  snapshotSamples = 0;
  records = 0;
  samples = 0;
  unreadable = 0;
  orphans = 0;

  toString(): string {
    const parts = [`${this.snapshotSamples} samples from ${this.snapshots} snapshots`];
    parts.push(`${this.samples} samples from ${this.records} records of the log`);
    if (this.unreadable > 0) parts.push(`${this.unreadable} records unreadable behind damage`);
    if (this.orphans > 0) parts.push(`${this.orphans} samples of series that damage took`);
    return parts.join(', ');
  }
}

/**
 * What this node has written itself: the newest snapshots, and the log behind them. Both are read as a whole, once,
 * whatever is asked for, so that blocks of every age have what was acknowledged.
 */
export class CommitLogSource implements BootstrapSource {
  readonly name = 'commitlog';
  readonly #deps: CommitLogSourceDeps;
  #recovered: Promise<Recovered> | undefined;

  constructor(deps: CommitLogSourceDeps) {
    this.#deps = deps;
  }

  async availableData(
    _namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    { topology }: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    if (this.#deps.claimsNothing) return ShardTimeRanges.EMPTY;
    return ranges.filterShards((shard) => {
      if (!topology.shards.has(shard)) return false;
      const state = stateAtOrigin(topology, shard);
      assert(
        state !== undefined,
        `the placement gives shard ${shard} to others, but it is to be bootstrapped here`,
      );
      assert(state !== 'unknown', `the placement has shard ${shard} in an unknown state`);
      return state !== 'initializing';
    });
  }

  async availableIndex(
    namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    context: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    return await this.availableData(namespace, ranges, context);
  }

  why(shard: number, { topology }: BootstrapContext): string {
    const state = stateAtOrigin(topology, shard) ?? 'not here';
    return this.#deps.claimsNothing
      ? 'the configured order does not count on it'
      : `the shard is ${state} here: the log has not all of it`;
  }

  async read(
    requests: ReadonlyMap<string, BootstrapRequest>,
    context: BootstrapContext,
  ): Promise<ReadonlyMap<string, BootstrapResult>> {
    this.#recovered ??= this.#recover(context);
    const { detail, lost, lostRecords } = await this.#recovered;
    return new Map(
      [...requests].map(([name, request]) => {
        const id = this.#deps.lookup(name)?.id ?? 0;
        const data = this.#lostRanges(request, [...(lost.get(name) ?? []), ...lostRecords], context);
        const nothing = { ranges: ShardTimeRanges.EMPTY, reasons: [] };
        // Series of the memory are in its index as soon as they have samples.
        return [
          name,
          {
            data,
            index: nothing,
            detail: `${this.#deps.image ? 'an image of the memory, ' : ''}${(detail.get(id) ?? new NamespaceRecovery()).toString()}`,
          },
        ];
      }),
    );
  }

  /** Only what others might have: a node that is alone goes on with what is left, and says what is not. */
  #lostRanges(
    { namespace, data }: BootstrapRequest,
    lost: readonly Lost[],
    { topology }: BootstrapContext,
  ): Unfulfilled {
    const { name, blockSizeNs } = namespace.options;
    const ranges = lost.map(({ id }) =>
      (id
        ? ShardTimeRanges.of([
            [id.shard, TimeRanges.of({ startNs: id.blockStartNs, endNs: id.blockStartNs + blockSizeNs })],
          ])
        : data
      )
        .intersect(data)
        .filterShards((shard) => hasOtherReplica(topology, shard)),
    );
    const all = ranges.reduce((sum, one) => sum.add(one), ShardTimeRanges.EMPTY);
    return unfulfilled(name, all, 'corruptFile', lost[0]?.detail ?? '');
  }

  async #recover(context: BootstrapContext): Promise<Recovered> {
    const { fs, logFolder, onReplayed, image, snapshots: loaded } = this.#deps;
    // An image may be older than files that came from peers.
    for (const { buffer } of this.#deps.all()) buffer.chillFlushed();
    const from = image ?? loaded.from;
    const recovery = new Recovery(this.#deps, loaded, await this.#flushedBlocks(from, context.signal));
    for (const [done, info] of (image ? [] : loaded.snapshots).entries()) {
      context.signal.throwIfAborted();
      context.report({
        done,
        total: loaded.snapshots.length,
        unit: 'snapshots',
        detail: 'reading snapshots',
      });
      await recovery.readSnapshot(info);
    }
    const report = await replayCommitLog(
      { fs },
      { folder: logFolder, from, signal: context.signal },
      (record) => {
        if (record.sequence % 4096 === 0) {
          context.report({ done: record.sequence, unit: 'records', detail: 'reading the commit log' });
        }
        recovery.takeRecord(record);
      },
    );
    recovery.takeDamages(report);
    await onReplayed(report);
    return recovery;
  }

  /** Behind an image there is too little log to look for them. */
  async #flushedBlocks(from: LogPosition | undefined, signal: AbortSignal): Promise<FlushedBlocks> {
    const { fs, logFolder: folder, image, all, lookupId } = this.#deps;
    if (image || all().every(({ filesets }) => filesets.count === 0)) return new FlushedBlocks();
    return await findFlushedBlocks(fs, { folder, from, signal }, (flushed) => {
      const namespace = lookupId(flushed.namespaceId);
      return namespace !== undefined && hasAll(namespace, flushed);
    });
  }
}

class Recovery implements Recovered {
  readonly detail = new Map<number, NamespaceRecovery>();
  readonly lost = new Map<string, Lost[]>();
  readonly lostRecords: Lost[] = [];
  readonly #deps: CommitLogSourceDeps;
  readonly #flushed: FlushedBlocks;
  readonly #ids: readonly Readonly<Record<string, number>>[];

  constructor(deps: CommitLogSourceDeps, loaded: LoadedSnapshots, flushed: FlushedBlocks) {
    this.#deps = deps;
    this.#flushed = flushed;
    for (const { createdAtNs } of loaded.manifests) deps.clock.observe(createdAtNs);
    this.#ids = loaded.manifests.map(({ annotation }) => decodeIds(annotation));
    for (const { file, offset, reason } of loaded.damagedManifests) {
      deps.onFinding({ kind: 'manifest', file, offset, reason });
    }
    for (const { id, damage } of loaded.damagedSnapshots) {
      if (!this.#namespaceOf(id.namespace)) continue;
      this.#lose(id.namespace, { id, detail: `its snapshot is damaged: ${damage.reason}` });
      deps.onFinding({ kind: 'snapshot', ...damage });
    }
  }

  /** Also what is out of retention: files may have older values of it. The clean-up sees to both. */
  async readSnapshot(info: FilesetInfo): Promise<void> {
    const namespace = this.#namespaceOf(info.namespace);
    if (!namespace?.ownership.owns(info.shard)) return;
    if (this.#flushed.has(namespace.id, info.blockStartNs)) return;
    const { fs, folder, codec } = this.#deps;
    const counts = this.#countsOf(namespace.id);
    counts.snapshots++;
    try {
      const reader = new BlockReader({ fs, codec: codec() }, snapshotRoot(folder), info);
      const onDamage = (damage: Finding | { file: string; offset: number; reason: string }): void => {
        const { file, offset, reason } = damage;
        this.#lose(info.namespace, { id: info, detail: `part of its snapshot is damaged: ${reason}` });
        this.#deps.onFinding({ kind: 'snapshot', file, offset, reason });
      };
      try {
        for await (const { id, payload } of reader.series({ onDamage })) {
          const columns = await reader.decode(payload);
          for (const { version } of columns.overwrites) this.#deps.clock.observe(version);
          namespace.buffer.insert(id, columns);
          counts.snapshotSamples += columns.times.length;
        }
      } finally {
        await reader.close();
      }
    } catch (error) {
      if (!(error instanceof FileDamageError)) throw error;
      this.#lose(info.namespace, { id: info, detail: error.message });
      this.#deps.onFinding({ kind: 'snapshot', ...error.damage });
    }
  }

  takeRecord(record: LogRecord): void {
    let content: LogContent;
    try {
      content = decodeLogRecord(record.payload);
    } catch (error) {
      if (!(error instanceof FormatFault)) throw error;
      const file = `segment ${record.segment}`;
      this.#deps.onFinding({ kind: 'log', file, offset: record.offset, reason: error.message });
      return;
    }
    if (content.kind === 'dropped') {
      for (const { buffer } of this.#deps.all()) buffer.dropShards(content.shards);
      return;
    }
    // Of a namespace that was deleted since.
    const namespace = this.#deps.lookupId(content.namespaceId);
    if (!namespace) return;
    const counts = this.#countsOf(namespace.id);
    switch (content.kind) {
      case 'batch': {
        const leftOut = this.#flushed.before(namespace.id, record.sequence);
        const replayed = namespace.buffer.replay(content.payload, leftOut);
        const { samples, version, unreadable, orphans } = replayed;
        this.#deps.clock.observe(version);
        counts.records++;
        counts.samples += samples;
        counts.orphans += orphans;
        if (unreadable) counts.unreadable++;
        break;
      }
      case 'delete':
        this.#deps.clock.observe(content.tombstone.version);
        applyTombstone(namespace, content.tombstone);
        break;
      case 'flushed':
        // Unless one of them is gone: then what the memory has is written once more.
        if (hasAll(namespace, content)) namespace.dropBlock(content.blockStartNs);
        break;
    }
  }

  takeDamages(report: ReplayReport): void {
    for (const damage of report.damages) {
      // A torn end is what every kill leaves: nothing of it was acknowledged.
      if (damage.kind === 'torn') continue;
      const { message } = logDamageError(damage);
      this.#deps.onFinding({ kind: 'log', file: damage.file, offset: damage.offset, reason: message });
      this.lostRecords.push({ id: undefined, detail: message });
    }
  }

  #namespaceOf(name: string): Namespace | undefined {
    const namespace = this.#deps.lookup(name);
    if (!namespace) return undefined;
    const ids = this.#ids.flatMap((known) => known[name] ?? []);
    // A snapshot of one that had the same name before.
    if (ids.length > 0 && !ids.includes(namespace.id)) return undefined;
    return namespace;
  }

  #countsOf(id: number): NamespaceRecovery {
    const counts = this.detail.get(id) ?? new NamespaceRecovery();
    this.detail.set(id, counts);
    return counts;
  }

  #lose(namespace: string, lost: Lost): void {
    const list = this.lost.get(namespace) ?? [];
    this.lost.set(namespace, list);
    list.push(lost);
  }
}

/** Whether the filesets that a block went to are there, or later volumes of them. */
function hasAll({ ownership, filesets }: Namespace, flushed: FlushedContent): boolean {
  return flushed.filesets.every(
    ({ shard, volume }) =>
      // What was dropped with its shard since is nothing that is missing.
      !ownership.owns(shard) || (filesets.volume(flushed.blockStartNs, shard) ?? -1) >= volume,
  );
}
