import type { FilesetInfo } from '../fileset/info-file.ts';
import type { CachePolicy } from './storage-engine.ts';

export interface PayloadCacheOptions {
  readonly policy: CachePolicy;
  readonly budgetBytes: number;
  /** For `recentlyRead`: what nobody asked for so long is forgotten. */
  readonly keepNs: bigint;
}

interface Entry {
  /** The very fileset: one that was dropped and came back may have its volume, and other payloads. */
  readonly info: FilesetInfo;
  readonly payload: Buffer;
  usedAtNs: bigint;
}

/** Of an entry beside its payload and id. */
const OVERHEAD_BYTES = 160;

/**
 * Series of filesets as they are in the files, in memory by the namespace's policy. They are compressed there, so the
 * budget holds ten times of what it would decoded; decoding costs a nanosecond a sample. What the budget does not hold
 * is read from the files: it limits memory, never what is found.
 */
export class PayloadCache {
  #options: PayloadCacheOptions;
  /** In the order of their last use, the oldest first. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;
  hits = 0;
  misses = 0;

  constructor(options: PayloadCacheOptions) {
    this.#options = options;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get policy(): CachePolicy {
    return this.#options.policy;
  }

  get enabled(): boolean {
    return this.#options.policy !== 'none';
  }

  /** For `all`: whether there is room for so much, so that a bootstrap stops loading in time. */
  hasRoom(bytes: number): boolean {
    return this.#bytes + bytes <= this.#options.budgetBytes;
  }

  configure(options: PayloadCacheOptions): void {
    this.#options = options;
    if (options.policy === 'none') this.clear();
    this.#shrink();
  }

  get(info: FilesetInfo, id: Uint8Array, nowNs: bigint): Buffer | undefined {
    if (!this.enabled) return undefined;
    const key = keyOf(info, id);
    const entry = this.#entries.get(key);
    if (entry?.info !== info) {
      this.misses++;
      return undefined;
    }
    this.hits++;
    entry.usedAtNs = nowNs;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.payload;
  }

  /**
   * Copies the payload: it may be a view of a larger read.
   * @param info that of the reader, as `get` will be asked with
   */
  put(info: FilesetInfo, id: Uint8Array, payload: Buffer, nowNs: bigint): void {
    if (!this.enabled) return;
    const key = keyOf(info, id);
    const size = payload.length + key.length + OVERHEAD_BYTES;
    const known = this.#entries.get(key);
    if (size > this.#options.budgetBytes || known?.info === info) return;
    if (known) this.#delete(key, known);
    // With `all` nothing makes room: what is there is as good as what comes.
    if (this.#options.policy === 'all' && !this.hasRoom(size)) return;
    this.#entries.set(key, { info, payload: Buffer.from(payload), usedAtNs: nowNs });
    this.#bytes += size;
    this.#shrink();
  }

  /** Forgets what was not asked for lately, and what belongs to filesets that do not count any more. */
  expire(nowNs: bigint, isStored: (filesetKey: string) => boolean): void {
    const { policy, keepNs } = this.#options;
    for (const [key, entry] of this.#entries) {
      const stale = policy === 'recentlyRead' && nowNs - entry.usedAtNs > keepNs;
      if (stale || !isStored(key.slice(0, key.indexOf(' ')))) this.#delete(key, entry);
    }
  }

  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
  }

  #shrink(): void {
    for (const [key, entry] of this.#entries) {
      if (this.#bytes <= this.#options.budgetBytes) return;
      this.#delete(key, entry);
    }
  }

  #delete(key: string, { payload }: Entry): void {
    this.#entries.delete(key);
    this.#bytes -= payload.length + key.length + OVERHEAD_BYTES;
  }
}

export function filesetKey({
  blockStartNs,
  shard,
  volume,
}: Pick<FilesetInfo, 'blockStartNs' | 'shard' | 'volume'>): string {
  return `${blockStartNs}/${shard}/${volume}`;
}

function keyOf(info: FilesetInfo, id: Uint8Array): string {
  return `${filesetKey(info)} ${Buffer.from(id.buffer, id.byteOffset, id.length).toString('latin1')}`;
}
