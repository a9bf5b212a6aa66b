import { VarveError } from '../../core/errors.ts';
import type { RemoteWriteVersion, RejectReason } from '../engine/storage-engine.ts';
import type { SeriesBits } from '../engine/replica-access.ts';
import { ENTRY, RECORD, type Address } from '../kernel/kernel.ts';
import { checked, KernelFault, type KernelFaultName } from '../kernel/kernel-fault.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { blockStartOf } from './block-start.ts';
import { overloaded, PAGE_BYTES, type BufferMemory } from './buffer-memory.ts';
import { REQUEST_LIMITS, RequestDecoder, type DecodedRequest } from './request-decoder.ts';
import { Rejections, type WriteBatch } from './write-batch.ts';

/** The times that are taken, [fromNs, toNs). */
export interface Admitted {
  readonly fromNs: bigint;
  readonly toNs: bigint;
  readonly blockSizeNs: bigint;
  /** Undefined: writes are taken of all shards. */
  readonly owned: OwnedShards | undefined;
}

/**
 * What becomes of series of other nodes' shards:
 * - `refuse`: the whole request is refused
 * - `passOver`: they are left out and counted: whoever sent them has sent them to those nodes, too
 */
export type ForeignSeries = 'refuse' | 'passOver';

export interface OwnedShards {
  /** One byte a shard, 1 for those that writes are taken of. */
  readonly shards: Uint8Array;
  readonly others: ForeignSeries;
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

  /** The same for what comes as columns. */
  prepare(series: readonly SeriesBits[], admitted: Admitted): WriteBatch {
    const use = this.#memory.beginUse();
    return this.#admit(this.#put(series), admitted, use);
  }

  #admit(decoded: DecodedRequest, admitted: Admitted, use: number): WriteBatch {
    const { fromNs, toNs, blockSizeNs, owned } = admitted;
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const notOwned = owned ? this.#leaveOut(decoded, owned) : 0;
    const request = notOwned === 0 ? decoded : { ...decoded, samples: decoded.samples - notOwned };
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
      notOwned,
      use,
    };
  }

  /**
   * Leaves entries of other shards without samples, and moves those of the others together; returns how many went.
   * @throws SHARD_NOT_OWNED
   */
  #leaveOut({ series, samples }: DecodedRequest, { shards, others }: OwnedShards): number {
    const { kernel, space } = this.#memory;
    let kept = 0;
    for (let i = 0; i < series; i++) {
      const shard = this.#shardOf(i, shards.length);
      // Memory may have grown.
      const { buffer } = kernel.bytes;
      const entries = new Uint32Array(buffer, space.entries.address + i * ENTRY.length * 4, ENTRY.length);
      const [from, count] = [entries[ENTRY.firstSample] ?? 0, entries[ENTRY.samples] ?? 0];
      // Labels that are not valid have no shard: they are refused later, with a reason.
      const isOwned = shard === undefined || shards[shard] === 1;
      if (!isOwned && others === 'refuse') {
        throw new VarveError(
          'SHARD_NOT_OWNED',
          `shard ${shard} of a series in the request is not this node's`,
          {
            hint: 'Nothing of it was taken. Send it to a node that has the shard, or to one that passes it on.',
          },
        );
      }
      entries[ENTRY.firstSample] = kept;
      if (!isOwned) {
        entries[ENTRY.samples] = 0;
        continue;
      }
      if (kept !== from) {
        new BigInt64Array(buffer, space.times.address, samples).copyWithin(kept, from, from + count);
        new BigInt64Array(buffer, space.values.address, samples).copyWithin(kept, from, from + count);
      }
      kept += count;
    }
    return samples - kept;
  }

  #shardOf(entry: number, shardCount: number): number | undefined {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const [reference = UNRESOLVED] = new Int32Array(
      kernel.bytes.buffer,
      space.references.address + entry * 4,
      1,
    );
    if (reference >= 0) {
      const record = calls.seriesRecord(this.#table, reference) >>> 2;
      return (new Uint32Array(kernel.bytes.buffer)[record + RECORD.shardHash] ?? 0) % shardCount;
    }
    const at = (space.entries.address >>> 2) + entry * ENTRY.length;
    const numbers = new Uint32Array(kernel.bytes.buffer);
    const [labels, sizeBytes] = [numbers[at + ENTRY.labels] ?? 0, numbers[at + ENTRY.labelsBytes] ?? 0];
    const out = space.scratch.ensure(sizeBytes);
    const length = calls.canonicalLabels(labels, sizeBytes, out);
    return length < 0 ? undefined : murmur3(kernel.bytes.subarray(out, out + length), 0) % shardCount;
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
  #put(series: readonly SeriesBits[]): DecodedRequest {
    const { kernel, space } = this.#memory;
    const labelBytes = Buffer.concat(series.map(({ labels }) => labels));
    const samples = series.reduce((sum, { times }) => sum + times.length, 0);
    let labelsAt = space.labels.put(labelBytes);
    this.#decoder.reserve(series.length, samples);
    const { buffer } = kernel.bytes;
    const entries = new Uint32Array(buffer, space.entries.address, series.length * ENTRY.length);
    const allTimes = new BigInt64Array(buffer, space.times.address, samples);
    const allBits = new BigUint64Array(buffer, space.values.address, samples);
    let place = 0;
    for (const [i, { labels, times, bits }] of series.entries()) {
      entries[i * ENTRY.length + ENTRY.labels] = labelsAt;
      entries[i * ENTRY.length + ENTRY.labelsBytes] = labels.length;
      entries[i * ENTRY.length + ENTRY.firstSample] = place;
      entries[i * ENTRY.length + ENTRY.samples] = times.length;
      allTimes.set(times, place);
      allBits.set(bits, place);
      labelsAt += labels.length;
      place += times.length;
    }
    new Int32Array(buffer, space.references.address, series.length).fill(UNRESOLVED);
    return {
      series: series.length,
      samples,
      unresolved: series.length,
      last: -1,
      rawBytes: labelBytes.length,
      exemplars: 0,
      histograms: 0,
    };
  }
}

const MAX_LABEL_BYTES = 65_000;

function faultName(result: number): KernelFaultName {
  try {
    checked(result);
  } catch (error) {
    if (error instanceof KernelFault) return error.fault;
    throw error;
  }
  throw new Error(`assertion failed: ${result} is no fault`);
}
