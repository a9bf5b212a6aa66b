/** Values by their bits and as doubles: the same memory. */
export interface ValueViews {
  readonly bits: BigUint64Array;
  readonly values: Float64Array;
}

/**
 * Memory for one column at a time. Reads that go through many series use it again for each: to allocate costs more
 * than to decode a block, and most columns are as long as the one before, so that its views serve again as well.
 */
export class ReusedColumn {
  #memory = new ArrayBuffer(0);
  #views: ValueViews = viewsOf(this.#memory, 0);

  /** A copy, which is valid until the next one. */
  take(bits: BigUint64Array): ValueViews {
    const count = bits.length;
    if (this.#views.bits.length !== count) {
      if (this.#memory.byteLength < count * 8) this.#memory = new ArrayBuffer(count * 16);
      this.#views = viewsOf(this.#memory, count);
    }
    this.#views.bits.set(bits);
    return this.#views;
  }
}

function viewsOf(memory: ArrayBuffer, count: number): ValueViews {
  return { bits: new BigUint64Array(memory, 0, count), values: new Float64Array(memory, 0, count) };
}
