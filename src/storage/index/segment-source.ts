/** The bytes of a sealed segment, wherever they are. */
export interface SegmentSource {
  readonly sizeBytes: number;
  /**
   * The bytes of a part of it; fewer only where it ends. The segment keeps them without copying, so they must not
   * change.
   */
  read(offset: number, sizeBytes: number): Uint8Array;
}

/** A segment that is in memory as a whole. */
export function inMemory(bytes: Uint8Array): SegmentSource {
  return {
    sizeBytes: bytes.length,
    read: (offset, sizeBytes) => bytes.subarray(offset, offset + sizeBytes),
  };
}
