import { readFileSync } from 'node:fs';
import { PACKAGE_ROOT } from '../../core/package-root.ts';
import { KernelFault } from './kernel-fault.ts';

/** Where `bin/build-kernels.js` puts the kernels. */
export const KERNEL_FILE = new URL('build/kernel.wasm', PACKAGE_ROOT);

let built: Uint8Array | undefined;

/** The kernels of this build, read once: what is compiled from one array is compiled once. */
export function builtKernels(): Uint8Array {
  built ??= readFileSync(KERNEL_FILE);
  return built;
}

/** An address in the kernel's memory. */
export type Address = number;

/**
 * The kernels as they are: addresses and counts in, a number out. Negative results are faults (`checked`).
 * Columns are little-endian 64-bit numbers: nanoseconds, or the bits of doubles. Outputs have room for four
 * numbers, or 16 bytes, more than asked for, and up to 64 bytes behind an input are read, though not used.
 * No call keeps an address that it was given, but those of tables, chunks and states.
 */
export interface KernelCalls {
  allocate(sizeBytes: number): Address;
  limitMemory(sizeBytes: number): void;

  maxValueColumnBytes(count: number): number;
  valueScratchBytes(count: number): number;
  encodeValues(values: Address, count: number, out: Address, scratch: Address): number;
  /** With the exponent of another column, where that fits; see `value-column.ts`. */
  encodeValuesLike(values: Address, count: number, out: Address, scratch: Address, like: Address): number;
  decodeValues(from: Address, sizeBytes: number, count: number, out: Address): number;

  /**
   * The values of many series of a fileset. A row of `table` has `PAGE_ROW.length` 32-bit numbers; the last two are
   * filled in. Returns the number of samples.
   */
  decodeSeriesPage(
    table: Address,
    rows: number,
    payloads: Address,
    counts: Address,
    numbers: number,
    out: Address,
    capacity: number,
  ): number;

  maxTimeColumnBytes(count: number): number;
  timeScratchBytes(count: number): number;
  encodeTimes(times: Address, count: number, out: Address, scratch: Address): number;
  countTimes(from: Address, sizeBytes: number): number;
  decodeTimes(from: Address, sizeBytes: number, out: Address, capacity: number): number;

  maxXorChunkBytes(count: number): number;
  encodeXorChunk(times: Address, values: Address, count: number, out: Address): number;
  decodeXorChunk(from: Address, sizeBytes: number, times: Address, values: Address, capacity: number): number;

  snappyLength(from: Address, sizeBytes: number): number;
  decodeSnappy(from: Address, sizeBytes: number, out: Address, capacity: number): number;
  maxSnappyBytes(sizeBytes: number): number;
  snappyScratchBytes(): number;
  encodeSnappy(from: Address, sizeBytes: number, out: Address, scratch: Address): number;

  /** An entry has `ENTRY.length` 32-bit numbers. What else was found is asked for after it. */
  walkWriteRequest(
    body: Address,
    sizeBytes: number,
    entries: Address,
    maxSeries: number,
    times: Address,
    values: Address,
    maxSamples: number,
    spare: Address,
  ): number;
  /** The same for remote write 2.0; a symbol takes 8 bytes, and labels are put together at `spare`. */
  walkWriteRequest2(
    body: Address,
    sizeBytes: number,
    entries: Address,
    maxSeries: number,
    times: Address,
    values: Address,
    maxSamples: number,
    symbols: Address,
    maxSymbols: number,
    spare: Address,
    spareBytes: number,
  ): number;
  /**
   * `walkWriteRequest` that finds known series on the way, most of them without going through their labels. What
   * it leaves, `walkedUnresolved` of them, is for `resolveNew`; nothing is made before the whole body is walked.
   */
  walkKnownSeries(
    table: Address,
    after: number,
    references: Address,
    body: Address,
    sizeBytes: number,
    entries: Address,
    maxSeries: number,
    times: Address,
    values: Address,
    maxSamples: number,
    spare: Address,
  ): number;
  /**
   * Takes a body apart by shard: a part for each series, address and bytes of it and its group, 32-bit numbers. `groups`
   * has a group for each shard; the bytes of each group are added to `sizes`. A series of which the shard cannot be told
   * without putting its labels in order has group 2^32 − 1, and is not in `sizes`. What else was found is asked for after
   * it.
   */
  splitRequest(
    body: Address,
    sizeBytes: number,
    parts: Address,
    maxSeries: number,
    groups: Address,
    shardCount: number,
    sizes: Address,
  ): number;
  splitSamples(): number;
  splitExemplars(): number;
  splitHistograms(): number;
  splitUnknown(): number;
  /** Copies each part to where `places` says for its group, one behind the other. */
  gatherParts(parts: Address, count: number, places: Address): void;
  walkedUnresolved(): number;
  walkedLast(): number;
  walkedSamples(): number;
  walkedExemplars(): number;
  walkedHistograms(): number;
  walkedTo(): Address;
  canonicalLabels(from: Address, sizeBytes: number, out: Address): number;
  /** 1 when labels are canonical and of the common kind; 0 says nothing. */
  isPlainlyCanonical(from: Address, sizeBytes: number): number;

