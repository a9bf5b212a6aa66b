import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { RunEvents } from '../../run/events.ts';
import { BootstrapLoop, type AttemptReport } from '../bootstrap/bootstrap-loop.ts';
import { runBootstrapProcess, type ProcessResult } from '../bootstrap/bootstrap-process.ts';
import type { BootstrapSource } from '../bootstrap/bootstrap-source.ts';
import { CommitLogSource } from '../bootstrap/commit-log-source.ts';
import { FsSource } from '../bootstrap/fs-source.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import { UninitializedSource } from '../bootstrap/uninitialized-source.ts';
import type { EngineLog } from './engine-log.ts';
import type { HybridClock } from './hybrid-clock.ts';
import type { Namespace } from './namespace.ts';
import type { NamespaceRegistry } from './namespace-registry.ts';
import type { RecoveredMemory } from './recover-memory.ts';
import type { ColumnCodec } from './sealed-series.ts';
import type { BootstrapRunStatus, Finding } from './storage-engine.ts';

export interface EngineBootstrapDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly hybridClock: HybridClock;
  readonly random: () => number;
  readonly events: RunEvents | undefined;
  readonly node: string;
  readonly codec: () => ColumnCodec;
  readonly registry: NamespaceRegistry;
  readonly engineLog: EngineLog;
  readonly recovered: Pick<RecoveredMemory, 'position' | 'snapshots'>;
  /** The placement as it is now; asked once an attempt. */
  readonly topology: () => TopologySnapshot;
  /** Further sources, put before `uninitialized`: peers. */
  readonly sources?: readonly BootstrapSource[];
  readonly onFinding: (finding: Finding) => void;
  /** Every shard of every namespace is bootstrapped. */
  readonly onDone: () => Promise<void>;
}

/** What the engine bootstraps, with which sources, and what becomes of the results. */
export class EngineBootstrap {
  readonly #deps: EngineBootstrapDeps;
  readonly #fsSource: FsSource;
  readonly #sources: readonly BootstrapSource[];
  readonly #loop: BootstrapLoop;

  constructor(deps: EngineBootstrapDeps, folder: string) {
    this.#deps = deps;
    const { fs, registry, onFinding, engineLog, codec, hybridClock, clock, random, events, node } = deps;
    const lookup = (name: string): Namespace | undefined => registry.find(name);
    this.#fsSource = new FsSource({
      fs,
      lookup,
      onDamage: (damage) => onFinding({ kind: 'fileset', ...damage }),
      onVersion: (version) => hybridClock.observe(version),
    });
    const commitLog = new CommitLogSource({
      fs,
      folder,
      logFolder: engineLog.folder,
      image: deps.recovered.position,
      snapshots: deps.recovered.snapshots,
      codec,
      clock: hybridClock,
      lookup,
      lookupId: (id) => registry.findId(id),
      onFinding,
      onReplayed: ({ end, payloadBytes }) => engineLog.open(end, payloadBytes),
    });
    this.#sources = [this.#fsSource, commitLog, ...(deps.sources ?? []), new UninitializedSource()];
    this.#loop = new BootstrapLoop({ clock, random, events, node }, (report, signal) =>
      this.#attempt(report, signal),
    );
  }

  get running(): boolean {
    return this.#loop.running;
  }

  get history(): readonly BootstrapRunStatus[] {
    return this.#loop.history;
  }

  /** Resolves when every namespace is bootstrapped. */
  run(signal: AbortSignal): Promise<void> {
    return this.#loop.run(signal);
  }

  forget(name: string): void {
    this.#fsSource.forget(name);
  }

  async #attempt(report: AttemptReport, signal: AbortSignal): Promise<ProcessResult | undefined> {
    const { registry, engineLog, clock, hybridClock, topology } = this.#deps;
    const due = registry.all.filter(({ bootstrapped }) => !bootstrapped);
    // The log is read even when there is no namespace: it cannot be written before.
    if (due.length === 0 && engineLog.isOpen) {
      await this.#deps.onDone();
      return undefined;
    }
    const namespaces = due.map((namespace) => {
      const shards = namespace.shardStates.flatMap((state, shard) =>
        state === 'bootstrapped' ? [] : [shard],
      );
      for (const shard of shards) namespace.shardStates[shard] = 'bootstrapping';
      return { namespace, options: namespace.options, shards };
    });
    const deps = {
      monotonicMs: () => clock.monotonicMs(),
      nowNs: () => hybridClock.nowNs(),
      onSource: (status: Parameters<AttemptReport['onSource']>[0]) => report.onSource(status),
      report: (progress: Parameters<AttemptReport['progress']>[0]) => report.progress(progress),
    };
    const input = { sources: this.#sources, topology: topology(), namespaces, signal };
    const result = await runBootstrapProcess(deps, input);
    for (const { namespace, shards } of namespaces) {
      const open = result.unfulfilled.get(namespace.name);
      for (const shard of shards) {
        namespace.shardStates[shard] = open?.get(shard).isEmpty === false ? 'notStarted' : 'bootstrapped';
      }
    }
    if (registry.all.every(({ bootstrapped }) => bootstrapped)) await this.#deps.onDone();
    return result;
  }
}
