import { dirname } from 'node:path';
import { makeFolders } from '../../core/file-system.ts';
import type { BootstrapPass } from '../bootstrap/bootstrap-source.ts';
import { BlockWriter } from '../engine/block-writer.ts';
import { DATA_FOLDER } from '../engine/fileset-store.ts';
import { placeOf } from '../engine/fileset-summary.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { decodeAt } from '../fileset/fileset-damage.ts';
import { nextVolume } from '../fileset/fileset-folder.ts';
import { FilesetWriter } from '../fileset/fileset-writer.ts';
import { decodeInfo, type FilesetInfo } from '../fileset/info-file.ts';
import { COPIED_KINDS, FilesetReceiver } from '../fileset/receive-fileset.ts';
import { openColumns } from './block-content.ts';
import { mergedSeries } from './merged-series.ts';
import { PeerFailure, type PeerClient } from './peer-client.ts';
import { decodeFile, decodeFileset, type PeerBlock } from './peer-messages.ts';

/** A block on one peer. */
export interface BlockOffer {
  readonly node: string;
  readonly block: PeerBlock;
  /** Deletions up to this version are carried out in it. */
  readonly version: bigint;
}

export interface BlockJob {
  readonly shard: number;
  readonly startNs: bigint;
  /** Of all that have anything of it. */
  readonly offers: readonly BlockOffer[];
  /** So many of the peers may fail before too few are left. */
  readonly spare: number;
}

/** What one attempt leaves to the next: copies that were not finished. */
export interface FetchMemo {
  readonly partial: Map<string, FilesetReceiver>;
}

export interface FetchedBlock {
  readonly kind: 'copied' | 'merged' | 'memory' | 'nothing';
  /** That were read one by one. */
  readonly series: number;
  readonly from: readonly string[];
}

export interface BlockFetchDeps {
  readonly view: PeerView;
  readonly client: PeerClient;
  readonly memo: FetchMemo;
  readonly signal: AbortSignal;
  readonly onBytes: (bytes: number) => void;
}

export interface BlockFetchPlace {
  readonly namespace: Namespace;
  readonly pass: BootstrapPass;
  readonly atNs: bigint;
}

const COPY_BYTES = 2 * 1024 * 1024;

/** Brings one block of one shard here. */
export class BlockFetch {
  readonly #deps: BlockFetchDeps;
  readonly #namespace: Namespace;
  readonly #pass: BootstrapPass;
  readonly #atNs: bigint;