  /** Results are 32-bit numbers with a sign: `>>> 0` makes hashes of them. */
  murmur3(from: Address, sizeBytes: number, seed: number): number;
  xxh64(from: Address, sizeBytes: number, seed: bigint): bigint;

  /** Pages of 64 KiB that tables and chunks hold. */
  usedPages(): number;
  /**
   * The pages of a table, a set of chunks or a writer's state: 8 bytes each go to `out` from place `from` on, unless it
   * is 0; returns the place behind them. They are an address, which is odd for a page that will not change any more
   * until it is given back, and the serial of such a page.
   */
  listTablePages(table: Address, out: Address, from: number): number;
  listChunksPages(chunks: Address, out: Address, from: number): number;
  listLogPages(state: Address, out: Address, from: number): number;
  listFreePages(out: Address): number;
  allocatedEnd(): Address;
  lastSerial(): number;
  /** 0 when memory was taken before, or the limit is too low. */
  restoreAllocator(end: Address, pages: number, serial: number): number;
  addFreePage(page: Address): void;
  createSeriesTable(maxSeries: number, seed: bigint): Address;
  freeSeriesTable(table: Address): void;
  limitSeries(table: Address, maxSeries: number): void;
  seriesCount(table: Address): number;
  /** A record begins with `RECORD`; 0 for an unknown reference. */
  seriesRecord(table: Address, reference: number): Address;
  /** One series by any form of its labels; `creates` is 0 or 1. */
  resolveLabels(table: Address, labels: Address, sizeBytes: number, creates: number): number;
  /** The series of entries: references, or faults, go to `references`; returns the last reference. */
  resolveSeries(table: Address, entries: Address, count: number, references: Address, after: number): number;
  /** The same for those that `walkKnownSeries` left unresolved. */
  resolveNew(table: Address, entries: Address, count: number, references: Address, after: number): number;

  /** The same as `resolveSeries` without making series: what is not known is left for `resolveNew`. */
  findSeries(table: Address, entries: Address, count: number, references: Address, after: number): number;
  /** Sorts references by the labels of their series; `scratch` has room for as many. */
  sortSeries(table: Address, references: Address, count: number, scratch: Address): void;

  /**
   * Leaves of the samples of entries those in [from, to), moved together, and returns how many; entries that have none
   * and whose series are unknown make none. What was refused, with one example of each kind, is asked for after it.
   */
  admitSamples(
    entries: Address,
    count: number,
    references: Address,
    times: Address,
    values: Address,
    samples: number,
    from: bigint,
    to: bigint,
  ): number;
  /** Finds the least and the greatest of times, for the next two. */
  findSpan(times: Address, count: number): void;
  /** Leaves of rows those outside of [from, to), and those without series, moved together; returns how many. */
  leaveOutRows(
    references: Address,
    times: Address,
    values: Address,
    count: number,
    from: bigint,
    to: bigint,
  ): number;
  admittedLeast(): bigint;
  admittedMost(): bigint;
  /** In how many blocks from `start` on times are; `bits` has zero bits, one a block. */
  countBlocks(times: Address, count: number, start: bigint, size: bigint, bits: Address): number;
  refusedOld(): number;
  refusedNew(): number;
  refusedOldEntry(): number;
  refusedNewEntry(): number;
  refusedOldTime(): bigint;
  refusedNewTime(): bigint;

