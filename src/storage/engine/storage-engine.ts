import type { ShardProgress } from '../bootstrap/bootstrap-source.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import type { LabelPair } from '../index/labels.ts';
import type { LabelMatcher } from '../index/matcher.ts';
import type { Overwrite } from './columns.ts';

/**
 * What a storage node's engine offers to those around it: HTTP, CLI, simulator. All times are nanoseconds since
 * the Unix epoch, ranges are [start, end), values are doubles bit for bit.
 */
export interface StorageEngine extends AsyncDisposable {
  /** How it stands, from memory alone: cheap enough for every scrape. */
  status(): EngineStatus;

  /** All namespaces as they are in force, by name. */
  namespaces(): readonly NamespaceOptions[];

  /**
   * Makes the namespaces what `wanted` says: new ones are created, changed ones changed, and those that it does
   * not name deleted with all their data. Level-triggered: the same call again does nothing. Everything is
   * checked before anything is changed; durable when it resolves.
   * @throws NAMESPACE_INVALID when options contradict each other, NAMESPACE_CHANGE_REFUSED when a change is one
   *   that existing data does not allow
   */
  applyNamespaces(wanted: readonly NamespaceOptions[]): Promise<void>;

  /**
   * The hot path: the body of a remote write request, compressed with snappy as it came. Samples that cannot be
   * taken are told in the outcome and do not hold up the others. Acknowledged when it resolves, as the log's
   * mode says. The body may be used again as soon as the call has returned its promise.
   * @throws WRITE_INVALID when the body is not what it should be (nothing of it was taken), NAMESPACE_UNKNOWN,
   *   STORAGE_OVERLOADED, COMMIT_LOG_FULL, COMMIT_LOG_BUSY, COMMIT_LOG_POISONED: repeat it later
   */
  writeRemote(namespace: string, version: RemoteWriteVersion, body: Uint8Array): Promise<WriteOutcome>;

  /** The same for what comes as objects: slower, for protocols that are read slowly anyway. */
  writeSeries(namespace: string, series: readonly SeriesSamples[]): Promise<WriteOutcome>;

  /**
   * The series that match, one after the other in no particular order, each with its samples in ascending batches
   * from memory and files merged. Ends early, with the signal's reason, when it is aborted.
   * @throws NAMESPACE_UNKNOWN, READ_LIMIT_EXCEEDED, SHARD_NOT_READY while a bootstrap has to come first (retry),
   *   FILESET_DAMAGED when data that the query needs was found damaged: it is put aside then, and a repeated
   *   query goes on without it
   */
  read(namespace: string, query: ReadQuery): AsyncIterable<SeriesRead>;
  /**
   * The same, some series at a time, which are valid until the next ones are asked for: for those who go through many,
   * because to wait for each takes longer than to decode it.
   */
  readPages(namespace: string, query: ReadQuery): AsyncIterable<readonly SeriesRead[]>;

  /** The series that match any of the selectors and have data in the range (whole index blocks are looked at). */
  series(namespace: string, query: MetadataQuery): Promise<LimitedResult<readonly LabelPair[]>>;
  /** Without selectors: of all series. In the order of their bytes. */
  labelNames(namespace: string, query: MetadataQuery): Promise<LimitedResult<string>>;
  labelValues(namespace: string, label: string, query: MetadataQuery): Promise<LimitedResult<string>>;
  /** How many series and values there are, labels with the most values first. */
  cardinality(namespace: string, query: MetadataQuery): Promise<Cardinality>;

  /**
   * Deletes the samples in the range of the series that match: durable when it resolves, honoured by reads,
   * flush and restart. Samples that are written later are kept, whatever their time.
   */
  deleteSeries(namespace: string, query: DeleteQuery): Promise<{ readonly series: number }>;

  /**
   * Writes what is due to filesets, and late samples of flushed blocks with them; with `force` also blocks that
   * are still written. Refused while bootstrapping.
   */
  flush(options?: { readonly namespace?: string; readonly force?: boolean }): Promise<FlushReport>;
  /** Snapshots of all that is only in memory and log; then the log before them is removed. */
  snapshot(): Promise<SnapshotReport>;
  /** Removes what is out of retention, superseded or left over. */
  cleanUp(): Promise<CleanUpReport>;

  /** Reads every byte of every file and tells what is not as it was written. Changes nothing. */
  verify(signal?: AbortSignal): AsyncIterable<Finding>;
  /** What is on the disk, one entry a file set; reads small files only. */
  inspect(namespace?: string): AsyncIterable<StoredFileset>;
}

