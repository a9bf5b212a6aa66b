/** One open block. */
export interface BlockSummary {
  readonly startNs: bigint;
  readonly endNs: bigint;
  /** In order and late; a few may be for the same time. */
  readonly samples: number;
  readonly lateSamples: number;
  readonly memoryBytes: number;
  /** A volume of it was on the disk when it was opened: all its samples have versions. */
  readonly cold: boolean;
  /** Of the first and the newest write into it. */
  readonly firstVersion: bigint;
  readonly lastVersion: bigint;
}

/** A sample that replaced another of the same time: its place in the columns, and the version of its write. */
export interface Overwrite {
  readonly place: number;
  readonly version: bigint;
}

/** The samples of a series in a block, merged. Views of memory that the next call on the same memory may change. */
export interface BlockColumns {
  readonly times: BigInt64Array;
  readonly bits: BigUint64Array;
  /** The same memory as `bits`. */
  readonly values: Float64Array;
  /** Ascending by place; in a cold block one for every sample. */
  readonly overwrites: readonly Overwrite[];
}

/** The same as sealed columns (docs/formats/sealed-block.md). Views, as above. */
export interface SealedColumns {
  readonly count: number;
  readonly times: Uint8Array;
  readonly values: Uint8Array;
  readonly overwrites: readonly Overwrite[];
}
