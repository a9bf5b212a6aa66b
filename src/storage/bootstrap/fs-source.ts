import type { FileSystem } from '../../core/file-system.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { Namespace } from '../engine/namespace.ts';
import { placeOf, type StoredPlace } from '../engine/fileset-summary.ts';
import { rebuildIndex, uncovered } from '../engine/rebuild-index.ts';
import { FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import type { Quarantined } from '../fileset/fileset-folder.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { recoverFilesets } from '../fileset/recover-filesets.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapRequest,
  type BootstrapResult,
  type BootstrapSource,
  type Unfulfilled,
} from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { TimeRanges } from './time-ranges.ts';

export interface FsSourceDeps {
  readonly fs: FileSystem;
  readonly lookup: (name: string) => Namespace | undefined;
  /** Told of every fileset that was found damaged and put aside. */
  readonly onDamage: (damage: FileDamage) => void;
  /** Told of versions that filesets have: what is written or deleted from now on has to be later. */
  readonly onVersion: (version: bigint) => void;
}

const NOTHING: Unfulfilled = { ranges: ShardTimeRanges.EMPTY, reasons: [] };

/**
 * What this node's own filesets have. Reads one small file of each, not the data, unless the cache policy wants all
 * of it in memory. A block without a file of the shard is not available here, even if there was nothing to write.
 */
export class FsSource implements BootstrapSource {
  readonly name = 'fs';
  readonly #deps: FsSourceDeps;
  /** Each namespace's files are looked at once: what changes afterwards, the engine does itself. */
  readonly #scanned = new Map<string, Promise<readonly Quarantined[]>>();
  readonly #loaded = new Set<string>();
  readonly #ranges = new Map<string, { readonly count: number; readonly ranges: ShardTimeRanges }>();

  constructor(deps: FsSourceDeps) {
    this.#deps = deps;
  }

  /** A namespace of that name was deleted: what comes under it is another one. */
  forget(name: string): void {
    this.#scanned.delete(name);
    this.#loaded.delete(name);
    this.#ranges.delete(name);
  }

  async availableData(namespace: BootstrapNamespace, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    const found = this.#deps.lookup(namespace.options.name);
    if (!found || !found.options.bootstrapEnabled) return ShardTimeRanges.EMPTY;
    await this.#scan(found);
    return this.#rangesIn(found).intersect(ranges);
  }

  async availableIndex(
    namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    _context: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    return await this.availableData(namespace, ranges);
  }

  why(): string {
    return 'there is no fileset of the block here';
  }

  async read(
    requests: ReadonlyMap<string, BootstrapRequest>,
    context: BootstrapContext,
  ): Promise<ReadonlyMap<string, BootstrapResult>> {
    const results = new Map<string, BootstrapResult>();
    for (const [name, request] of requests) {
      const namespace = this.#deps.lookup(name);
      if (!namespace) continue;
      const damaged = await this.#scan(namespace);
      results.set(name, await this.#read(namespace, request, { context, damaged }));
    }
    return results;
  }

  async #read(
    namespace: Namespace,
    request: BootstrapRequest,
    { context, damaged }: { readonly context: BootstrapContext; readonly damaged: readonly Quarantined[] },
  ): Promise<BootstrapResult> {
    const { name, filesets, options } = namespace;
    const lost: FilesetInfo[] = [];
    if (options.cachePolicy === 'all' && !this.#loaded.has(name) && context.pass === 'persist') {
      lost.push(...(await this.#load(namespace, context)));
      this.#loaded.add(name);
    }
    const gone = rangesOf(lost).intersect(request.data);
    const index = request.index.isEmpty ? NOTHING : await this.#readIndex(namespace, request);
    const putAside = damaged.length === 0 ? '' : `, ${damaged.length} damaged ones put aside`;
    return {
      data: gone.isEmpty ? NOTHING : unfulfilled(name, gone, 'corruptFile', 'data of the fileset is damaged'),
      index,
      detail: `${filesets.count} filesets${putAside}`,
    };
  }

  async #readIndex(namespace: Namespace, request: BootstrapRequest): Promise<Unfulfilled> {
    const { name, filesets } = namespace;
    try {
      await rebuildIndex(namespace, uncovered(namespace));
      return NOTHING;
    } catch (error) {
      if (!(error instanceof VarveError)) throw error;
      const missing = rangesOf(uncovered(namespace).map(({ info }) => info)).intersect(request.index);
      const detail = `the index of ${filesets.count} filesets cannot be made: ${messageOf(error)}`;
      return unfulfilled(name, missing, 'corruptFile', detail);
    }
  }

  /** Everything into memory, the newest blocks first, as far as its budget goes. Returns what is damaged. */
  async #load(namespace: Namespace, context: BootstrapContext): Promise<FilesetInfo[]> {
    const { atNs, signal } = context;
    const { filesets, cache } = namespace;
    const damaged: FilesetInfo[] = [];
    const readers = filesets
      .blockStarts()
      .reverse()
      .flatMap((start) => filesets.ofBlock(start));
    for (const [done, reader] of readers.entries()) {
      signal.throwIfAborted();
      if (!cache.hasRoom(reader.info.payloadBytes)) break;
      context.report({ done, total: readers.length, unit: 'filesets', detail: `loading ${namespace.name}` });
      try {
        for await (const { id, payload } of reader.series()) cache.put(reader.info, id, payload, atNs);
      } catch (error) {
        if (!(error instanceof FileDamageError)) throw error;
        this.#deps.onDamage(error.damage);
        damaged.push(reader.info);
      }
      await reader.close();
    }
    for (const info of damaged) filesets.quarantine(info);
    return damaged;
  }