/** What a node of a placement offers beside: it has some of the shards. `Engine` is one. */
export interface PlacedEngine extends StorageEngine {
  /**
   * Makes the shards this node's that the placement gives it: new ones are bootstrapped, those that it does not name
   * are closed, and their memory and files dropped; leaving ones stay and are served. Level-triggered: the same call
   * again does nothing. Durable and in force when it resolves; the bootstrap goes on. A node that stands alone has all
   * shards, and stays alone while the placement gives it none.
   * @throws STORAGE_FOLDER_MISMATCH for another number of shards
   */
  applyTopology(topology: TopologySnapshot): Promise<void>;

  /**
   * Shards that a node that has stood alone so far has samples of: others are to have them before it follows the
   * placement, because it gives up what it has, or is the only one that has it. None on a node that has a placement.
   * Resolves when the log has been read.
   */
  strandedShards(topology: TopologySnapshot): Promise<readonly number[]>;

  /**
   * Shards that are whole in every namespace, so that a restart from this node's own disk loses nothing of them. None
   * before `applyNamespaces` was called: a namespace that is not known yet cannot be whole.
   */
  durableShards(): readonly number[];

  /** Of one shard: which source had which of its ranges, when, and why those before had not. The newest run last. */
  explain(shard: number): readonly ShardFill[];
}

/** How long the maintenance waits between its rounds, and what memory there is. */
export interface EngineOptions {
  /** Where everything is; exists, and is locked by the caller. */
  readonly folder: string;
  readonly logMode: 'sync' | 'behind';
  /** 32 unless given; kept with the data: another number is refused. */
  readonly shardCount?: number;
  /** Of the kernel: series, open chunks. 512 unless given. */
  readonly memoryMb?: number;
  /** 300,000 unless given. */
  readonly snapshotIntervalMs?: number;
  /** A snapshot is taken early when the log is larger; 512 MiB unless given. */
  readonly maxLogBytes?: number;
  /** An image of the memory is written after so much log; 16 MiB unless given, 0 for never. */
  readonly imageLogBytes?: number;
  /** How often flushes, clean-up and snapshots are looked after; 10,000 unless given, 0 for never (tests). */
  readonly tickMs?: number;
  /** Of the commit log's segments; 16 MiB unless given. */
  readonly logSegmentBytes?: number;
  /** Space that is left to others on the disk; 64 MiB unless given. */
  readonly keepFreeBytes?: number;
  /** `default` unless given. */
  readonly bootstrapOrder?: BootstrapOrder;
  /** While others fill shards here, those that are whole serve after so long, before the rest; 10,000 unless given. */
  readonly bootstrapRoundMs?: number;
}

export type RemoteWriteVersion = 1 | 2;

/**
 * - `none`: nothing of what is read from files is kept
 * - `all`: every block within retention is in memory, from the bootstrap on
 * - `recentlyRead`: what was read is kept until it was not asked for one block size plus `bufferPastNs`
 * - `lru`: what was read is kept until the namespace's `cacheBytes` are needed by what was read later
 */
export type CachePolicy = 'none' | 'all' | 'recentlyRead' | 'lru';

/** Complete options; `namespaceOptions` fills in defaults and checks. */
export interface NamespaceOptions {
  readonly name: string;
  readonly retentionNs: bigint;
  readonly blockSizeNs: bigint;
  readonly bufferPastNs: bigint;
  readonly bufferFutureNs: bigint;
  readonly indexEnabled: boolean;
  readonly indexBlockSizeNs: bigint;
  readonly bootstrapEnabled: boolean;
  readonly flushEnabled: boolean;
  readonly snapshotEnabled: boolean;
  readonly writesToCommitLog: boolean;
  readonly cleanupEnabled: boolean;
  readonly coldWritesEnabled: boolean;
  readonly cachePolicy: CachePolicy;
  /** For policies `lru` and `recentlyRead`: columns of files that are kept in memory. */
  readonly cacheBytes: number;
  /** New series above it are refused, per sample. */
  readonly maxSeries: number;
}

export interface SeriesSamples {
  /** In any order. */
  readonly labels: readonly LabelPair[];
  readonly samples: readonly { readonly timeNs: bigint; readonly value: number }[];
}

/**
 * - `tooOld`: before what is taken: the buffer, or the retention where cold writes are enabled
 * - `tooNew`: behind the buffer to the future
 * - `invalidLabels`: no labels, a name twice, too many or too long
 * - `seriesLimit`: a new series beyond the namespace's `maxSeries`
 */
export type RejectReason = 'tooOld' | 'tooNew' | 'invalidLabels' | 'seriesLimit';

export interface Rejection {
  readonly reason: RejectReason;
  /** Of samples. */
  readonly count: number;
  /** Of one of them: series and time, in words. */
  readonly example: string;
}

