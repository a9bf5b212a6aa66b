import { VarveError } from '../../core/errors.ts';
import type { RemoteWriteVersion, RejectReason, SeriesSamples } from '../engine/storage-engine.ts';
import { ByteWriter } from '../index/byte-writer.ts';
import { writeLabel } from '../index/labels.ts';
import { ENTRY, type Address } from '../kernel/kernel.ts';
import { checked, KernelFault, type KernelFaultName } from '../kernel/kernel-fault.ts';
import { blockStartOf } from './block-start.ts';
import { overloaded, PAGE_BYTES, type BufferMemory } from './buffer-memory.ts';
import { REQUEST_LIMITS, RequestDecoder, type DecodedRequest } from './request-decoder.ts';
import { Rejections, type WriteBatch } from './write-batch.ts';

/** The times that are taken, [fromNs, toNs). */
export interface Admitted {
  readonly fromNs: bigint;
  readonly toNs: bigint;
  readonly blockSizeNs: bigint;
}

/** What a series with samples may take at most of memory, beside its labels, and a sample of it. */
const BYTES_PER_SERIES = 1400;
const BYTES_PER_SAMPLE = 40;
const BYTES_PER_NEW_SERIES = 400;
const BYTES_PER_BLOCK = 4 * PAGE_BYTES;
/** So many blocks are what every request may have. */
const FEW_BLOCKS = 4;
/** Blocks that are counted one by one. */
const MAX_SPAN = 1 << 24;
const UNRESOLVED = -(2 ** 31);

/**
 * Turns requests into batches: what of them can be taken, with the references of their series. Samples that are out of
 * bounds are left out before series are made, so they leave nothing behind.
 */
export class WriteAdmission {
  readonly #memory: BufferMemory;
  readonly #table: Address;
  readonly #decoder: RequestDecoder;
  /** The series that came last, from which the next one is guessed. */
  #last = -1;

  constructor(memory: BufferMemory, table: Address) {
    this.#memory = memory;
    this.#table = table;
    this.#decoder = new RequestDecoder(memory.kernel, memory.space);
  }

  /** Series have new references. */
  forget(): void {
    this.#last = -1;
  }

  /** @throws WRITE_INVALID, STORAGE_OVERLOADED */
  decode(version: RemoteWriteVersion, body: Uint8Array, admitted: Admitted): WriteBatch {
    const use = this.#memory.beginUse();
    const request = this.#decoder.decode(version, body, this.#table, this.#last);
    return this.#admit(request, admitted, use);
  }

  prepare(series: readonly SeriesSamples[], admitted: Admitted): WriteBatch {
    const use = this.#memory.beginUse();
    return this.#admit(this.#put(series), admitted, use);
  }

