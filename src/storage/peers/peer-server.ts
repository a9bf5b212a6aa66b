import { VarveError } from '../../core/errors.ts';
import { hasCode } from '../../core/file-system.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { storedBlock } from '../engine/stored-block.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import { filesetPath, type FilesetId } from '../fileset/fileset-id.ts';
import { BlockContent } from './block-content.ts';
import { describeFiles } from './describe-fileset.ts';
import {
  encodeFile,
  encodeFileset,
  encodeShards,
  SeriesPageWriter,
  type AnswerParts,
  type PeerBlock,
  type PeerShard,
  type PeerShardState,
} from './peer-messages.ts';
import type { PeerBlockId, PeerFileset, PeerRequest } from './peer-transport.ts';

/** The most that is answered at once, whatever is asked for. */
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;

/** Gives other nodes what this one has of shards that are whole here. Keeps nothing between requests. */
export class PeerServer {
  readonly #view: PeerView;

  constructor(view: PeerView) {
    this.#view = view;
  }

  /** As `answerInParts`, in one piece. */
  async answer(request: PeerRequest): Promise<Buffer> {
    return Buffer.concat(await this.answerInParts(request));
  }

  /**
   * @throws SHARD_NOT_OWNED, SHARD_NOT_READY, NAMESPACE_UNKNOWN, FILESET_DAMAGED when it finds damage, and NOT_FOUND for
   *   a volume that was replaced meanwhile
   */
  async answerInParts(request: PeerRequest): Promise<AnswerParts> {
    try {
      return await this.#answer(request);
    } catch (error) {
      if (!(error instanceof FileDamageError)) throw error;
      this.#view.onDamage(request.namespace, error);
      // Damage here must not count as damage there.
      throw new VarveError('FILESET_DAMAGED', `it has found damage: ${error.message}`, { cause: error });
    }
  }

  async #answer(request: PeerRequest): Promise<AnswerParts> {
    const namespace = this.#namespace(request.namespace);
    switch (request.kind) {
      case 'shards': {
        // Before anything is looked at: what is deleted later may be in it.
        const version = this.#view.clock.last;
        return encodeShards({
          shards: request.shards.map((shard) => this.#shard(namespace, shard, request)),
          version,
        });
      }
      case 'fileset':
        return await this.#fileset(namespace, request);
      case 'file':
        return await this.#file(namespace, request);
      case 'series':
        return [await this.#series(namespace, request)];
      case 'columns':
        return [await this.#columns(namespace, request)];
    }
  }

  #shard(
    namespace: Namespace,
    shard: number,
    { startNs, endNs, placement = 0 }: Extract<PeerRequest, { readonly kind: 'shards' }>,
  ): PeerShard {
    const isBehind = this.#view.topology().version < placement;
    const state = isBehind ? 'behind' : this.#stateOf(namespace, shard);
    if (state !== 'whole') return { shard, state, blocks: [] };
    const { filesets, buffer } = namespace;
    const open = buffer.blocks().map((block) => block.startNs);
    const starts = [...new Set([...filesets.blockStarts(), ...open])].sort((a, b) => (a < b ? -1 : 1));
    const blocks = starts.flatMap((start): PeerBlock[] => {
      if (start < startNs || start >= endNs) return [];
      const { info, memorySeries, hasDeletions } = storedBlock(namespace, shard, start);
      if (!info && memorySeries === 0) return [];
      const fileset = info && {
        volume: info.volume,
        digest: info.digest.toString('hex'),
        sizeBytes: info.payloadBytes + info.indexBytes,
      };
      return [{ startNs: start, fileset, memorySeries, hasDeletions }];
    });
    return { shard, state, blocks };
  }

  #stateOf(namespace: Namespace, shard: number): PeerShardState {
    if (!namespace.ownership.owns(shard)) return 'notOwned';
    if (this.#view.isOpen() && namespace.isWhole(shard)) return 'whole';
    return this.#view.isWaiting(namespace.name, shard) ? 'waiting' : 'bootstrapping';
  }

  async #fileset(
    namespace: Namespace,
    request: Extract<PeerRequest, { readonly kind: 'fileset' }>,
  ): Promise<AnswerParts> {
    const id = this.#stored(namespace, request);
    const { filesets } = namespace;
    const { payloadBytes = 0, indexBytes = 0 } = filesets.info(id.blockStartNs, id.shard) ?? {};
    const isSmall = payloadBytes + indexBytes <= Math.min(request.inlineBytes, MAX_ANSWER_BYTES);
    return encodeFileset(
      await this.#whileThere(id, () => describeFiles(this.#view.fs, filesets.root, id, isSmall)),
    );
  }

