import type { Clock } from '../../core/clock.ts';
import { eachAtOnce } from '../../core/each-at-once.ts';
import type { FileSystem } from '../../core/file-system.ts';
import { VarveError } from '../../core/errors.ts';
import { BlockWriter } from '../engine/block-writer.ts';
import type { ColumnCodec } from '../engine/sealed-series.ts';
import { nextVolume } from '../fileset/fileset-folder.ts';
import { FilesetWriter } from '../fileset/fileset-writer.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { removeFileset } from '../fileset/remove-fileset.ts';
import { agree, type BlockJob } from '../peers/block-fetch.ts';
import { mergedSeries } from '../peers/merged-series.ts';
import { PeerFailure, type PeerClient } from '../peers/peer-client.ts';
import { namespaceFromSettings, type NamespaceSettings } from '../protocol/namespace-json.ts';
import type { ReplicaTransport } from '../replication/replica-transport.ts';
import { settleDeletions } from '../replication/settle-deletions.ts';
import { requiredReplicas, type BackupCluster, type BackupLevel } from './backup-cluster.ts';
import type { BackupFolder } from './backup-folder.ts';
import type { BackedUpFileset, BackedUpNamespace, BackupManifest } from './backup-manifest.ts';
import { describeFileset } from './describe-fileset.ts';
import { surveyShards } from './shard-survey.ts';

export interface BackupDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly client: PeerClient;
  readonly replicas: ReplicaTransport;
  readonly codec: () => ColumnCodec;
  readonly onProgress: (progress: BackupProgress) => void;
}

export interface BackupProgress {
  readonly namespace: string;
  readonly done: number;
  readonly total: number;
  readonly sentBytes: number;
}

export interface BackupRequest {
  readonly id: string;
  readonly cluster: BackupCluster;
  readonly level: BackupLevel;
  readonly namespaces: readonly { readonly name: string; readonly settings: NamespaceSettings }[];
}

export interface BackupReport {
  readonly manifest: BackupManifest;
  /** Filesets that were in the folder already. */
  readonly kept: number;
  readonly written: number;
  /** That came over the network. */
  readonly sentBytes: number;
}

/** Of a namespace. */
interface Blocks {
  readonly name: string;
  readonly blockSizeNs: bigint;
}

const BLOCKS_AT_ONCE = 4;
const MAX_VERSION = (1n << 63n) - 1n;

/**
 * Takes a backup into a folder that is locked and prepared. Everything that was acknowledged before the call is in it:
 * of each block as many replicas are asked as the level says; where their filesets agree one of them gives it, otherwise
 * they are merged series by series, with what is in memory. What the folder has by its digest is not sent again.
 * @throws BACKUP_INCOMPLETE when too few replicas can give a shard; what was written by then serves the next attempt
 */
export class TakeBackup {
  readonly #deps: BackupDeps;
  readonly #folder: BackupFolder;
  readonly #request: BackupRequest;
  readonly #signal: AbortSignal;
  /** Nodes that may have what was deleted, and why. */
  #unsettled: ReadonlyMap<string, string> = new Map();
  #version = 0n;
  #kept = 0;
  #written = 0;
  #sentBytes = 0;

  constructor(deps: BackupDeps, folder: BackupFolder, request: BackupRequest, signal: AbortSignal) {
    this.#deps = deps;
    this.#folder = folder;
    this.#request = request;
    this.#signal = signal;
  }

