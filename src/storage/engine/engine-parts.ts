import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { RunEvents } from '../../run/events.ts';
import { singleNodeTopology, type TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import type { AppendToLog } from '../buffer/namespace-buffer.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { builtKernels, Kernel } from '../kernel/kernel.ts';
import type { Interventions } from '../bootstrap/interventions.ts';
import { BootstrapOperator, type BootstrapOperatorDeps } from './bootstrap-operator.ts';
import type { Catalog } from './catalog.ts';
import { EngineBootstrap, type EngineBootstrapDeps, type PeerBootstrapSource } from './engine-bootstrap.ts';
import { EngineLog } from './engine-log.ts';
import { HybridClock } from './hybrid-clock.ts';
import { NamespaceRegistry } from './namespace-registry.ts';
import { NodeShards } from './node-shards.ts';
import type { PeerView } from './peer-view.ts';
import type { RecoveredMemory } from './recover-memory.ts';
import { ColumnCodec } from './sealed-series.ts';
import { ShardOwnership } from './shard-ownership.ts';
import type { EngineOptions, Finding } from './storage-engine.ts';
import { loadTopology } from './stored-topology.ts';
import { Upkeep } from './upkeep.ts';

export interface EngineDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  /** Uniform in [0, 1): for waits. */
  readonly random: () => number;
  /** Any 32 bits, not to be known to those who write. */
  readonly randomUint32: () => number;
  readonly log: Log;
  readonly events?: RunEvents;
  /** The node's name, for events and the placement; `local` unless given. */
  readonly node?: string;
  /** How other nodes of the placement are asked for what this one lacks; a node without it asks nobody. */
  readonly peers?: (view: PeerView, onMemory: (shard: number) => void) => PeerBootstrapSource;
  /** The kernels; those of this build unless given. */
  readonly wasm?: Uint8Array;
}

export type CompleteOptions = EngineOptions & Required<Omit<EngineOptions, 'logSegmentBytes'>>;

const MIB = 1024 * 1024;
const CODEC_LIMIT_BYTES = 2048 * MIB;

/** With what counts where nothing is given. */
export function completeOptions(options: EngineOptions): CompleteOptions {
  return {
    shardCount: 32,
    memoryMb: 512,
    snapshotIntervalMs: 300_000,
    maxLogBytes: 512 * MIB,
    imageLogBytes: 16 * MIB,
    tickMs: 10_000,
    keepFreeBytes: 64 * MIB,
    bootstrapOrder: 'default',
    bootstrapRoundMs: 10_000,
    ...options,
  };
}

/** What is in the folder. */
export interface FoundParts {
  readonly catalog: Catalog;
  readonly recovered: RecoveredMemory;
  readonly interventions: Interventions;
}

export interface EngineHooks {
  readonly onFinding: (finding: Finding) => void;
  /** Every shard of every namespace is bootstrapped. */
  readonly onDone: () => Promise<void>;
  readonly isClosed: () => boolean;
  /** An operator does not want to wait for the next attempt. */
  readonly onRetry: () => void;
}

/** What an engine is put together from. */
export class EngineParts {
  readonly hybridClock: HybridClock;
  readonly codec: () => ColumnCodec;
  readonly ownership: ShardOwnership;
  readonly engineLog: EngineLog;
  readonly registry: NamespaceRegistry;
  readonly upkeep: Upkeep;
  readonly shards: NodeShards;
  readonly bootstrap: EngineBootstrap;
  readonly peerView: PeerView;
  readonly operator: BootstrapOperator;

  constructor(deps: EngineDeps, options: CompleteOptions, found: FoundParts, hooks: EngineHooks) {
    const { fs, clock, log, randomUint32, wasm, node = 'local' } = deps;
    const { folder, shardCount } = options;
    const { catalog, recovered, interventions } = found;
    const { memory, states, images } = recovered;
    const { topology: stored } = catalog.content;
    const hybridClock = new HybridClock(clock);
    hybridClock.observe(recovered.version);
    const codec = lazily(() => new ColumnCodec(codecKernel(wasm)));
    const ownership = new ShardOwnership(shardCount, stored && loadTopology(stored));
    const topology = (): TopologySnapshot => ownership.placement ?? aloneTopology(catalog, node);
    const engineLog = new EngineLog({ fs, clock, hybridClock, randomUint32, log }, options);
    const appenderOf = (id: number): AppendToLog => engineLog.appenderOf(id);
    const registry = new NamespaceRegistry(
      { fs, log, memory, codec, catalog, appenderOf, ownership },
      folder,
      states,
    );
    const { onFinding } = hooks;
    const files = { fs, log, clock, hybridClock, codec, registry, engineLog, ownership, onFinding };
    const shared = { ...files, interventions };
    const upkeep = new Upkeep(
      {
        ...shared,
        memory,
        images,
        isBootstrapping: () => this.bootstrap.running,
        onSnapshot: () => this.bootstrap.onSnapshot(),
      },
      options,
    );
    const shards = new NodeShards({ ...shared, catalog, upkeep });
    this.hybridClock = hybridClock;
    this.codec = codec;
    this.ownership = ownership;
    this.engineLog = engineLog;
    this.registry = registry;
    this.upkeep = upkeep;
    this.shards = shards;
    this.peerView = this.#peerViewOf(fs, topology, hooks.isClosed);
    const { random, events, peers } = deps;
    this.bootstrap = new EngineBootstrap(
      {
        ...shared,
        random,
        events,
        node,
        shards,
        recovered,
        topology,
        ...bootstrapOptions(options),
        ...(peers ? { peers: (onMemory: (shard: number) => void) => peers(this.peerView, onMemory) } : {}),
        secure: () => upkeep.secure(),
        onDone: hooks.onDone,
      },
      folder,
    );
    this.operator = operatorOf(this, { interventions, topology, tryAgain: hooks.onRetry });
  }

  #peerViewOf(fs: FileSystem, topology: () => TopologySnapshot, isClosed: () => boolean): PeerView {
    return {
      fs,
      codec: this.codec,
      clock: this.hybridClock,
      namespace: (name) => this.registry.find(name),
      topology,
      isOpen: () => this.engineLog.isOpen && !isClosed(),
      isWaiting: (name, shard) => this.bootstrap.isWaiting(name, shard),
      onDamage: (name, error) => {
        const namespace = this.registry.find(name);
        if (namespace) this.upkeep.salvageFile(namespace, error);
      },
    };
  }
}

function bootstrapOptions(options: CompleteOptions): Pick<EngineBootstrapDeps, 'order' | 'roundMs'> {
  return { order: options.bootstrapOrder, roundMs: options.bootstrapRoundMs };
}

function operatorOf(
  { hybridClock: clock, registry, upkeep, bootstrap }: EngineParts,
  rest: Pick<BootstrapOperatorDeps, 'interventions' | 'topology' | 'tryAgain'>,
): BootstrapOperator {
  const serially = upkeep.serially.bind(upkeep);
  return new BootstrapOperator({ ...rest, clock, registry, serially, history: () => bootstrap.history });
}

function codecKernel(wasm: Uint8Array | undefined): Kernel {
  return new Kernel(wasm ?? builtKernels(), { limitBytes: CODEC_LIMIT_BYTES });
}

function aloneTopology({ content }: Catalog, origin: string): TopologySnapshot {
  const { shardCount, everAvailable } = content;
  return singleNodeTopology({ origin, shardCount, everAvailable });
}

function lazily<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
