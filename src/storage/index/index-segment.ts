/**
 * What searching, merging and writing need of a segment, be it in memory or sealed.
 *
 * Within a segment everything has a dense number: series have *positions* (0 … seriesCount − 1), label names and
 * *terms* (pairs of name and value) have numbers of their own. They mean nothing in another segment. A `ref` is the
 * number that the caller gave to a series.
 */
export interface IndexSegment {
  readonly seriesCount: number;
  readonly nameCount: number;
  readonly termCount: number;
  /** Bytes of memory that it holds now. */
  readonly memoryBytes: number;

  refOf(position: number): number;
  /** Writes the terms of a series to `out` from `at` on, in the order of its label names; returns where they end. */
  readRow(position: number, out: Uint32Array, at: number): number;
  /** The term that the series has for a name, or -1. */
  termIn(position: number, name: number): number;

  /** The number of a label name, or -1. */
  findName(name: string): number;
  /** A view: it stays as it is, and is not to be changed. */
  nameBytes(name: number): Uint8Array;
  /** How many values a label has. */
  valueCount(name: number): number;
  /** How many series have the label. */
  seriesWith(name: number): number;

  /** The number of the term, or -1. */
  findTerm(name: number, value: string): number;
  termName(term: number): number;
  /** A view of the value: it stays as it is, and is not to be changed. */
  valueBytes(term: number): Uint8Array;
  valueText(term: number): string;
  /** All values of a name that start with `prefix`, in no particular order. */
  visitValues(name: number, prefix: string, visit: (term: number, value: string) => void): void;

  /** How many series have the term; at least one. */
  postingCount(term: number): number;
  /** Writes the positions of those series to `out` from `at` on, ascending; returns where they end. */
  readPostings(term: number, out: Uint32Array, at: number): number;

  /** What to throw when its parts contradict each other. */
  inconsistent(what: string): Error;
}

/** Refs of series that are deleted; a `Set<number>` is one. */
export interface RefSet {
  readonly size: number;
  has(ref: number): boolean;
}
