/** Nanoseconds from 0001-01-01 to the Unix epoch, from where blocks are counted (M3: `time.Time.Truncate`). */
const EPOCH_OFFSET_NS = 62_135_596_800n * 1_000_000_000n;

/** The start of the block that a time is in. */
export function blockStartOf(timeNs: bigint, blockSizeNs: bigint): bigint {
  const since = timeNs + EPOCH_OFFSET_NS;
  const into = since % blockSizeNs;
  return timeNs - (into < 0n ? into + blockSizeNs : into);
}
