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

  #grow(which: number, small: Uint32Array | undefined): Uint32Array {
    const page = new Uint32Array(
      which > 0 ? PAGE_COUNT : small === undefined ? FIRST_PAGE_COUNT : small.length * 4,
    );
    if (small !== undefined) page.set(small);
    this.#pages[which] = page;
    return page;
  }
}