  /** Pages that can still be taken. */
  availablePages(): number;
  /** Samples of one block that is still written, in [start, end); if it is cold, all keep their version. */
  createChunks(start: bigint, end: bigint, cold: number): Address;
  freeChunks(chunks: Address): void;
  /** Takes the samples that are in the block, passing over the others; returns how many were appended in order. */
  appendSamples(
    chunks: Address,
    entries: Address,
    count: number,
    references: Address,
    times: Address,
    values: Address,
    version: bigint,
  ): number;
  /** The same for samples that have a reference each. */
  appendRows(
    chunks: Address,
    count: number,
    references: Address,
    times: Address,
    values: Address,
    version: bigint,
  ): number;
  /** What else the last of these calls did: samples that are late, that said nothing new, that found no memory. */
  appendedLate(): number;
  appendedRepeated(): number;
  appendedRefused(): number;
  /** The least time behind the block that it passed over. */
  appendedLeastBehind(): bigint;
  chunksOrdered(chunks: Address): number;
  chunksLate(chunks: Address): number;
  chunksPages(chunks: Address): number;
  /** A series that has many late samples, which `mergeLate` should put in order; -1 when there is none. */
  takeDue(chunks: Address): number;
  mergeLate(
    chunks: Address,
    reference: number,
    times: Address,
    values: Address,
    capacity: number,
    list: Address,
  ): number;
  /** From now on the set is a cold one. */
  chillChunks(chunks: Address): void;
  seriesOrdered(chunks: Address, reference: number): number;
  seriesLate(chunks: Address, reference: number): number;
  /** Reads a series, merged. For each late sample `list` has room for 8 bytes, `replaced` for 16. */
  readSeries(
    chunks: Address,
    reference: number,
    times: Address,
    values: Address,
    capacity: number,
    list: Address,
    replaced: Address,
  ): number;
  readOverwrites(): number;
  /** Removes the samples of a series in [from, to). */
  cutSeries(
    chunks: Address,
    reference: number,
    from: bigint,
    to: bigint,
    times: Address,
    values: Address,
    capacity: number,
  ): number;
  /** Adds samples that were not written now: versions are `NO_VERSION` but for those that replaced others. */
  insertSamples(
    chunks: Address,
    reference: number,
    newTimes: Address,
    newValues: Address,
    versions: Address,
    count: number,
    times: Address,
    values: Address,
    capacity: number,
    list: Address,
    replaced: Address,
  ): number;
  /** How many series of a shard have samples; their references go to `out`, unless that is 0. */
  listSeries(chunks: Address, table: Address, shard: number, shardCount: number, out: Address): number;

  /**
   * Forgetting series: sets a byte for each that has samples in a set; adds those to a fresh table, with their new
   * references + 1 in `map`; moves the lines of a set accordingly; puts the fresh table in the place of the old one.
   */
  markSeries(chunks: Address, marks: Address, count: number): void;
  moveSeries(table: Address, fresh: Address, marks: Address, map: Address, count: number): number;
  moveLines(chunks: Address, map: Address, count: number): number;
  replaceTable(table: Address, fresh: Address): void;

