import type { Namespace } from './namespace.ts';

/** To move the others costs as much as to make them anew: it has to be worth it. */
const LEAST_SHARE = 0.25;
/** Of the series that a namespace may have: above it, every one counts. */
const CROWDED_SHARE = 0.9;
const LEAST_SHARE_WHEN_CROWDED = 0.01;
const LEAST_PAUSE_NS = 60_000_000_000n;

/**
 * Lets series of shards that are others' now leave the memory, which has no samples of them any more, with all others
 * that have none. While somebody reads it is put off: until it was done the memory `listsForeign`. Returns how many left.
 */
export function forgetForeignSeries(namespace: Namespace): number {
  const { buffer, filesets } = namespace;
  namespace.listsForeign = filesets.isRead;
  return namespace.listsForeign ? 0 : buffer.dropUnusedSeries(Number.EPSILON);
}

/**
 * Lets series that have no samples in memory any more leave it: files have what there is of them, and their index
 * finds them. Those that are written still have come back to the memory before; so it waits until a block has been
 * written for as long as late samples may be late, or nothing has for a whole block. Returns how many left.
 */
export function forgetSeries(namespace: Namespace, nowNs: bigint): number {
  const { buffer, options, filesets } = namespace;
  if (namespace.listsForeign) return forgetForeignSeries(namespace);
  const { bufferPastNs, blockSizeNs, maxSeries } = options;
  const blocks = buffer.blocks();
  namespace.emptySinceNs = blocks.length > 0 ? undefined : (namespace.emptySinceNs ?? nowNs);
  const pauseNs = bufferPastNs > LEAST_PAUSE_NS ? bufferPastNs : LEAST_PAUSE_NS;
  const { emptySinceNs } = namespace;
  const isSettled =
    emptySinceNs === undefined
      ? blocks.some(({ firstVersion }) => nowNs - firstVersion >= pauseNs)
      : nowNs - emptySinceNs >= blockSizeNs;
  // Who reads has references, which would be others.
  if (!isSettled || filesets.isRead) return 0;
  const isCrowded = buffer.seriesCount > maxSeries * CROWDED_SHARE;
  return buffer.dropUnusedSeries(isCrowded ? LEAST_SHARE_WHEN_CROWDED : LEAST_SHARE);
}
