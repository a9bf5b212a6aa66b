import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { ColumnCodec } from '../engine/sealed-series.ts';
import { namespaceFromSettings, type NamespaceSettings } from '../protocol/namespace-json.ts';
import type { BackupCluster } from './backup-cluster.ts';
import type { BackupFolder } from './backup-folder.ts';
import type { BackedUpFileset, BackedUpNamespace, BackupManifest } from './backup-manifest.ts';
import { reshardBlock } from './reshard.ts';
import type { RestoreLook } from './restore-messages.ts';
import { FilesetSender, type RestoreProgress, type RestoreTarget } from './send-filesets.ts';

/** The namespaces of the cluster. */
export interface RestoreNamespaces {
  list(): Promise<readonly { readonly name: string; readonly settings: NamespaceSettings }[]>;
  create(name: string, settings: object): Promise<void>;
  remove(name: string): Promise<void>;
}

export interface Staging extends AsyncDisposable {
  readonly root: string;
}

export interface RestoreDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly targets: ReadonlyMap<string, RestoreTarget>;
  readonly namespaces: RestoreNamespaces;
  readonly codec: () => ColumnCodec;
  /** An empty folder for files of one block; removed with what is in it. */
  readonly staging: () => Promise<Staging>;
  readonly onProgress: (progress: RestoreProgress) => void;
}

export interface RestoreRequest {
  readonly cluster: BackupCluster;
  readonly manifest: BackupManifest;
  readonly namespace: BackedUpNamespace;
  /** The name that it is restored under. */
  readonly into: string;
  /** What is there is given up. */
  readonly overwrite: boolean;
}

/** How things stand before a restore. */
export interface RestoreOutlook {
  readonly isThere: boolean;
  /** Nodes that have samples of it that are not of this backup. */
  readonly holdsOthers: readonly string[];
  readonly nodes: readonly string[];
  /** Those that the namespace has, or is to have. */
  readonly settings: NamespaceSettings;
}

export interface RestoreReport {
  readonly namespace: string;
  readonly samples: number;
  /** Filesets, on all nodes together. */
  readonly taken: number;
  readonly present: number;
  /** Filesets of the backup that are out of the namespace's retention by now. */
  readonly expired: number;
  readonly sentBytes: number;
}

const POLL_MS = 100;
const FOLLOW_MS = 30_000;

/**
 * Puts a namespace of a backup into a cluster, on every replica. Begins only where the namespace is new or empty, or was
 * begun with the same backup: then it goes on. The files have been verified before.
 * @throws RESTORE_REFUSED, RESTORE_TARGET_NOT_EMPTY before anything is changed; STORAGE_NOT_READY, BACKUP_DAMAGED
 */
export class RestoreBackup {
  readonly #deps: RestoreDeps;
  readonly #folder: BackupFolder;
  readonly #request: RestoreRequest;
  readonly #signal: AbortSignal;

  constructor(deps: RestoreDeps, folder: BackupFolder, request: RestoreRequest, signal: AbortSignal) {
    this.#deps = deps;
    this.#folder = folder;
    this.#request = request;
    this.#signal = signal;
  }