export interface WriteOutcome {
  /** That were taken. Duplicates of what is there bit for bit count, although they change nothing. */
  readonly samples: number;
  /** New series. */
  readonly series: number;
  readonly rejected: readonly Rejection[];
  /** That were in the request and are not kept. */
  readonly exemplars: number;
  readonly histograms: number;
  /** Of shards that this node has not: passed over. Only where the caller said that others have them; 0 unless given. */
  readonly notOwned?: number;
}

export interface ReadLimits {
  /** Above it the read fails. */
  readonly maxSeries?: number;
  readonly maxSamples?: number;
}

export interface ReadQuery {
  /** All have to match. */
  readonly matchers: readonly LabelMatcher[];
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly limits?: ReadLimits;
  readonly signal?: AbortSignal | undefined;
  /** Series in the order of their labels, as remote read wants them. */
  readonly ordered?: boolean;
  /**
   * Only series of these shards; all of this node's unless given. Each has to be whole. With them `matchers` may be
   * empty: every series.
   */
  readonly shards?: readonly number[];
  /** Told what the answer may be short of, before it ends: of several replicas not all may have answered. */
  readonly onWarning?: (text: string) => void;
}

export interface SeriesRead {
  readonly labels: readonly LabelPair[];
  /** Canonical: the ID of the series. */
  readonly labelBytes: Uint8Array;
  /** Ascending and disjoint; to be read before the next series is asked for. Empty ones do not come. */
  readonly batches: AsyncIterable<ColumnBatch>;
  /** All of the batches, valid together, when they are at hand without waiting. */
  readonly columns?: readonly ColumnBatch[] | undefined;
}

/**
 * Samples of one series as columns of one length. Valid until the next batch is asked for: views of memory that is
 * used again.
 */
export interface ColumnBatch {
  /** Nanoseconds, ascending, all different. */
  readonly times: BigInt64Array;
  readonly values: Float64Array;
  /** The same memory as `values`: the bits, which a JavaScript number may not keep for NaN. */
  readonly bits: BigUint64Array;
  /** Of those that replaced others, the versions; left out when there are none. */
  readonly overwrites?: readonly Overwrite[];
}

export interface MetadataQuery {
  /** A series is taken when one of them accepts it; absent or empty: every series. */
  readonly selectors?: readonly (readonly LabelMatcher[])[];
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly limit?: number;
  /** As in `ReadQuery`; the answer may have more than what these shards have. */
  readonly shards?: readonly number[];
}

export interface LimitedResult<T> {
  readonly values: readonly T[];
  /** There were more than the limit allows. */
  readonly truncated: boolean;
  /** What it may be short of. */
  readonly warnings?: readonly string[];
}

export interface Cardinality {
  readonly seriesCount: number;
  readonly labels: readonly {
    readonly name: string;
    readonly valueCount: number;
    readonly seriesCount: number;
  }[];
  /** What it may be short of. */
  readonly warnings?: readonly string[];
}

export interface DeleteQuery {
  readonly selectors: readonly (readonly LabelMatcher[])[];
  readonly startNs: bigint;
  readonly endNs: bigint;
  /**
   * Nodes that something is taken from afterwards have carried it out: what comes of them is not looked at through it.
   * Otherwise what comes to a node that is being filled is; false unless given.
   */
  readonly isSettled?: boolean;
}

export interface FlushReport {
  readonly filesets: number;
  readonly series: number;
  readonly bytes: number;
  /** Blocks that could not be written and stay in memory; of each, why. */
  readonly failures: readonly {
    readonly namespace: string;
    readonly blockStartNs: bigint;
    readonly reason: string;
  }[];
}

export interface SnapshotReport {
  readonly snapshots: number;
  readonly removedLogSegments: number;
}

export interface CleanUpReport {
  readonly expiredFilesets: number;
  readonly supersededFilesets: number;
  readonly indexSegments: number;
  readonly snapshots: number;
}

export interface Finding {
  readonly kind:
    | 'fileset'
    | 'snapshot'
    | 'manifest'
    | 'index'
    | 'log'
    | 'namespaces'
    | 'tombstones'
    | 'summary'
    | 'image';
  readonly file: string;
  readonly offset: number;
  readonly reason: string;
}

export interface StoredFileset {
  readonly kind: 'flush' | 'snapshot';
  readonly namespace: string;
  readonly shard: number;
  readonly blockStartNs: bigint;
  readonly blockSizeNs: bigint;
  readonly volume: number;
  readonly series: number;
  readonly samples: number;
  readonly payloadBytes: number;
  readonly indexBytes: number;
  readonly createdAtNs: bigint;
  /** Why it is not usable, when it is not. */
  readonly damage: string | undefined;
}

export type ShardState = 'notStarted' | 'bootstrapping' | 'bootstrapped';

