import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { hasCode, readWholeFile, type FileSystem } from '../../core/file-system.ts';
import { decodeDigestFile } from '../fileset/digest-file.ts';
import { decodeAt, FileDamageError } from '../fileset/fileset-damage.ts';
import { filesetPath, type FilesetId } from '../fileset/fileset-id.ts';
import { decodeInfo } from '../fileset/info-file.ts';
import type { CopiedKind } from '../fileset/receive-fileset.ts';
import { namespaceFromSettings, type NamespaceSettings } from '../protocol/namespace-json.ts';
import type { BackupCluster } from './backup-cluster.ts';
import { damagedBackup, type BackupFolder } from './backup-folder.ts';
import type { BackedUpFileset, BackedUpNamespace, BackupManifest } from './backup-manifest.ts';
import { blockKey, type RestoreBegin, type RestoredFileset, type RestoreLook } from './restore-messages.ts';

/** A storage node as a restore speaks to it. */
export interface RestoreTarget {
  readonly node: string;
  /** @throws NAMESPACE_UNKNOWN, and why it does not answer */
  look(namespace: string, signal: AbortSignal): Promise<RestoreLook>;
  begin(begin: RestoreBegin, signal: AbortSignal): Promise<RestoreLook>;
  send(
    fileset: RestoredFileset,
    content: () => AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<'taken' | 'present'>;
  end(begin: RestoreBegin, signal: AbortSignal): Promise<void>;
}

/** The namespaces of the cluster. */
export interface RestoreNamespaces {
  list(): Promise<readonly { readonly name: string; readonly settings: NamespaceSettings }[]>;
  create(name: string, settings: object): Promise<void>;
  remove(name: string): Promise<void>;
}

export interface RestoreDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly targets: ReadonlyMap<string, RestoreTarget>;
  readonly namespaces: RestoreNamespaces;
  readonly onProgress: (progress: RestoreProgress) => void;
}

export interface RestoreProgress {
  readonly namespace: string;
  readonly done: number;
  readonly total: number;
  readonly sentBytes: number;
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

const PIECE_BYTES = 256 * 1024;
const SENDS_AT_ONCE = 6;
const TRIES = 3;
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
  #taken = 0;
  #present = 0;
  #sentBytes = 0;

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
    if (manifest.shardCount !== cluster.shardCount) {
      throw new VarveError(
        'RESTORE_REFUSED',
        `the backup has ${manifest.shardCount} shards and these nodes have ${cluster.shardCount}`,
        { hint: `Start nodes in empty folders with --shard-count ${manifest.shardCount}.` },
      );
    }
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
    await this.#sendAll(due, has);
    for (const target of this.#targets) await target.end(begin, this.#signal);
    return {
      namespace: into,
      samples: due.reduce((sum, { samples }) => sum + samples, 0),
      taken: this.#taken,
      present: this.#present,
      expired: namespace.filesets.length - due.length,
      sentBytes: this.#sentBytes,
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

  async #sendAll(due: readonly BackedUpFileset[], has: ReadonlyMap<string, RestoreLook>): Promise<void> {
    const { cluster, into } = this.#request;
    const sends = due.flatMap((fileset) =>
      (cluster.replicas[fileset.shard] ?? []).flatMap(({ node }) => {
        const target = this.#deps.targets.get(node);
        return target ? [{ fileset, target }] : [];
      }),
    );
    const next = sends[Symbol.iterator]();
    let done = 0;
    const worker = async (): Promise<void> => {
      for (const { fileset, target } of next) {
        if (has.get(target.node)?.filesets[blockKey(fileset)] === fileset.digest) this.#present++;
        else await this.#send(fileset, target);
        done++;
        this.#deps.onProgress({ namespace: into, done, total: sends.length, sentBytes: this.#sentBytes });
      }
    };
    await Promise.all(Array.from({ length: SENDS_AT_ONCE }, worker));
  }

  async #send(fileset: BackedUpFileset, target: RestoreTarget): Promise<void> {
    const id = { ...fileset, namespace: this.#request.namespace.name };
    const what = await this.#read(id);
    for (let tries = 1; ; tries++) {
      try {
        const outcome = await target.send(what, () => this.#content(id, what), this.#signal);
        if (outcome === 'taken') this.#taken++;
        else this.#present++;
        return;
      } catch (error) {
        this.#signal.throwIfAborted();
        const mayPass =
          error instanceof VarveError && ['STORAGE_NOT_READY', 'PEER_UNAVAILABLE'].includes(error.code);
        if (!mayPass || tries === TRIES) throw error;
        await this.#deps.clock.sleep(POLL_MS * tries * 10, this.#signal);
      }
    }
  }

  /** Its info as it is to be there, and what its files have to be. */
  async #read(id: FilesetId & { readonly digest: string }): Promise<RestoredFileset> {
    const { fs } = this.#deps;
    const { root } = this.#folder;
    const { manifest, into } = this.#request;
    try {
      const [infoFile, digestFile] = [filesetPath(root, id, 'info'), filesetPath(root, id, 'digest')];
      const [infoBytes, digestBytes] = [
        await readWholeFile(fs, infoFile),
        await readWholeFile(fs, digestFile),
      ];
      const info = decodeAt(infoFile, 0, () => decodeInfo(infoFile, infoBytes, id));
      const sums = decodeAt(digestFile, 0, () => decodeDigestFile(digestFile, digestBytes));
      return { backup: manifest.id, info: { ...info, namespace: into }, sums };
    } catch (error) {
      if (error instanceof FileDamageError) throw damagedBackup(error.damage);
      if (!hasCode(error, 'ENOENT')) throw error;
      throw damagedBackup({ file: filesetPath(root, id, 'info'), offset: 0, reason: messageOf(error) });
    }
  }

  async *#content(id: FilesetId, { sums }: RestoredFileset): AsyncGenerator<Uint8Array, void, void> {
    for (const kind of ['data', 'index'] satisfies CopiedKind[]) {
      await using file = await this.#deps.fs.open(filesetPath(this.#folder.root, id, kind), 'read');
      for (let offset = 0; offset < sums[kind].sizeBytes;) {
        const piece = await file.read(offset, Math.min(PIECE_BYTES, sums[kind].sizeBytes - offset));
        if (piece.length === 0) throw damagedBackup({ file: file.path, offset, reason: 'it ends too early' });
        offset += piece.length;
        this.#sentBytes += piece.length;
        yield piece;
      }
    }
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
