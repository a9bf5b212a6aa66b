import type { NamespaceOptions } from '../engine/storage-engine.ts';
import { floorToBlock, type TimeRange } from './time-ranges.ts';

export interface TargetRanges {
  /** Blocks that take no more writes: their data belongs into filesets. */
  readonly persist: TimeRange;
  /** Blocks that are still written: their data belongs into memory, and into snapshots. */
  readonly memory: TimeRange;
}

type Retention = Pick<NamespaceOptions, 'retentionNs' | 'blockSizeNs' | 'bufferPastNs' | 'bufferFutureNs'>;

/** What a namespace has to have at an instant. The formulas are M3's (storage/bootstrap/process.go). */
export function targetRanges(atNs: bigint, options: Retention): TargetRanges {
  const { retentionNs, blockSizeNs, bufferPastNs, bufferFutureNs } = options;
  const startNs = floorToBlock(atNs - retentionNs, blockSizeNs);
  const middleNs = floorToBlock(atNs - blockSizeNs - bufferPastNs, blockSizeNs) + blockSizeNs;
  const endNs = floorToBlock(atNs + bufferFutureNs, blockSizeNs) + blockSizeNs;
  const start = startNs < middleNs ? startNs : middleNs;
  return { persist: { startNs: start, endNs: middleNs }, memory: { startNs: middleNs, endNs } };
}