export interface EngineStatus {
  readonly state: 'starting' | 'bootstrapping' | 'ready' | 'closed';
  readonly shardCount: number;
  readonly namespaces: readonly NamespaceStatus[];
  /** The newest last. */
  readonly bootstrapRuns: readonly BootstrapRunStatus[];
  readonly memory: MemoryStatus;
  readonly log: LogStatus;
  readonly snapshots: SnapshotStatus;
  readonly disk: { readonly freeBytes: number; readonly full: boolean };
}

export interface NamespaceStatus {
  readonly options: NamespaceOptions;
  readonly series: number;
  /** Taken since the start. */
  readonly samplesWritten: bigint;
  readonly rejected: Readonly<Record<RejectReason, number>>;
  readonly openBlocks: readonly {
    readonly blockStartNs: bigint;
    readonly samples: number;
    readonly cold: boolean;
  }[];
  readonly filesets: number;
  readonly filesetBytes: number;
  readonly quarantined: number;
  readonly tombstones: number;
  readonly cache: { readonly bytes: number; readonly hits: number; readonly misses: number };
  /** This node's, ascending. */
  readonly shards: readonly ShardStatus[];
}

export interface ShardStatus {
  readonly shard: number;
  readonly state: ShardState;
  /** Where it was filled from, the last time that it was. */
  readonly sources?: readonly string[];
  /** Of one that others give just now. */
  readonly progress?: ShardProgress | undefined;
}

export interface MemoryStatus {
  readonly usedBytes: number;
  readonly limitBytes: number;
  /** Writes that need memory are refused. */
  readonly refusing: boolean;
}

export interface LogStatus {
  readonly mode: 'sync' | 'behind';
  readonly state: 'reading' | 'writing' | 'full' | 'poisoned' | 'closed';
  readonly reason: string | undefined;
  /** Behind the newest snapshot. */
  readonly bytes: number;
}

export interface SnapshotStatus {
  readonly lastAtNs: bigint | undefined;
  readonly failures: number;
  readonly lastFailure: string | undefined;
}

/**
 * In which order sources are asked, as M3 calls them; new shards come last in each.
 * - `default`: this node's filesets, its commit log, its peers
 * - `prefer_peers`: filesets, peers, commit log
 * - `exclude_commitlog`: filesets, peers; the log is read, but does not count as the whole of anything
 */
export type BootstrapOrder = 'default' | 'prefer_peers' | 'exclude_commitlog';

/** What a run of the bootstrap was begun for. */
export type BootstrapReason = 'start' | 'topology' | 'namespace' | 'retry';

/** One attempt to bootstrap, with what each source did. */
export interface BootstrapRunStatus {
  readonly attempt: number;
  readonly reason: BootstrapReason;
  /** This node's when it began: the run is over all of them, of which those that are whole fulfil themselves. */
  readonly shardCount: number;
  /** Of those, how many were not whole in every namespace: what the run has to fill. */
  readonly openShards: number;
  readonly state: 'running' | 'done' | 'retrying' | 'cancelled';
  readonly startedAtNs: bigint;
  readonly tookMs: number | undefined;
  readonly sources: readonly BootstrapSourceStatus[];
  /** Of what is under way: how far it is, at what rate, what it waits for; in words in `detail`. */
  readonly progress?: {
    readonly done?: number;
    readonly total?: number;
    readonly unit?: string;
    readonly detail?: string;
  };
  /** Why it has to be repeated, of each range that nobody could fulfil. */
  readonly unfulfilled: readonly UnfulfilledStatus[];
  readonly error: string | undefined;
}

export interface BootstrapSourceStatus {
  readonly source: string;
  readonly pass: 'persist' | 'memory';
  readonly namespace: string;
  /** Shard × blocks. */
  readonly requestedBlocks: number;
  readonly fulfilledBlocks: number;
  /** In words: filesets, samples from snapshots, records of the log. */
  readonly detail: string;
  readonly tookMs: number;
}

/** A part of a shard's range that a source had, or that nobody had yet. */
export interface ShardFill {
  readonly namespace: string;
  readonly attempt: number;
  readonly pass: 'persist' | 'memory';
  readonly startNs: bigint;
  readonly endNs: bigint;
  /** Undefined: nobody had it. */
  readonly source: string | undefined;
  readonly atNs: bigint;
  /** Of the sources that were asked before, or of all. */
  readonly others: readonly { readonly source: string; readonly reason: string }[];
}

export interface UnfulfilledStatus {
  readonly namespace: string;
  readonly shard: number;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly reason: UnfulfilledReason;
  readonly detail: string;
}

export type UnfulfilledReason =
  | 'notAvailable'
  | 'corruptFile'
  | 'consistencyNotMet'
  | 'peerError'
  | 'persistFailed'
  | 'rangeAdvanced'
  | 'aborted';
