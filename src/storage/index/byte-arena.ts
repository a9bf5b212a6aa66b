const PAGE_BITS = 16;
const PAGE_BYTES = 1 << PAGE_BITS;
const PAGE_MASK = PAGE_BYTES - 1;
const FIRST_PAGE_BYTES = 1_024;

/**
 * Memory for pieces of bytes that are never freed one by one. An address is a number below 2^32; a piece never
 * crosses a page. New memory is zero.
 */
export class ByteArena {
  readonly #pages: Buffer[] = [];
  /** Address of the next free byte. */
  #next = 0;

  get sizeBytes(): number {
    return this.#pages.reduce((sum, page) => sum + page.length, 0);
  }

  /** The page of an address; `inPage` is where in it. */
  page(address: number): Buffer {
    return this.#pages[address >>> PAGE_BITS] as Buffer;
  }

  static inPage(address: number): number {
    return address & PAGE_MASK;
  }

  /** `sizeBytes` is at most 65,536. The pages that `page` has returned may be replaced by it. */
  allocate(sizeBytes: number): number {
    const inPage = this.#next & PAGE_MASK;
    if (inPage + sizeBytes > PAGE_BYTES) this.#next += PAGE_BYTES - inPage;
    const address = this.#next;
    if (address + sizeBytes > 2 ** 32) throw new RangeError('an index segment is larger than 4 GiB');
    const which = Math.floor(address / PAGE_BYTES);
    const end = (address & PAGE_MASK) + sizeBytes;
    if (end > (this.#pages[which]?.length ?? 0)) this.#grow(which, end);
    this.#next = address + sizeBytes;
    return address;
  }

  /** What `from` makes the same memory of: views, good until something is changed. */
  parts(): Uint8Array[] {
    return this.#pages.flatMap((page, which) => {
      const usedBytes = Math.min(PAGE_BYTES, this.#next - which * PAGE_BYTES);
      // The first page stays small when what comes next does not fit into it however large it is.
      return usedBytes <= page.length
        ? [page.subarray(0, usedBytes)]
        : [page, new Uint8Array(usedBytes - page.length)];
    });
  }

  /** The bytes are the memory's from now on. */
  static from(bytes: Uint8Array): ByteArena {
    const arena = new ByteArena();
    for (let start = 0; start < bytes.length; start += PAGE_BYTES) {
      const some = Buffer.from(
        bytes.buffer,
        bytes.byteOffset + start,
        Math.min(PAGE_BYTES, bytes.length - start),
      );
      if (some.length === PAGE_BYTES) arena.#pages.push(some);
      else {
        arena.#grow(arena.#pages.length, some.length);
        arena.#pages.at(-1)?.set(some);
      }
    }
    arena.#next = bytes.length;
    return arena;
  }

  /** The first page starts small and grows; the others are whole from the start. */
  #grow(which: number, neededBytes: number): void {
    const old = this.#pages[which];
    let sizeBytes = which > 0 ? PAGE_BYTES : Math.max(FIRST_PAGE_BYTES, old?.length ?? 0);
    while (sizeBytes < neededBytes) sizeBytes *= 4;
    const page = Buffer.alloc(sizeBytes);
    if (old !== undefined) page.set(old);
    this.#pages[which] = page;
  }
}
