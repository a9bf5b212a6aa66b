import { ByteArena } from './byte-arena.ts';
import { PagedNumbers } from './paged-numbers.ts';
import type { SegmentField, SegmentFields } from './segment-fields.ts';

const FIRST_SLICE_BYTES = 16;
const LAST_LEVEL = 8; // 4 KiB
const LINK_BYTES = 4;

/**
 * Lists of ascending numbers that are all appended to at the same time: the postings of a segment in memory.
 *
 * A list is a chain of slices of growing size in one arena. A slice holds the differences to the number before
 * as uvarints, and ends with the address of the next slice. A zero byte, which no difference starts with, or the
 * link means: go on in the next slice. A list with a single number has no slice; unique label values are common.
 */
export class PostingChains {
  #arena = new ByteArena();
  #counts = new PagedNumbers();
  /** The only number, or the index of the chain. */
  #heads = new PagedNumbers();
  // Of chains: address of the first slice, last number, where to write, and room left | level << 16.
  #starts = new PagedNumbers();
  #lasts = new PagedNumbers();
  #tails = new PagedNumbers();
  #rooms = new PagedNumbers();

  get sizeBytes(): number {
    return this.#lists.reduce((sum, list) => sum + list.sizeBytes, 0);
  }

  get #lists(): readonly (ByteArena | PagedNumbers)[] {
    return [this.#arena, this.#counts, this.#heads, this.#starts, this.#lasts, this.#tails, this.#rooms];
  }

  /** What `from` makes the same lists of: views, good until something is added. */
  fields(): SegmentField[] {
    return this.#lists.map((list) => list.parts());
  }

  static from(fields: SegmentFields): PostingChains {
    const chains = new PostingChains();
    chains.#arena = ByteArena.from(fields.next());
    chains.#counts = PagedNumbers.from(fields.next());
    chains.#heads = PagedNumbers.from(fields.next());
    chains.#starts = PagedNumbers.from(fields.next());
    chains.#lasts = PagedNumbers.from(fields.next());
    chains.#tails = PagedNumbers.from(fields.next());
    chains.#rooms = PagedNumbers.from(fields.next());
    return chains;
  }

  count(list: number): number {
    return this.#counts.at(list);
  }

  /** Starts the next list, with its first number. */
  create(first: number): void {
    this.#counts.push(1);
    this.#heads.push(first);
  }

  /** `value` is greater than all that are in the list. */
  append(list: number, value: number): void {
    const count = this.#counts.at(list);
    if (count === 1) {
      const first = this.#heads.at(list);
      const chain = this.#starts.count;
      const address = this.#arena.allocate(FIRST_SLICE_BYTES);
      this.#starts.push(address);
      this.#tails.push(address);
      this.#rooms.push(FIRST_SLICE_BYTES - LINK_BYTES);
      this.#lasts.push(value);
      this.#heads.set(list, chain);
      this.#write(chain, first + 1);
      this.#write(chain, value - first);
    } else {
      const chain = this.#heads.at(list);
      this.#write(chain, value - this.#lasts.at(chain));
      this.#lasts.set(chain, value);
    }
    this.#counts.set(list, count + 1);
  }

  /** Writes the list to `out` from `at` on, and returns where it ended. */
  read(list: number, out: Uint32Array, at: number): number {
    const count = this.#counts.at(list);
    if (count === 1) {
      out[at] = this.#heads.at(list);
      return at + 1;
    }
    let address = this.#starts.at(this.#heads.at(list));
    let value = -1;
    let next = at;
    for (let level = 0; ; level++) {
      const page = this.#arena.page(address);
      let from = ByteArena.inPage(address);
      const stop = from + sliceBytes(level) - LINK_BYTES;
      while (from < stop) {
        let byte = page[from++] as number;
        if (byte === 0) break;
        let difference = byte & 0x7f;
        for (let shift = 7; byte >= 0x80; shift += 7) {
          byte = page[from++] as number;
          difference |= (byte & 0x7f) << shift;
        }
        value += difference >>> 0;
        out[next++] = value;
        if (next === at + count) return next;
      }
      address = readLink(page, stop);
    }
  }

  #write(chain: number, difference: number): void {
    const length =
      difference < 0x80
        ? 1
        : difference < 0x4000
          ? 2
          : difference < 0x20_0000
            ? 3
            : difference < 0x1000_0000
              ? 4
              : 5;
    let room = this.#rooms.at(chain);
    if ((room & 0xffff) < length) room = this.#extend(chain, room);
    const tail = this.#tails.at(chain);
    const page = this.#arena.page(tail);
    let at = ByteArena.inPage(tail);
    let rest = difference;
    for (; rest >= 0x80; rest >>>= 7) page[at++] = (rest & 0x7f) | 0x80;
    page[at] = rest;
    this.#tails.set(chain, tail + length);
    this.#rooms.set(chain, room - length);
  }

  #extend(chain: number, room: number): number {
    const level = Math.min((room >>> 16) + 1, LAST_LEVEL);
    const sizeBytes = sliceBytes(level);
    const link = this.#tails.at(chain) + (room & 0xffff);
    const address = this.#arena.allocate(sizeBytes);
    const page = this.#arena.page(link);
    const at = ByteArena.inPage(link);
    for (let i = 0; i < LINK_BYTES; i++) page[at + i] = address >>> (8 * i);
    this.#tails.set(chain, address);
    return (level << 16) | (sizeBytes - LINK_BYTES);
  }
}

function sliceBytes(level: number): number {
  return FIRST_SLICE_BYTES << Math.min(level, LAST_LEVEL);
}

function readLink(page: Uint8Array, at: number): number {
  return (
    ((page[at] as number) |
      ((page[at + 1] as number) << 8) |
      ((page[at + 2] as number) << 16) |
      ((page[at + 3] as number) << 24)) >>>
    0
  );
}
