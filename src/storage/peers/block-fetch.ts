import { assert } from '../../core/errors.ts';
import type { Turns } from '../../core/turns.ts';
import type { BootstrapPass } from '../bootstrap/bootstrap-source.ts';
import { BlockWriter } from '../engine/block-writer.ts';
import { placeOf } from '../engine/fileset-summary.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { bury, type Tombstone } from '../engine/tombstones.ts';
import { decodeAt } from '../fileset/fileset-damage.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import { FilesetWriter } from '../fileset/fileset-writer.ts';
import { decodeInfo, type FilesetInfo } from '../fileset/info-file.ts';
import {
  COPIED_KINDS,
  FilesetReceiver,
  type CopiedFiles,
  type CopiedKind,
} from '../fileset/receive-fileset.ts';
import type { ShardFolders } from '../fileset/shard-folders.ts';
import { decodeLabels } from '../index/labels.ts';
import type { AnswerRooms } from './answer-rooms.ts';
import { openColumns } from './block-content.ts';
import { mergedSeries } from './merged-series.ts';
import { PeerFailure, type PeerClient } from './peer-client.ts';
import type { AnswerRoom } from './peer-transport.ts';
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
  /**
   * Blocks of which a copied file was not what its checksum said. They are merged: to give series one by one a node reads
   * what it has, finds the damage, and mends it.
   */
  readonly doubted: Set<string>;
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
  /** So many blocks come at the same time; those that wait for the disk are not among them. */
  readonly turns: Turns;
  /** Where filesets are written. */
  readonly folders: ShardFolders;
  /** Makes a fileset durable that is written. */
  readonly seal: (id: FilesetId) => Promise<void>;
  /** Filesets up to this size come in one answer. */
  readonly inlineBytes: number;
  readonly signal: AbortSignal;
  readonly rooms: AnswerRooms;
  readonly onBytes: (bytes: number) => void;
}

export interface BlockFetchPlace {
  readonly namespace: Namespace;
  readonly pass: BootstrapPass;
  readonly atNs: bigint;
  /** Those from whom it comes may not have carried out yet what was deleted here since this version. */
  readonly since: bigint | undefined;
}

const COPY_BYTES = 2 * 1024 * 1024;

/** A fileset as a peer describes it; of a small one all that it has. */
interface DescribedFileset extends Pick<FilesetReceiver['what'], 'info' | 'sums'> {
  readonly node: string;
  readonly files: CopiedFiles | undefined;
}

/** A fileset that is written, and from whom it is. */
interface ReceivedBlock {
  readonly receiver: FilesetReceiver;
  readonly info: FilesetInfo;
  readonly from: readonly string[];
}

/** Brings one block of one shard here. */
export class BlockFetch {
  readonly #deps: BlockFetchDeps;
  readonly #namespace: Namespace;
  readonly #pass: BootstrapPass;
  readonly #atNs: bigint;
  readonly #since: bigint;