  #admit(request: DecodedRequest, { fromNs, toNs, blockSizeNs }: Admitted, use: number): WriteBatch {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const { series, unresolved, rawBytes } = request;
    this.#memory.reserve(
      series * BYTES_PER_SERIES +
        request.samples * BYTES_PER_SAMPLE +
        (unresolved > 0 ? unresolved * BYTES_PER_NEW_SERIES + rawBytes : 0),
    );
    const rejections = new Rejections(kernel, space);
    const [entries, references] = [space.entries.address, space.references.address];
    const inBounds = calls.admitSamples(
      entries,
      series,
      references,
      space.times.address,
      space.values.address,
      request.samples,
      fromNs,
      toNs,
    );
    const leastNs = calls.admittedLeast();
    if (inBounds > 0) this.#reserveBlocks(leastNs, inBounds, blockSizeNs);
    if (inBounds < request.samples) this.#rejectTimes(rejections);
    const before = calls.seriesCount(this.#table);
    let refused = 0;
    if (unresolved > 0) {
      this.#last = calls.resolveNew(this.#table, entries, series, references, this.#last);
      refused = this.#rejectSeries(series, rejections);
    } else this.#last = request.last;
    return {
      series,
      samples: inBounds - refused,
      leastNs,
      newSeries: calls.seriesCount(this.#table) - before,
      rejected: rejections.all,
      exemplars: request.exemplars,
      histograms: request.histograms,
      use,
    };
  }

  /** @throws WRITE_INVALID for samples in very many blocks, STORAGE_OVERLOADED */
  #reserveBlocks(leastNs: bigint, samples: number, blockSizeNs: bigint): void {
    const { kernel, space } = this.#memory;
    const startNs = blockStartOf(leastNs, blockSizeNs);
    const span = Number((kernel.calls.admittedMost() - startNs) / blockSizeNs) + 1;
    if (span <= FEW_BLOCKS) return;
    let blocks = Math.min(span, samples);
    if (span <= MAX_SPAN) {
      const sizeBytes = (span >>> 3) + 1;
      const bits = space.scratch.ensure(sizeBytes);
      kernel.bytes.fill(0, bits, bits + sizeBytes);
      blocks = kernel.calls.countBlocks(space.times.address, samples, startNs, blockSizeNs, bits);
    }
    if (blocks > REQUEST_LIMITS.blocks) {
      throw new VarveError('WRITE_INVALID', `the samples of the request are in ${blocks} blocks`, {
        hint: `Write what is in at most ${REQUEST_LIMITS.blocks} blocks at once.`,
      });
    }
    this.#memory.reserve(blocks * BYTES_PER_BLOCK);
  }

  #rejectTimes(rejections: Rejections): void {
    const { calls } = this.#memory.kernel;
    const [old, tooNew] = [calls.refusedOld(), calls.refusedNew()];
    if (old > 0) rejections.add('tooOld', old, calls.refusedOldEntry(), calls.refusedOldTime());
    if (tooNew > 0) rejections.add('tooNew', tooNew, calls.refusedNewEntry(), calls.refusedNewTime());
  }

  /** Counts the samples of series that could not be made. @throws STORAGE_OVERLOADED */
  #rejectSeries(series: number, rejections: Rejections): number {
    const { kernel, space } = this.#memory;
    const { buffer } = kernel.bytes;
    const references = new Int32Array(buffer, space.references.address, series);
    const entries = new Uint32Array(buffer, space.entries.address, series * ENTRY.length);
    let refused = 0;
    for (let i = 0; i < series; i++) {
      const reference = references[i] as number;
      const samples = entries[i * ENTRY.length + ENTRY.samples] as number;
      if (reference >= 0 || samples === 0) continue;
      rejections.add(this.#reasonOf(reference, i), samples, i, undefined);
      refused += samples;
    }
    return refused;
  }

  #reasonOf(result: number, entry: number): RejectReason {
    const fault = faultName(result);
    if (fault === 'OUT_OF_MEMORY') throw overloaded(this.#memory.limitBytes);
    if (fault !== 'TOO_LARGE') return 'invalidLabels';
    // Too many series, or too much of a label set: only the latter is so without a table.
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const at = (space.entries.address >>> 2) + entry * ENTRY.length;
    const numbers = new Uint32Array(kernel.bytes.buffer);
    const [labels, sizeBytes] = [numbers[at + ENTRY.labels] ?? 0, numbers[at + ENTRY.labelsBytes] ?? 0];
    const canonical = calls.canonicalLabels(labels, sizeBytes, space.scratch.ensure(sizeBytes));
    return canonical < 0 || canonical > MAX_LABEL_BYTES ? 'invalidLabels' : 'seriesLimit';
  }

  /** Puts series into the working space as a walk does. */
  #put(series: readonly SeriesSamples[]): DecodedRequest {
    const { kernel, space } = this.#memory;
    const writer = new ByteWriter();
    const ends = series.map(({ labels }) => {
      for (const [name, value] of labels) writeLabel(writer, Buffer.from(name), Buffer.from(value));
      return writer.length;
    });
    const bytes = writer.take();
    const labels = space.labels.put(bytes);
    const samples = series.reduce((sum, one) => sum + one.samples.length, 0);
    this.#decoder.reserve(series.length, samples);
    const { buffer } = kernel.bytes;
    const entries = new Uint32Array(buffer, space.entries.address, series.length * ENTRY.length);
    const times = new BigInt64Array(buffer, space.times.address, samples);
    const values = new Float64Array(buffer, space.values.address, samples);
    let place = 0;
    for (const [i, { samples: own }] of series.entries()) {
      const start = ends[i - 1] ?? 0;
      entries[i * ENTRY.length + ENTRY.labels] = labels + start;
      entries[i * ENTRY.length + ENTRY.labelsBytes] = (ends[i] ?? 0) - start;
      entries[i * ENTRY.length + ENTRY.firstSample] = place;
      entries[i * ENTRY.length + ENTRY.samples] = own.length;
      for (const { timeNs, value } of own) {
        times[place] = clampTime(timeNs);
        values[place++] = value;
      }
    }
    new Int32Array(buffer, space.references.address, series.length).fill(UNRESOLVED);
    return {
      series: series.length,
      samples,
      unresolved: series.length,
      last: -1,
      rawBytes: bytes.length,
      exemplars: 0,
      histograms: 0,
    };
  }
}

const MAX_LABEL_BYTES = 65_000;
const MAX_TIME = (1n << 63n) - 1n;

/** What is beyond the numbers is beyond the bounds, too. */
function clampTime(timeNs: bigint): bigint {
  return timeNs > MAX_TIME ? MAX_TIME : timeNs < -MAX_TIME ? -MAX_TIME - 1n : timeNs;
}

function faultName(result: number): KernelFaultName {
  try {
    checked(result);
  } catch (error) {
    if (error instanceof KernelFault) return error.fault;
    throw error;
  }
  throw new Error(`assertion failed: ${result} is no fault`);
}
