import { VarveError } from '../../core/errors.ts';
import type { RemoteWriteVersion } from '../engine/storage-engine.ts';
import { ENTRY, type Address, type Kernel } from '../kernel/kernel.ts';
import { KernelFault, checked } from '../kernel/kernel-fault.ts';
import type { WorkingSpace } from './buffer-memory.ts';

/** What a request may have at most; a larger one is refused as a whole. */
export const REQUEST_LIMITS = {
  bodyBytes: 32 * 1024 * 1024,
  series: 500_000,
  samples: 500_000,
  /** Each of them costs a pass over the samples. */
  blocks: 1000,
  symbols: 1_000_000,
  labelBytes: 128 * 1024 * 1024,
} as const;

export const ENTRY_BYTES = 4 * ENTRY.length;
const SYMBOL_BYTES = 8;
const MARGIN_BYTES = 64;
const FIRST_ROOM = 4096;

/** A request in the working space: entries, times and values, and references of the series that are known. */
export interface DecodedRequest {
  readonly series: number;
  readonly samples: number;
  /** Series that are not known, or not by these bytes. */
  readonly unresolved: number;
  /** The last that is known. */
  readonly last: number;
  readonly rawBytes: number;
  readonly exemplars: number;
  readonly histograms: number;
}

/** How much a walk finds room for. */
interface Room {
  readonly series: number;
  readonly samples: number;
  readonly symbols: number;
  readonly labelBytes: number;
}

/**
 * Decodes bodies of remote write requests into the working space, and finds the series that a table knows. Makes none.
 */
export class RequestDecoder {
  readonly #kernel: Kernel;
  readonly #space: WorkingSpace;
  #room: Room = { series: FIRST_ROOM, samples: FIRST_ROOM, symbols: FIRST_ROOM, labelBytes: 1 << 20 };

  constructor(kernel: Kernel, space: WorkingSpace) {
    this.#kernel = kernel;
    this.#space = space;
  }

  /** `after` is the series that came last before, or -1. @throws WRITE_INVALID, STORAGE_OVERLOADED */
  decode(version: RemoteWriteVersion, body: Uint8Array, table: Address, after: number): DecodedRequest {
    const rawBytes = this.#decompress(body);
    for (;;) {
      const series = version === 1 ? this.#walk(table, after, rawBytes) : this.#walk2(rawBytes);
      if (series >= 0) {
        const known = version === 1 ? this.#walked() : this.#find(table, after, series);
        const { calls } = this.#kernel;
        return {
          series,
          samples: calls.walkedSamples(),
          ...known,
          rawBytes,
          exemplars: calls.walkedExemplars(),
          histograms: calls.walkedHistograms(),
        };
      }
      const fault = faultOf(series);
      if (fault.fault !== 'TOO_LARGE' || !this.#grow()) throw invalid(fault);
    }
  }

  #walked(): Pick<DecodedRequest, 'unresolved' | 'last'> {
    const { calls } = this.#kernel;
    return { unresolved: calls.walkedUnresolved(), last: calls.walkedLast() };
  }

  /** The labels of version 2 are put together first, then their series are looked for. */
  #find(table: Address, after: number, series: number): Pick<DecodedRequest, 'unresolved' | 'last'> {
    const { entries, references } = this.#space;
    const last = this.#kernel.calls.findSeries(table, entries.address, series, references.address, after);
    return { unresolved: series, last };
  }

  #decompress(body: Uint8Array): number {
    const { calls } = this.#kernel;
    const { input, raw } = this.#space;
    try {
      if (body.length > REQUEST_LIMITS.bodyBytes) throw new KernelFault('TOO_LARGE');
      const from = input.put(body);
      const sizeBytes = checked(calls.snappyLength(from, body.length));
      if (sizeBytes > REQUEST_LIMITS.bodyBytes) throw new KernelFault('TOO_LARGE');
      const out = raw.ensure(sizeBytes + MARGIN_BYTES);
      return checked(calls.decodeSnappy(from, body.length, out, sizeBytes));
    } catch (error) {
      if (error instanceof KernelFault) {
        throw new VarveError('WRITE_INVALID', `the body is no snappy block: ${error.message}`, {
          cause: error,
        });
      }
      throw error;
    }
  }

  /** Makes room for a batch; the columns have some behind. */
  reserve(series: number, samples: number): void {
    const { entries, references, times, values } = this.#space;
    entries.ensure(series * ENTRY_BYTES);
    references.ensure(series * 4);
    times.ensure(samples * 8 + MARGIN_BYTES);
    values.ensure(samples * 8 + MARGIN_BYTES);
  }

  #walk(table: Address, after: number, rawBytes: number): number {
    const { entries, references, times, values, labels, raw } = this.#space;
    const { series, samples } = this.#room;
    this.reserve(series, samples);
    labels.ensure(rawBytes);
    return this.#kernel.calls.walkKnownSeries(
      table,
      after,
      references.address,
      raw.address,
      rawBytes,
      entries.address,
      series,
      times.address,
      values.address,
      samples,
      labels.address,
    );
  }

  #walk2(rawBytes: number): number {
    const { entries, times, values, labels, symbols, raw } = this.#space;
    const room = this.#room;
    this.reserve(room.series, room.samples);
    symbols.ensure(room.symbols * SYMBOL_BYTES);
    labels.ensure(room.labelBytes + MARGIN_BYTES);
    return this.#kernel.calls.walkWriteRequest2(
      raw.address,
      rawBytes,
      entries.address,
      room.series,
      times.address,
      values.address,
      room.samples,
      symbols.address,
      room.symbols,
      labels.address,
      room.labelBytes,
    );
  }

  /** Doubles the room, within the limits; false when it is at all of them. */
  #grow(): boolean {
    const { series, samples, symbols, labelBytes } = this.#room;
    const grown = {
      series: Math.min(2 * series, REQUEST_LIMITS.series),
      samples: Math.min(2 * samples, REQUEST_LIMITS.samples),
      symbols: Math.min(2 * symbols, REQUEST_LIMITS.symbols),
      labelBytes: Math.min(2 * labelBytes, REQUEST_LIMITS.labelBytes),
    };
    const limits = REQUEST_LIMITS;
    const isAtLimits =
      series === limits.series &&
      samples === limits.samples &&
      symbols === limits.symbols &&
      labelBytes === limits.labelBytes;
    this.#room = grown;
    return !isAtLimits;
  }
}

function faultOf(result: number): KernelFault {
  try {
    checked(result);
  } catch (error) {
    if (error instanceof KernelFault) return error;
    throw error;
  }
  throw new Error(`assertion failed: ${result} is no fault`);
}

function invalid(fault: KernelFault): VarveError {
  return new VarveError('WRITE_INVALID', `the body is no remote write request: ${fault.message}`, {
    hint: `A request has at most ${REQUEST_LIMITS.series} series and ${REQUEST_LIMITS.samples} samples.`,
    cause: fault,
  });
}
