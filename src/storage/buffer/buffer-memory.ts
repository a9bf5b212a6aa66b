/** How much of the memory of an engine's buffers is in use. */
export interface BufferMemoryUse {
  readonly usedBytes: number;
  readonly limitBytes: number;
  /** It is time to flush, or to take snapshots and drop what they hold. */
  readonly pressing: boolean;
  /** Writes are refused until memory was given back. */
  readonly refusing: boolean;
}

/** The kernels and the memory that all buffers of an engine share. */
export declare class BufferMemory {
  constructor(options: { readonly limitBytes: number });
  get use(): BufferMemoryUse;
}