  async run(): Promise<BackupReport> {
    const startedAtNs = this.#nowNs();
    const { id, cluster } = this.#request;
    // A node that stands alone has nobody to hear of deletions from.
    if (cluster.version !== null) {
      const nodes = [...cluster.endpoints].map(([node, endpoint]) => ({ id: node, endpoint }));
      const namespaces = this.#request.namespaces.map(({ name }) => name);
      const request = { nodes, namespaces, signal: this.#signal };
      this.#unsettled = (await settleDeletions(this.#deps.replicas, request)).silent;
    }
    const namespaces: BackedUpNamespace[] = [];
    for (const { name, settings } of this.#request.namespaces) {
      const { blockSizeNs } = namespaceFromSettings(name, settings);
      namespaces.push({ name, settings, filesets: await this.#namespace({ name, blockSizeNs }) });
    }
    const endedAtNs = this.#nowNs();
    const { shardCount } = cluster;
    const manifest = { id, startedAtNs, endedAtNs, shardCount, version: this.#version, namespaces };
    await this.#folder.add(manifest);
    return { manifest, kept: this.#kept, written: this.#written, sentBytes: this.#sentBytes };
  }

  async #namespace(of: Blocks): Promise<BackedUpFileset[]> {
    const { name: namespace, blockSizeNs } = of;
    const { client } = this.#deps;
    const { cluster, level } = this.#request;
    const required = requiredReplicas(level, cluster.replicaFactor);
    const signal = this.#signal;
    const { jobs, version } = await surveyShards(
      { client, signal },
      {
        cluster,
        namespace,
        required,
        excluded: this.#unsettled,
      },
    );
    this.#observe(version);
    const sameSize = (info: FilesetInfo): boolean => info.blockSizeNs === blockSizeNs;
    const stored = new StoredFilesets((await this.#folder.stored(namespace)).filter(sameSize));
    const found: BackedUpFileset[] = [];
    let done = 0;
    await eachAtOnce(jobs, BLOCKS_AT_ONCE, async (job) => {
      const info = await this.#block(of, job, stored);
      if (info) found.push(describeFileset(this.#folder.root, info));
      const { onProgress } = this.#deps;
      onProgress({ namespace, done: ++done, total: jobs.length, sentBytes: this.#sentBytes });
    });
    return found.sort((a, b) =>
      a.blockStartNs === b.blockStartNs ? a.shard - b.shard : a.blockStartNs < b.blockStartNs ? -1 : 1,
    );
  }

  /** Undefined when there is nothing of it any more. */
  async #block(of: Blocks, job: BlockJob, stored: StoredFilesets): Promise<FilesetInfo | undefined> {
    const isAgreed = agree(job.offers);
    const known = isAgreed ? stored.find(job, job.offers[0]?.block.fileset?.digest) : undefined;
    if (known) {
      this.#kept++;
      return known;
    }
    const written = await this.#fetch(of, job, isAgreed);
    if (!written) return undefined;
    const same = stored.find(job, written.digest.toString('hex'));
    if (!same) {
      this.#written++;
      return written;
    }
    // Nothing was written to it since: it only had to be looked at.
    await removeFileset(this.#deps.fs, this.#folder.root, written);
    this.#kept++;
    return same;
  }

  /** From one after the other where they agree, otherwise from all of them that it takes. */
  async #fetch(of: Blocks, job: BlockJob, isAgreed: boolean): Promise<FilesetInfo | undefined> {
    const names = job.offers.map(({ node }) => node).sort();
    const from = job.shard % Math.max(1, names.length);
    let nodes = [...names.slice(from), ...names.slice(0, from)];
    for (let { spare } = job; ; spare--) {
      try {
        return await this.#write(of, job, isAgreed ? nodes.slice(0, 1) : nodes);
      } catch (error) {
        if (!(error instanceof PeerFailure)) throw error;
        nodes = nodes.filter((node) => node !== error.node);
        if (nodes.length > 0 && (isAgreed || spare > 0)) continue;
        const where = `block ${job.startNs} of shard ${job.shard} of namespace ${of.name}`;
        throw new VarveError('BACKUP_INCOMPLETE', `${where}: ${error.message}`, {
          hint: 'Nothing counts as backed up. The next backup goes on from what is in the folder.',
          cause: error,
        });
      }
    }
  }

  async #write(
    { name: namespace, blockSizeNs }: Blocks,
    { shard, startNs: blockStartNs, offers }: BlockJob,
    nodes: readonly string[],
  ): Promise<FilesetInfo | undefined> {
    const { fs, client, codec } = this.#deps;
    const { root } = this.#folder;
    const place = { namespace, shard, blockStartNs };
    const id = { ...place, volume: await nextVolume(fs, root, place) };
    await using files = await FilesetWriter.create(
      { fs },
      { root, id, kind: 'flush', blockSizeNs, createdAtNs: this.#nowNs() },
    );
    const writer = new BlockWriter(files);
    const onBytes = (bytes: number): void => {
      this.#sentBytes += bytes;
    };
    const signal = this.#signal;
    for await (const { id: series, columns } of mergedSeries(
      { client, codec, signal, onBytes },
      place,
      nodes,
    )) {
      await writer.add(series, columns);
      for (const { version } of columns.overwrites) this.#observe(version);
    }
    if (writer.series === 0) return undefined;
    const deletedUpTo = offers.reduce(
      (least, { version }) => (version < least ? version : least),
      MAX_VERSION,
    );
    return await writer.finish(deletedUpTo);
  }

  #observe(version: bigint): void {
    if (version > this.#version) this.#version = version;
  }

  #nowNs(): bigint {
    return BigInt(Math.floor(this.#deps.clock.nowMs())) * 1_000_000n;
  }
}

/** What the folder has of a namespace, by block and digest. */
class StoredFilesets {
  readonly #byContent = new Map<string, FilesetInfo>();

  constructor(infos: readonly FilesetInfo[]) {
    for (const info of infos) this.#byContent.set(contentKey(info, info.digest.toString('hex')), info);
  }

  find({ shard, startNs: blockStartNs }: BlockJob, digest: string | undefined): FilesetInfo | undefined {
    return digest === undefined
      ? undefined
      : this.#byContent.get(contentKey({ shard, blockStartNs }, digest));
  }
}

function contentKey(
  { shard, blockStartNs }: Pick<FilesetInfo, 'shard' | 'blockStartNs'>,
  digest: string,
): string {
  return `${shard}/${blockStartNs}/${digest}`;
}
