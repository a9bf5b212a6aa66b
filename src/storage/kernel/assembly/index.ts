export {
  decodeValues,
  encodeValues,
  maxValueColumnBytes,
  valueScratchBytes,
} from './value-column';
export { countTimes, decodeTimes, encodeTimes, maxTimeColumnBytes, timeScratchBytes } from './time-column';
export { decodeXorChunk, encodeXorChunk, maxXorChunkBytes } from './xor-chunk';
export { allocate, limitMemory } from './allocator';
export { decodeSnappy, encodeSnappy, maxSnappyBytes, snappyLength, snappyScratchBytes } from './snappy';
export {
  walkKnownSeries,
  walkWriteRequest,
  walkedExemplars,
  walkedHistograms,
  walkedLast,
  walkedSamples,
  walkedTo,
  walkedUnresolved,
} from './remote-write';
export { canonicalLabels, isPlainlyCanonical } from './label-set';
export { usedPages } from './allocator';
export { murmur3, xxh64 } from './hash';
export {
  createSeriesTable,
  freeSeriesTable,
  resolveLabels,
  resolveNew,
  resolveSeries,
  seriesCount,
  seriesRecord,
} from './series-table';
export { appendSamples, chunkCount, chunksSamples, createChunks, freeChunks, readChunk } from './open-chunks';
export {
  createLogState,
  decodeLogSamples,
  encodeLogSamples,
  freeLogState,
  maxLogSamplesBytes,
} from './log-batch';
export { decodeLogSeries, encodeLogSeries, logFirstReference } from './log-series';
export { walkWriteRequest2 } from './remote-write-2';