  async #file(
    namespace: Namespace,
    request: Extract<PeerRequest, { readonly kind: 'file' }>,
  ): Promise<AnswerParts> {
    const id = this.#stored(namespace, request);
    const { fs } = this.#view;
    const bytes = await this.#whileThere(id, async () => {
      await using file = await fs.open(filesetPath(namespace.filesets.root, id, request.file), 'read');
      return await file.read(request.offset, Math.min(request.lengthBytes, MAX_ANSWER_BYTES));
    });
    return encodeFile(bytes);
  }

  async #series(
    namespace: Namespace,
    request: Extract<PeerRequest, { readonly kind: 'series' }>,
  ): Promise<Buffer> {
    const maxBytes = Math.min(request.maxBytes, MAX_ANSWER_BYTES);
    return await this.#settled(namespace, request, async (content) => {
      const page = new SeriesPageWriter();
      for await (const { id, columns } of content.series(request.after)) {
        page.add(id, columns, request.hasColumns);
        if (page.sizeBytes >= maxBytes) return page.finish(false);
      }
      return page.finish(true);
    });
  }

  async #columns(
    namespace: Namespace,
    request: Extract<PeerRequest, { readonly kind: 'columns' }>,
  ): Promise<Buffer> {
    return await this.#settled(namespace, request, async (content) => {
      const page = new SeriesPageWriter();
      for (const id of request.ids) {
        page.add(id, await content.find(id), true);
        if (page.sizeBytes >= MAX_ANSWER_BYTES) return page.finish(false);
      }
      return page.finish(true);
    });
  }

  /** A block may move from memory to files meanwhile: then what was read is not all, and it is read again. */
  async #settled(
    namespace: Namespace,
    { shard, blockStartNs }: PeerBlockId,
    read: (content: BlockContent) => Promise<Buffer>,
  ): Promise<Buffer> {
    for (;;) {
      this.#whole(namespace, shard);
      const { movedBlocks } = namespace;
      using content = new BlockContent(this.#view.codec(), namespace, { shard, blockStartNs });
      const page = await read(content);
      if (namespace.movedBlocks === movedBlocks) return page;
    }
  }

  #stored(namespace: Namespace, { shard, blockStartNs, volume }: PeerFileset): FilesetId {
    this.#whole(namespace, shard);
    if (namespace.filesets.volume(blockStartNs, shard) !== volume) throw replaced(volume);
    return { namespace: namespace.name, shard, blockStartNs, volume };
  }

  async #whileThere<T>(id: FilesetId, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (hasCode(error, 'ENOENT')) throw replaced(id.volume);
      throw error;
    }
  }

  #whole(namespace: Namespace, shard: number): void {
    const state = this.#stateOf(namespace, shard);
    if (state === 'whole') return;
    if (state === 'notOwned') {
      throw new VarveError('SHARD_NOT_OWNED', `shard ${shard} is not this node's`);
    }
    throw new VarveError('SHARD_NOT_READY', `shard ${shard} of namespace ${namespace.name} is ${state} here`);
  }

  #namespace(name: string): Namespace {
    const namespace = this.#view.namespace(name);
    if (namespace) return namespace;
    throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace ${JSON.stringify(name)} here`);
  }
}

function replaced(volume: number): VarveError {
  return new VarveError('NOT_FOUND', `volume ${volume} is not there any more`, {
    hint: 'Ask again which one counts.',
  });
}
