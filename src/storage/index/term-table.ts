import { ByteArena } from './byte-arena.ts';
import { numbersIn, PagedNumbers } from './paged-numbers.ts';
import type { SegmentField, SegmentFields } from './segment-fields.ts';

/**
 * Gives texts dense numbers, in the order in which they come. A text belongs to a scope (a number), and the same
 * text in another scope is another entry: label names are in one table, label values in another, scoped by name.
 *
 * Texts lie in an arena behind their length (two bytes); an open-addressing table of numbers finds them by hash.
 * Nothing here is a JavaScript object per entry.
 */
export class TermTable {
  #arena = new ByteArena();
  #addresses = new PagedNumbers();
  #scopes = new PagedNumbers();
  #hashes = new PagedNumbers();
  /** Entry number + 1, or 0 for free. Its length is a power of two. */
  #slots: Uint32Array = new Uint32Array(16);

  get count(): number {
    return this.#addresses.count;
  }

  get sizeBytes(): number {
    return (
      this.#arena.sizeBytes +
      this.#addresses.sizeBytes +
      this.#scopes.sizeBytes +
      this.#hashes.sizeBytes +
      this.#slots.byteLength
    );
  }

  scope(entry: number): number {
    return this.#scopes.at(entry);
  }

  /** A view: it stays as it is, and is not to be changed. */
  bytes(entry: number): Uint8Array {
    const address = this.#addresses.at(entry);
    const page = this.#arena.page(address);
    const at = ByteArena.inPage(address);
    const length = (page[at] as number) | ((page[at + 1] as number) << 8);
    // Several times as fast as `subarray` of a Buffer.
    return new Uint8Array(page.buffer, page.byteOffset + at + 2, length);
  }

  text(entry: number): string {
    const address = this.#addresses.at(entry);
    const page = this.#arena.page(address);
    const at = ByteArena.inPage(address);
    const length = (page[at] as number) | ((page[at + 1] as number) << 8);
    return page.toString('utf8', at + 2, at + 2 + length);
  }

  /** Whether the text of the entry starts with these bytes. */
  startsWith(entry: number, prefix: Uint8Array): boolean {
    const address = this.#addresses.at(entry);
    const page = this.#arena.page(address);
    const at = ByteArena.inPage(address);
    const length = (page[at] as number) | ((page[at + 1] as number) << 8);
    if (length < prefix.length) return false;
    for (let i = 0; i < prefix.length; i++) if (page[at + 2 + i] !== prefix[i]) return false;
    return true;
  }

  /** The number of `bytes[start, stop)` in the scope, or -1. */
  find(scope: number, bytes: Uint8Array, start: number, stop: number): number {
    const hash = hashOf(scope, bytes, start, stop);
    const mask = this.#slots.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const entry = (this.#slots[slot] as number) - 1;
      if (entry < 0) return -1;
      if (
        this.#hashes.at(entry) === hash &&
        this.#scopes.at(entry) === scope &&
        this.is(entry, bytes, start, stop)
      ) {
        return entry;
      }
    }
  }

  /** The number of `bytes[start, stop)` in the scope, a new one when it is new. At most 32,768 bytes. */
  intern(scope: number, bytes: Uint8Array, start: number, stop: number): number {
    const found = this.find(scope, bytes, start, stop);
    if (found >= 0) return found;
    const entry = this.#addresses.count;
    if ((entry + 1) * 3 > this.#slots.length * 2) this.#rehash();
    const length = stop - start;
    const address = this.#arena.allocate(length + 2);
    const page = this.#arena.page(address);
    const at = ByteArena.inPage(address);
    page[at] = length & 0xff;
    page[at + 1] = length >>> 8;
    for (let i = 0; i < length; i++) page[at + 2 + i] = bytes[start + i] as number;
    const hash = hashOf(scope, bytes, start, stop);
    this.#addresses.push(address);
    this.#scopes.push(scope);
    this.#hashes.push(hash);
    this.#place(entry, hash);
    return entry;
  }

  /** Whether the entry has exactly these bytes; its scope is not looked at. */
  is(entry: number, bytes: Uint8Array, start: number, stop: number): boolean {
    const address = this.#addresses.at(entry);
    const page = this.#arena.page(address);
    const at = ByteArena.inPage(address);
    const length = stop - start;
    if (((page[at] as number) | ((page[at + 1] as number) << 8)) !== length) return false;
    // From the end: values of one label mostly differ there.
    for (let i = length - 1, own = at + 2; i >= 0; i--) {
      if (page[own + i] !== bytes[start + i]) return false;
    }
    return true;
  }

  /** What `from` makes the same table of: views, good until something is added. */
  fields(): SegmentField[] {
    const lists = [this.#arena, this.#addresses, this.#scopes, this.#hashes];
    return [
      ...lists.map((list) => list.parts()),
      [new Uint8Array(this.#slots.buffer, this.#slots.byteOffset, this.#slots.byteLength)],
    ];
  }

  static from(fields: SegmentFields): TermTable {
    const table = new TermTable();
    table.#arena = ByteArena.from(fields.next());
    table.#addresses = PagedNumbers.from(fields.next());
    table.#scopes = PagedNumbers.from(fields.next());
    table.#hashes = PagedNumbers.from(fields.next());
    table.#slots = numbersIn(fields.next());
    return table;
  }

  #place(entry: number, hash: number): void {
    const mask = this.#slots.length - 1;
    let slot = hash & mask;
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask;
    this.#slots[slot] = entry + 1;
  }

  #rehash(): void {
    this.#slots = new Uint32Array(this.#slots.length * 2);
    for (let entry = 0; entry < this.#hashes.count; entry++) this.#place(entry, this.#hashes.at(entry));
  }
}

/** MurmurHash3's mixing over four bytes at a time. */
function hashOf(scope: number, bytes: Uint8Array, start: number, stop: number): number {
  let hash = Math.imul(scope + 1, 0x9e3779b1);
  let at = start;
  for (; at + 4 <= stop; at += 4) {
    const word =
      (bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24);
    hash = mix(hash, word);
  }
  let tail = (stop - start) << 24;
  for (let shift = 0; at < stop; at++, shift += 8) tail ^= (bytes[at] as number) << shift;
  hash = mix(hash, tail);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function mix(hash: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
  const next = hash ^ k;
  return (Math.imul((next << 13) | (next >>> 19), 5) + 0xe6546b64) | 0;
}