  /** What a writer or reader of a commit log knows. */
  createLogState(): Address;
  freeLogState(state: Address): void;
  /** Forgets values and successors; with `names`, which is 0 or 1, also which series were named. */
  restartLogState(state: Address, names: number): void;
  breakLogState(state: Address): void;
  becomeReader(state: Address, epoch: bigint, ordinal: number, series: number): number;
  /** Puts references in the place of the writer's numbers; returns how many have none and are -1 now. */
  mapReferences(state: Address, references: Address, count: number): number;
  maxLogSamplesBytes(samples: number): number;
  encodeLogSamples(
    state: Address,
    restarts: number,
    entries: Address,
    count: number,
    references: Address,
    times: Address,
    values: Address,
    out: Address,
  ): number;
  decodeLogSamples(
    state: Address,
    from: Address,
    sizeBytes: number,
    maxReference: number,
    references: Address,
    times: Address,
    values: Address,
    capacity: number,
  ): number;
  /** What a write needs beside `maxLogSamplesBytes`. */
  maxLogNamesBytes(
    state: Address,
    table: Address,
    entries: Address,
    count: number,
    references: Address,
  ): number;
  encodeLogWrite(
    state: Address,
    table: Address,
    flags: number,
    epoch: bigint,
    version: bigint,
    ordinal: number,
    entries: Address,
    count: number,
    references: Address,
    times: Address,
    values: Address,
    out: Address,
  ): number;
  /** Reads a write up to its samples, for `decodeLogSamples`. */
  openLogWrite(state: Address, table: Address, from: Address, sizeBytes: number): number;
  logSamplesAt(): Address;
  logMaxSamples(): number;
  logVersion(): bigint;
  logEpoch(): bigint;
  logLostSeries(): number;
}

/** What `insertSamples` has as version of a sample that replaced none. */
export const NO_VERSION = -(1n << 63n);

/** The flags of `encodeLogWrite`: what the state was restarted with since the write before. */
export const LOG_RESTART = { none: 0, values: 1, names: 3 } as const;

/** More series than this no table holds. */
export const MAX_SERIES = 4096 * 2048;

/**
 * The 32-bit numbers of a row of `decodeSeriesPage`: the payload's place and size, then what was found: its first sample
 * in the output, and the number of its times in the dictionary, which is -1 when the payload is left to others.
 */
export const PAGE_ROW = { offset: 0, sizeBytes: 1, first: 2, number: 3, length: 4 } as const;

/** The 32-bit numbers at the beginning of a series' record. */
export const RECORD = { labels: 0, labelsBytes: 1, shardHash: 2 } as const;

/** The 32-bit numbers of what `walkWriteRequest` writes for a series. */
export const ENTRY = { labels: 0, labelsBytes: 1, firstSample: 2, samples: 3, length: 4 } as const;

interface Memory {
  readonly buffer: ArrayBuffer;
}

interface WebAssemblyApi {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => { readonly exports: object };
}

/** To compile costs more than to make an instance, and one text has many of those. */
const compiled = new WeakMap<Uint8Array, object>();

/**
 * One instance of the kernels with a memory of its own; not to be shared between threads. The memory grows to
 * `limitBytes` and is never given back.
 */
export class Kernel {
  readonly calls: KernelCalls;
  readonly #memory: Memory;
  #bytes: Uint8Array;

  constructor(wasm: Uint8Array, options: { readonly limitBytes: number }) {
    const { Module, Instance } = (globalThis as unknown as { WebAssembly: WebAssemblyApi }).WebAssembly;
    const imports = { env: { abort: () => assertNever() } };
    const module = compiled.get(wasm) ?? new Module(wasm);
    compiled.set(wasm, module);
    const { exports } = new Instance(module, imports);
    this.calls = exports as KernelCalls;
    this.#memory = (exports as { memory: Memory }).memory;
    this.#bytes = new Uint8Array(this.#memory.buffer);
    this.calls.limitMemory(options.limitBytes);
  }

  /** All of the memory. A view is dead once the memory has grown: ask again after every call that may allocate. */
  get bytes(): Uint8Array {
    if (this.#bytes.buffer !== this.#memory.buffer) this.#bytes = new Uint8Array(this.#memory.buffer);
    return this.#bytes;
  }

  /**
   * A region of zero bytes for good, aligned to 64.
   * @throws KernelFault OUT_OF_MEMORY
   */
  allocate(sizeBytes: number): Address {
    const address = this.calls.allocate(sizeBytes) >>> 0;
    if (address === 0) throw new KernelFault('OUT_OF_MEMORY');
    return address;
  }
}

function assertNever(): never {
  throw new Error('assertion failed: a kernel aborted');
}
