const PAGE_BITS = 14;
const PAGE_COUNT = 1 << PAGE_BITS;
const PAGE_MASK = PAGE_COUNT - 1;
const FIRST_PAGE_COUNT = 64;

/**
 * A list of unsigned 32-bit numbers that only grows. It grows page by page, so that half a million entries are
 * never copied and never need twice their memory; the first page starts small, because there are many lists.
 */
export class PagedNumbers {
  readonly #pages: Uint32Array[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get sizeBytes(): number {
    return this.#pages.reduce((sum, page) => sum + page.byteLength, 0);
  }

  /** Of an entry that exists. */
  at(index: number): number {
    return (this.#pages[index >>> PAGE_BITS] as Uint32Array)[index & PAGE_MASK] as number;
  }

  set(index: number, value: number): void {
    (this.#pages[index >>> PAGE_BITS] as Uint32Array)[index & PAGE_MASK] = value;
  }

  push(value: number): void {
    const index = this.#count++;
    const inPage = index & PAGE_MASK;
    let page = this.#pages[index >>> PAGE_BITS];
    if (page === undefined || inPage === page.length) page = this.#grow(index >>> PAGE_BITS, page);
    page[inPage] = value;
  }

  /** What `from` makes the same list of: views, good until something is changed. */
  parts(): Uint8Array[] {
    return this.#pages.map((page, which) => {
      const used = Math.min(page.length, this.#count - which * PAGE_COUNT);
      return new Uint8Array(page.buffer, page.byteOffset, used * 4);
    });
  }

  /** The bytes are the list's from now on. */
  static from(bytes: Uint8Array): PagedNumbers {
    const list = new PagedNumbers();
    const numbers = numbersIn(bytes);
    for (let start = 0; start < numbers.length; start += PAGE_COUNT) {
      const some = numbers.subarray(start, start + PAGE_COUNT);
      if (some.length < PAGE_COUNT) for (const value of some) list.push(value);
      else {
        list.#pages.push(some);
        list.#count += PAGE_COUNT;
      }
    }
    return list;
  }

  #grow(which: number, small: Uint32Array | undefined): Uint32Array {
    const page = new Uint32Array(
      which > 0 ? PAGE_COUNT : small === undefined ? FIRST_PAGE_COUNT : small.length * 4,
    );
    if (small !== undefined) page.set(small);
    this.#pages[which] = page;
    return page;
  }
}

/** Bytes as numbers of 32 bits, without copying them where they lie as numbers do. */
export function numbersIn(bytes: Uint8Array): Uint32Array {
  const own = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  return new Uint32Array(own.buffer, own.byteOffset, own.byteLength / 4);
}
