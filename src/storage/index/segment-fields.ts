import { assert } from '../../core/errors.ts';

/** One list or array of a segment in memory: its bytes, in pieces behind each other. */
export type SegmentField = readonly Uint8Array[];

/** Gives fields back in the order in which they were listed. */
export class SegmentFields {
  readonly #fields: readonly Uint8Array[];
  #next = 0;

  constructor(fields: readonly Uint8Array[]) {
    this.#fields = fields;
  }

  next(): Uint8Array {
    const field = this.#fields[this.#next++];
    assert(field !== undefined, 'a segment has as many fields as were listed of it');
    return field;
  }
}
