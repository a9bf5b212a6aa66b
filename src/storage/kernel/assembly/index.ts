export {
  decodeValues,
  encodeValues,
  encodeValuesLike,
  maxValueColumnBytes,
  valueScratchBytes,
} from './value-column';
export { decodeSeriesPage } from './series-page';
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
export {
  addFreePage,
  allocatedEnd,
  availablePages,
  lastSerial,
  listFreePages,
  restoreAllocator,
  usedPages,
} from './allocator';
export { murmur3, xxh64 } from './hash';
export {
  createSeriesTable,
  freeSeriesTable,
  limitSeries,
  listTablePages,
  findSeries,
  resolveLabels,
  resolveNew,
  resolveSeries,
  seriesCount,
  seriesRecord,
} from './series-table';
export {
  appendRows,
  appendSamples,
  appendedLate,
  appendedLeastBehind,
  appendedRefused,
  appendedRepeated,
  chunksLate,
  chunksOrdered,
  chillChunks,
  chunksPages,
  createChunks,
  freeChunks,
  listChunksPages,
} from './open-chunks';
export {
  cutSeries,
  insertSamples,
  listSeries,
  mergeLate,
  readOverwrites,
  readSeries,
  seriesLate,
  seriesOrdered,
  takeDue,
} from './open-series';
export { sortSeries } from './series-order';
export {
  createLogState,
  decodeLogSamples,
  encodeLogSamples,
  freeLogState,
  listLogPages,
  mapReferences,
  maxLogSamplesBytes,
  restartLogState,
} from './log-batch';
export { walkWriteRequest2 } from './remote-write-2';
export {
  becomeReader,
  breakLogState,
  encodeLogWrite,
  logEpoch,
  logLostSeries,
  logMaxSamples,
  logSamplesAt,
  logVersion,
  maxLogNamesBytes,
  openLogWrite,
} from './log-write';
export {
  admitSamples,
  admittedLeast,
  admittedMost,
  countBlocks,
  findSpan,
  leaveOutRows,
  refusedNew,
  refusedNewEntry,
  refusedNewTime,
  refusedOld,
  refusedOldEntry,
  refusedOldTime,
} from './admission';
export { markSeries, moveLines, moveSeries, replaceTable } from './series-compaction';
export {
  gatherParts,
  splitExemplars,
  splitHistograms,
  splitRequest,
  splitSamples,
  splitUnknown,
} from './split-request';