  /** Asked for several times an attempt, and the same while no fileset comes or goes. */
  #rangesIn({ name, filesets }: Namespace): ShardTimeRanges {
    const known = this.#ranges.get(name);
    if (known?.count === filesets.count) return known.ranges;
    const ranges = rangesOf(filesets.places());
    this.#ranges.set(name, { count: filesets.count, ranges });
    return ranges;
  }

  #scan(namespace: Namespace): Promise<readonly Quarantined[]> {
    const known = this.#scanned.get(namespace.name);
    if (known) return known;
    const scan = this.#scanNow(namespace);
    this.#scanned.set(namespace.name, scan);
    scan.catch(() => this.#scanned.delete(namespace.name));
    return scan;
  }

  async #scanNow(namespace: Namespace): Promise<readonly Quarantined[]> {
    const { name, filesets, shardCount } = namespace;
    const shards = Array.from({ length: shardCount }, (_, shard) => ({ namespace: name, shard }));
    const known = await filesets.loadSummary();
    if (known) {
      for (const place of known) this.#put(namespace, place);
      await this.#loadIndex(namespace);
      return [];
    }
    const recovered = await recoverFilesets({ fs: this.#deps.fs }, filesets.root, { shards, repair: true });
    for (const info of recovered.filesets) this.#put(namespace, placeOf(info));
    for (const { damage } of recovered.damaged) this.#deps.onDamage(damage);
    filesets.quarantined += recovered.damaged.length;
    namespace.superseded = recovered.superseded;
    await this.#loadIndex(namespace);
    return recovered.damaged;
  }

  #put({ filesets }: Namespace, place: StoredPlace): void {
    filesets.put(place);
    this.#deps.onVersion(place.newestVersion);
  }

  async #loadIndex({ index }: Namespace): Promise<void> {
    await index.load({ repair: true });
    for (const damage of index.damages) this.#deps.onDamage(damage);
  }
}

type Placed = Pick<FilesetInfo, 'blockStartNs' | 'blockSizeNs' | 'shard'>;

/** Shards that have the same blocks, as mostly all do, share one set of ranges. */
function rangesOf(infos: Iterable<Placed>): ShardTimeRanges {
  const byShard = new Map<number, Placed[]>();
  for (const info of infos) {
    const list = byShard.get(info.shard) ?? [];
    byShard.set(info.shard, list);
    list.push(info);
  }
  const known = new Map<string, TimeRanges>();
  return ShardTimeRanges.of(
    [...byShard].map(([shard, list]) => {
      const key = list.map(({ blockStartNs }) => blockStartNs).join();
      const blocks = list.map(({ blockStartNs, blockSizeNs }) => ({
        startNs: blockStartNs,
        endNs: blockStartNs + blockSizeNs,
      }));
      const ranges = known.get(key) ?? TimeRanges.of(...blocks);
      known.set(key, ranges);
      return [shard, ranges] as const;
    }),
  );
}