  /**
   * Everything that can be looked at, is; nothing is changed.
   * @throws RESTORE_REFUSED, RESTORE_TARGET_NOT_EMPTY, SHARD_NOT_READY
   */
  async check(): Promise<RestoreOutlook> {
    const { cluster, manifest, namespace, into, overwrite } = this.#request;
    const moving = cluster.replicas.findIndex((all) => all.some(({ state }) => state !== 'available'));
    if (moving >= 0) {
      throw new VarveError('RESTORE_REFUSED', `shard ${moving} is on its way to another node`, {
        hint: 'Wait until varve placement show has all shards as available.',
      });
    }
    const there = (await this.#deps.namespaces.list()).find(({ name }) => name === into);
    if (there) this.#refuseOther(there.settings, namespace);
    const looks = await this.#look();
    const holdsOthers: string[] = [];
    for (const [node, look] of looks) {
      const [unready] = look?.unready ?? [];
      if (unready !== undefined) {
        throw new VarveError(
          'SHARD_NOT_READY',
          `shard ${unready} of namespace ${into} is not whole on ${node}`,
        );
      }
      if (look && !look.isEmpty && look.backup !== manifest.id) holdsOthers.push(node);
    }
    if (holdsOthers.length > 0 && !overwrite) {
      throw new VarveError(
        'RESTORE_TARGET_NOT_EMPTY',
        `namespace ${into} has samples already (on ${holdsOthers.join(', ')})`,
        {
          hint: 'Restore into another namespace with --into NAME, or give up what is there with --overwrite.',
        },
      );
    }
    const nodes = [...looks.keys()];
    return {
      isThere: there !== undefined,
      holdsOthers,
      nodes,
      settings: there?.settings ?? namespace.settings,
    };
  }

  async run(): Promise<RestoreReport> {
    const { namespace, into, manifest } = this.#request;
    const { isThere, holdsOthers, settings } = await this.check();
    const isAnew = holdsOthers.length > 0;
    if (isAnew) await this.#makeAnew();
    else if (!isThere) await this.#deps.namespaces.create(into, namespace.settings);
    await this.#followed(new Map());
    const begin = { namespace: into, backup: manifest.id, version: manifest.version };
    const has = new Map<string, RestoreLook>();
    for (const target of this.#targets) has.set(target.node, await target.begin(begin, this.#signal));
    const keptFromNs = this.#keptFromNs(isAnew ? namespace.settings : settings);
    const { blockSizeNs } = namespaceFromSettings(into, namespace.settings);
    const due = namespace.filesets.filter(({ blockStartNs }) => blockStartNs + blockSizeNs > keptFromNs);
    const sender = await this.#sendAll(due, has);
    for (const target of this.#targets) await target.end(begin, this.#signal);
    return {
      namespace: into,
      samples: due.reduce((sum, { samples }) => sum + samples, 0),
      ...sender.figures,
      expired: namespace.filesets.length - due.length,
    };
  }

  get #targets(): readonly RestoreTarget[] {
    return [...this.#deps.targets.values()];
  }

  /** Of each node; undefined where it does not know the namespace. */
  async #look(): Promise<Map<string, RestoreLook | undefined>> {
    const { into } = this.#request;
    const found = new Map<string, RestoreLook | undefined>();
    for (const target of this.#targets) {
      try {
        found.set(target.node, await target.look(into, this.#signal));
      } catch (error) {
        if (!(error instanceof VarveError) || error.code !== 'NAMESPACE_UNKNOWN') throw error;
        found.set(target.node, undefined);
      }
    }
    return found;
  }

  async #makeAnew(): Promise<void> {
    const { namespace, into } = this.#request;
    const before = await this.#look();
    await this.#deps.namespaces.remove(into);
    await this.#deps.namespaces.create(into, namespace.settings);
    await this.#followed(before);
  }

  /** Until every node has the namespace, and another one than before. */
  async #followed(before: ReadonlyMap<string, RestoreLook | undefined>): Promise<void> {
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + FOLLOW_MS;
    for (;;) {
      const looks = await this.#look();
      const behind = [...looks].find(
        ([node, look]) =>
          !look || look.namespaceId === before.get(node)?.namespaceId || look.unready.length > 0,
      );
      if (!behind) return;
      if (clock.monotonicMs() > untilMs) {
        const { into } = this.#request;
        throw new VarveError('STORAGE_NOT_READY', `node ${behind[0]} has not made namespace ${into} yet`, {
          hint: 'Run the restore again when it follows the coordinator.',
        });
      }
      await clock.sleep(POLL_MS, this.#signal);
    }
  }

  /** Block by block where they have to be written anew, because there is another number of shards. */
  async #sendAll(
    due: readonly BackedUpFileset[],
    has: ReadonlyMap<string, RestoreLook>,
  ): Promise<FilesetSender> {
    const { cluster, manifest, namespace, into } = this.#request;
    const { shardCount } = cluster;
    const isSame = manifest.shardCount === shardCount;
    const blocks = byBlock(due);
    const filesets = isSame ? due.length : blocks.length * shardCount;
    const what = { cluster, backup: manifest.id, namespace: namespace.name, into };
    const sender = new FilesetSender(
      this.#deps,
      { ...what, has, total: filesets * cluster.replicaFactor },
      this.#signal,
    );
    if (isSame) await sender.send(this.#folder.root, due);
    for (const block of isSame ? [] : blocks) {
      await using staging = await this.#deps.staging();
      const from = { root: this.#folder.root, namespace: namespace.name, filesets: block };
      const to = { root: staging.root, shardCount };
      await sender.send(staging.root, await reshardBlock(this.#deps, from, to));
    }
    return sender;
  }

  /** What ended before it would be removed at once. */
  #keptFromNs(settings: NamespaceSettings): bigint {
    const { retentionNs } = namespaceFromSettings(this.#request.into, settings);
    return BigInt(Math.floor(this.#deps.clock.nowMs())) * 1_000_000n - retentionNs;
  }

  #refuseOther({ blockSize }: NamespaceSettings, { name, settings }: BackedUpNamespace): void {
    const { into, overwrite } = this.#request;
    if (overwrite || blockSize === settings['blockSize']) return;
    throw new VarveError(
      'RESTORE_REFUSED',
      `namespace ${into} has blocks of ${String(blockSize)}, and namespace ${name} in the backup ones of ${String(settings['blockSize'])}`,
      { hint: 'Restore into a new namespace with --into NAME.' },
    );
  }
}

function byBlock(filesets: readonly BackedUpFileset[]): BackedUpFileset[][] {
  const blocks = new Map<bigint, BackedUpFileset[]>();
  for (const one of filesets) {
    const block = blocks.get(one.blockStartNs) ?? [];
    blocks.set(one.blockStartNs, block);
    block.push(one);
  }
  return [...blocks.values()];
}
