export {
  decodeValues,
  encodeValues,
  maxValueColumnBytes,
  valueScratchBytes,
} from './value-column';
export { countTimes, decodeTimes, encodeTimes, maxTimeColumnBytes, timeScratchBytes } from './time-column';
export { decodeXorChunk, encodeXorChunk, maxXorChunkBytes } from './xor-chunk';
export { allocate, limitMemory } from './allocator';