  constructor(deps: BlockFetchDeps, { namespace, pass, atNs }: BlockFetchPlace) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#pass = pass;
    this.#atNs = atNs;
  }

  /**
   * Into a fileset that is durable when it resolves, or into the memory.
   * @throws PeerFailure, what the disk throws, STORAGE_OVERLOADED
   */
  async run(job: BlockJob): Promise<FetchedBlock> {
    if (job.offers.length === 0) return { kind: 'nothing', series: 0, from: [] };
    if (this.#pass === 'memory') return await this.#intoMemory(job);
    const fetched = agree(job.offers) ? await this.#copy(job) : await this.#merge(job);
    await this.#loadIntoCache(job);
    return fetched;
  }

  /** All have the same file. Which of them sends it depends on the shard, so that all have their part. */
  async #copy(job: BlockJob): Promise<FetchedBlock> {
    const { client, memo } = this.#deps;
    const nodes = turned(job);
    const key = `${this.#namespace.id}/${job.shard}/${job.startNs}`;
    const receiver = await this.#receiver(key, job, nodes);
    const from = new Set<string>();
    try {
      for (const kind of COPIED_KINDS) {
        for (let place = 0; receiver.missingBytes(kind) > 0;) {
          const node = nodes[place];
          if (node === undefined) break;
          try {
            await this.#copyFile(receiver, kind, { node, job });
            from.add(node);
          } catch (error) {
            // The next one goes on where it ended.
            if (!(error instanceof PeerFailure) || ++place === nodes.length) throw error;
          }
        }
      }
      const info = await receiver.finish();
      memo.partial.delete(key);
      const [first = ''] = nodes;
      if (!info)
        throw client.distrust([...from][0] ?? first, new Error('a file is not what its checksum says'));
      await this.#put(info);
      return { kind: 'copied', series: 0, from: [...from] };
    } catch (error) {
      // What has come is used by the next attempt, unless the disk is the trouble.
      if (!(error instanceof PeerFailure)) {
        memo.partial.delete(key);
        await receiver.abort();
      }
      throw error;
    }
  }

  async #receiver(key: string, job: BlockJob, nodes: readonly string[]): Promise<FilesetReceiver> {
    const { memo, view } = this.#deps;
    const digest = job.offers[0]?.block.fileset?.digest ?? '';
    const known = memo.partial.get(key);
    if (known?.what.info.digest.toString('hex') === digest) return known;
    memo.partial.delete(key);
    await known?.abort();
    const { info, sums } = await this.#describe(job, nodes, digest);
    const root = await this.#root();
    const { shard, startNs: blockStartNs } = job;
    const place = { namespace: this.#namespace.name, shard, blockStartNs };
    const id = { ...place, volume: await nextVolume(view.fs, root, place) };
    const receiver = new FilesetReceiver(view.fs, { root, id, info, sums });
    memo.partial.set(key, receiver);
    return receiver;
  }

  /** Info and sums, of the first that answers. */
  async #describe(
    job: BlockJob,
    nodes: readonly string[],
    digest: string,
  ): Promise<Pick<FilesetReceiver['what'], 'info' | 'sums'>> {
    const { client, signal } = this.#deps;
    for (const [place, node] of nodes.entries()) {
      const id = { namespace: this.#namespace.name, shard: job.shard, blockStartNs: job.startNs };
      const volume = job.offers.find((offer) => offer.node === node)?.block.fileset?.volume ?? 0;
      try {
        const bytes = await client.call(node, { kind: 'fileset', ...id, volume }, signal);
        try {
          const { info: content, sums } = decodeFileset(bytes);
          const info = decodeAt(node, 0, () => decodeInfo(node, content, { ...id, volume }));
          if (info.digest.toString('hex') !== digest) throw new Error('its digest is not what it said');
          return { info, sums };
        } catch (error) {
          throw client.distrust(node, error);
        }
      } catch (error) {
        if (!(error instanceof PeerFailure) || place === nodes.length - 1) throw error;
      }
    }
    throw new PeerFailure('nobody', 'there is no peer to ask');
  }

  /** One piece comes while the one before is written. */
  async #copyFile(
    receiver: FilesetReceiver,
    file: (typeof COPIED_KINDS)[number],
    { node, job }: { readonly node: string; readonly job: BlockJob },
  ): Promise<void> {
    const { client, signal, onBytes } = this.#deps;
    const volume = job.offers.find((offer) => offer.node === node)?.block.fileset?.volume ?? 0;
    const { shard, startNs: blockStartNs } = job;
    const block = { namespace: this.#namespace.name, shard, blockStartNs, volume };
    const { sizeBytes } = receiver.what.sums[file];
    const ask = (offset: number): Promise<Uint8Array> | undefined => {
      if (offset >= sizeBytes) return undefined;
      const lengthBytes = Math.min(COPY_BYTES, sizeBytes - offset);
      const asked = client.call(node, { kind: 'file', file, ...block, offset, lengthBytes }, signal);
      asked.catch(() => {});
      return asked;
    };
    let coming = ask(receiver.receivedBytes(file));
    while (coming) {
      const answer = await coming;
      let bytes: Buffer;
      try {
        bytes = decodeFile(answer);
        if (bytes.length === 0 || bytes.length > receiver.missingBytes(file))
          throw new Error('its file is shorter');
      } catch (error) {
        throw client.distrust(node, error);
      }
      onBytes(bytes.length);
      coming = ask(receiver.receivedBytes(file) + bytes.length);
      await receiver.append(file, bytes);
    }
  }

  async #merge(job: BlockJob): Promise<FetchedBlock> {
    const { view } = this.#deps;
    const root = await this.#root();
    const { shard, startNs: blockStartNs } = job;
    const place = { namespace: this.#namespace.name, shard, blockStartNs };
    const id = { ...place, volume: await nextVolume(view.fs, root, place) };
    const { blockSizeNs } = this.#namespace.options;
    const nodes = turned(job);
    await using files = await FilesetWriter.create(
      { fs: view.fs },
      { root, id, kind: 'flush', blockSizeNs, createdAtNs: view.clock.nowNs() },
    );
    const writer = new BlockWriter(files);
    for await (const { id: series, columns } of this.#series(job, nodes)) {
      await writer.add(series, columns);
      for (const { version } of columns.overwrites) view.clock.observe(version);
    }
    const deletedUpTo = job.offers.reduce(
      (least, { version }) => (version < least ? version : least),
      MAX_VERSION,
    );
    if (writer.series > 0) await this.#put(await writer.finish(deletedUpTo));
    return { kind: 'merged', series: writer.series, from: nodes };
  }

  async #intoMemory(job: BlockJob): Promise<FetchedBlock> {
    const { view } = this.#deps;
    const nodes = turned(job);
    let series = 0;
    for await (const { id, columns } of this.#series(job, nodes)) {
      const opened = openColumns(view.codec(), columns);
      this.#namespace.buffer.insert(id, opened);
      for (const { version } of opened.overwrites) view.clock.observe(version);
      series++;
    }
    return { kind: 'memory', series, from: nodes };
  }

  #series({ shard, startNs }: BlockJob, nodes: readonly string[]): ReturnType<typeof mergedSeries> {
    const { client, view, signal, onBytes } = this.#deps;
    const block = { namespace: this.#namespace.name, shard, blockStartNs: startNs };
    return mergedSeries({ client, codec: view.codec, signal, onBytes }, block, nodes);
  }

  async #put(info: FilesetInfo): Promise<void> {
    await this.#namespace.filesets.beginChange();
    this.#namespace.filesets.put(placeOf(info));
    this.#namespace.movedBlocks++;
  }

  /** Under the policy `all` everything is in memory from the bootstrap on. */
  async #loadIntoCache({ shard, startNs }: BlockJob): Promise<void> {
    const { cache, filesets, options } = this.#namespace;
    const reader = filesets.reader(startNs, shard);
    if (options.cachePolicy !== 'all' || !reader || !cache.hasRoom(reader.info.payloadBytes)) return;
    for await (const { id, payload } of reader.series()) cache.put(reader.info, id, payload, this.#atNs);
    await reader.close();
  }

  async #root(): Promise<string> {
    const { root } = this.#namespace.filesets;
    await makeFolders(this.#deps.view.fs, dirname(root), [DATA_FOLDER]);
    return root;
  }
}

const MAX_VERSION = (1n << 63n) - 1n;

/** Whether a file of one of them is all that any of them has. */
function agree(offers: readonly BlockOffer[]): boolean {
  const digest = offers[0]?.block.fileset?.digest;
  return (
    digest !== undefined &&
    offers.every(
      ({ block }) => block.fileset?.digest === digest && block.memorySeries === 0 && !block.hasDeletions,
    )
  );
}

/** The peers of a block, from another one on for each shard and block. */
function turned({ shard, offers }: BlockJob): string[] {
  const nodes = offers.map(({ node }) => node).sort();
  const from = shard % nodes.length;
  return [...nodes.slice(from), ...nodes.slice(0, from)];
}