  constructor(deps: BlockFetchDeps, { namespace, pass, atNs, since }: BlockFetchPlace) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#pass = pass;
    this.#atNs = atNs;
    this.#since = since ?? MAX_VERSION;
  }

  /**
   * Into a fileset that is durable when it resolves, or into the memory.
   * @throws PeerFailure, what the disk throws, STORAGE_OVERLOADED
   */
  async run(job: BlockJob): Promise<FetchedBlock> {
    if (job.offers.length === 0) return { kind: 'nothing', series: 0, from: [] };
    if (this.#pass === 'memory') return await this.#intoMemory(job);
    const { doubted } = this.#deps.memo;
    const key = this.#keyOf(job);
    const isCopy = agree(job.offers) && !doubted.has(key) && this.#deletions(job).length === 0;
    const fetched = isCopy ? await this.#copy(job) : await this.#merge(job);
    doubted.delete(key);
    await this.#loadIntoCache(job);
    return fetched;
  }

  /** All have the same file. Which of them sends it depends on the shard, so that all have their part. */
  async #copy(job: BlockJob): Promise<FetchedBlock> {
    const { turns, seal, memo } = this.#deps;
    const key = this.#keyOf(job);
    try {
      const { receiver, info, from } = await turns.run(() => this.#receive(key, job));
      await seal(info);
      receiver.sealed();
      memo.partial.delete(key);
      await this.#put(info);
      return { kind: 'copied', series: 0, from };
    } catch (error) {
      // What has come is used by the next attempt, unless the disk is the trouble.
      if (!(error instanceof PeerFailure)) {
        const receiver = memo.partial.get(key);
        memo.partial.delete(key);
        await receiver?.abort();
      }
      throw error;
    }
  }

  /** All of a fileset, written. */
  async #receive(key: string, job: BlockJob): Promise<ReceivedBlock> {
    const { memo, folders, view, rooms } = this.#deps;
    const nodes = turned(job);
    const digest = job.offers[0]?.block.fileset?.digest ?? '';
    const known = memo.partial.get(key);
    if (known?.what.info.digest.toString('hex') === digest) return await this.#receiveRest(key, job, nodes);
    memo.partial.delete(key);
    await known?.abort();
    const whole = await rooms.use(async (room) => {
      const { node, info, sums, files } = await this.#describe(job, { nodes, digest, room });
      const id = await this.#idOf(job);
      const what = { root: folders.root, id, info, sums, hasFolder: true };
      const receiver = new FilesetReceiver(view.fs, what);
      memo.partial.set(key, receiver);
      return files && (await this.#receiveWhole({ key, receiver, node }, files));
    });
    return whole ?? (await this.#receiveRest(key, job, nodes));
  }

  /** It has come with its description. */
  async #receiveWhole(
    {
      key,
      receiver,
      node,
    }: { readonly key: string; readonly receiver: FilesetReceiver; readonly node: string },
    files: CopiedFiles,
  ): Promise<ReceivedBlock> {
    for (const kind of COPIED_KINDS) this.#deps.onBytes(files[kind].length);
    const info = await receiver.writeWhole(files);
    if (!info) throw this.#doubt(key, node);
    return { receiver, info, from: [node] };
  }

  /** What is missing of it. */
  async #receiveRest(key: string, job: BlockJob, nodes: readonly string[]): Promise<ReceivedBlock> {
    const receiver = this.#deps.memo.partial.get(key);
    assert(receiver, 'a fileset that comes in pieces is begun before');
    const from = new Set<string>();
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
    const info = await receiver.write();
    const [first = ''] = nodes;
    if (!info) throw this.#doubt(key, [...from][0] ?? first);
    return { receiver, info, from: from.size === 0 ? [first] : [...from] };
  }

  /** What came of a block is not what was said: it is not copied again. */
  #doubt(key: string, node: string): PeerFailure {
    const { client, memo } = this.#deps;
    memo.partial.delete(key);
    memo.doubted.add(key);
    return client.distrust(node, new Error('a file is not what its checksum says'));
  }

  /** Info and sums, of the first that answers; of a small one also its files, which are in the room. */
  async #describe(
    job: BlockJob,
    {
      nodes,
      digest,
      room,
    }: { readonly nodes: readonly string[]; readonly digest: string; readonly room: AnswerRoom },
  ): Promise<DescribedFileset> {
    const { client, signal, inlineBytes } = this.#deps;
    for (const [place, node] of nodes.entries()) {
      const id = { namespace: this.#namespace.name, shard: job.shard, blockStartNs: job.startNs };
      const volume = job.offers.find((offer) => offer.node === node)?.block.fileset?.volume ?? 0;
      try {
        const request = { kind: 'fileset', ...id, volume, inlineBytes } as const;
        const bytes = await client.call(node, request, signal, room);
        try {
          const { info: content, sums, files } = decodeFileset(bytes);
          const info = decodeAt(node, 0, () => decodeInfo(node, content, { ...id, volume }));
          if (info.digest.toString('hex') !== digest) throw new Error('its digest is not what it said');
          return { node, info, sums, files };
        } catch (error) {
          throw client.distrust(node, error);
        }
      } catch (error) {
        if (!(error instanceof PeerFailure) || place === nodes.length - 1) throw error;
      }
    }
    throw new PeerFailure('nobody', 'there is no peer to ask');
  }

  async #copyFile(receiver: FilesetReceiver, file: CopiedKind, from: PieceSource): Promise<void> {
    const { rooms } = this.#deps;
    await rooms.use((one) =>
      rooms.use((other) => this.#copyPieces(receiver, { file, ...from }, [one, other])),
    );
  }

  /** One piece comes while the one before is written. */
  async #copyPieces(
    receiver: FilesetReceiver,
    { file, node, job }: { readonly file: CopiedKind } & PieceSource,
    rooms: readonly [AnswerRoom, AnswerRoom],
  ): Promise<void> {
    const { client, signal, onBytes } = this.#deps;
    const volume = job.offers.find((offer) => offer.node === node)?.block.fileset?.volume ?? 0;
    const { shard, startNs: blockStartNs } = job;
    const block = { namespace: this.#namespace.name, shard, blockStartNs, volume };
    const { sizeBytes } = receiver.what.sums[file];
    let [room, nextRoom] = rooms;
    const ask = (offset: number): Promise<Uint8Array> | undefined => {
      if (offset >= sizeBytes) return undefined;
      const lengthBytes = Math.min(COPY_BYTES, sizeBytes - offset);
      const request = { kind: 'file', file, ...block, offset, lengthBytes } as const;
      const asked = client.call(node, request, signal, room);
      [room, nextRoom] = [nextRoom, room];
      // It may fail before anybody looks.
      asked.catch(() => {});
      return asked;
    };
    let coming = ask(receiver.receivedBytes(file));
    try {
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
    } finally {
      // Until then it may be written to its room.
      await coming?.catch(() => {});
    }
  }

  async #merge(job: BlockJob): Promise<FetchedBlock> {
    const { turns, seal } = this.#deps;
    const { files, info, series } = await turns.run(() => this.#writeMerged(job));
    // Takes back what is not sealed.
    await using _ = files;
    if (info) {
      await seal(info);
      files.sealed();
      await this.#put(info);
    }
    return { kind: 'merged', series, from: turned(job) };
  }

  /** All of a fileset, written; without an info when there is nothing. */
  async #writeMerged(job: BlockJob): Promise<{
    readonly files: FilesetWriter;
    readonly info: FilesetInfo | undefined;
    readonly series: number;
  }> {
    const { view, folders } = this.#deps;
    const { fs, clock } = view;
    const { root } = folders;
    const id = await this.#idOf(job);
    const { blockSizeNs } = this.#namespace.options;
    const files = await FilesetWriter.create(
      { fs },
      { root, id, kind: 'flush', blockSizeNs, createdAtNs: clock.nowNs(), hasFolder: true },
    );
    try {
      const writer = new BlockWriter(files);
      for await (const { id: one, columns } of this.#series(job, turned(job))) {
        await writer.add(one, columns);
        for (const { version } of columns.overwrites) clock.observe(version);
      }
      const deletedUpTo = job.offers.reduce(
        (least, { version }) => (version < least ? version : least),
        this.#since,
      );
      const { series } = writer;
      const info = series === 0 ? undefined : await files.write(await writer.complete(deletedUpTo));
      return { files, info, series };
    } catch (error) {
      await files.abort();
      throw error;
    }
  }

  async #intoMemory(job: BlockJob): Promise<FetchedBlock> {
    const { view, turns } = this.#deps;
    const nodes = turned(job);
    let series = 0;
    await turns.run(async () => {
      for await (const { id, columns } of this.#series(job, nodes)) {
        const deletions = this.#deletions(job);
        const all = openColumns(view.codec(), columns);
        const opened = deletions.length === 0 ? all : bury(all, decodeLabels(id), deletions);
        this.#namespace.buffer.insert(id, opened);
        for (const { version } of opened.overwrites) view.clock.observe(version);
        series++;
      }
    });
    return { kind: 'memory', series, from: nodes };
  }

  /** That came while the block did, and may be missing in it. */
  #deletions({ startNs }: BlockJob): readonly Tombstone[] {
    const { tombstones, options } = this.#namespace;
    return tombstones.after(this.#since, startNs, startNs + options.blockSizeNs);
  }

  #series({ shard, startNs }: BlockJob, nodes: readonly string[]): ReturnType<typeof mergedSeries> {
    const { client, view, signal, onBytes } = this.#deps;
    const block = { namespace: this.#namespace.name, shard, blockStartNs: startNs };
    return mergedSeries({ client, codec: view.codec, signal, onBytes }, block, nodes);
  }

  async #idOf({ shard, startNs: blockStartNs }: BlockJob): Promise<FilesetId> {
    return await this.#deps.folders.nextOf({ namespace: this.#namespace.name, shard, blockStartNs });
  }

  async #put(info: FilesetInfo): Promise<void> {
    await this.#namespace.filesets.beginChange();
    this.#namespace.filesets.put(placeOf(info));
    this.#namespace.movedBlocks++;
    // Writes of it may have come before.
    this.#namespace.buffer.chillFlushed();
  }

  #keyOf({ shard, startNs }: BlockJob): string {
    return `${this.#namespace.id}/${shard}/${startNs}`;
  }

  /** Under the policy `all` everything is in memory from the bootstrap on. */
  async #loadIntoCache({ shard, startNs }: BlockJob): Promise<void> {
    const { cache, filesets, options } = this.#namespace;
    const reader = filesets.reader(startNs, shard);
    if (options.cachePolicy !== 'all' || !reader || !cache.hasRoom(reader.info.payloadBytes)) return;
    for await (const { id, payload } of reader.series()) cache.put(reader.info, id, payload, this.#atNs);
    await reader.close();
  }
}

/** Whom a piece of a file is asked of, and of which block. */
interface PieceSource {
  readonly node: string;
  readonly job: BlockJob;
}

const MAX_VERSION = (1n << 63n) - 1n;

/** Whether a file of one of them is all that any of them has. */
export function agree(offers: readonly BlockOffer[]): boolean {
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
