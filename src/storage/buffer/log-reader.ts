import { checked, KernelFault } from '../kernel/kernel-fault.ts';
import { MAX_SERIES, type Address } from '../kernel/kernel.ts';
import { overloaded, type BufferMemory } from './buffer-memory.ts';
import type { LogReaderState } from './log-writer.ts';

/** A payload in the working space: rows of reference, time and value. */
export interface ReadPayload {
  readonly version: bigint;
  readonly samples: number;
  /** Samples of series that no payload that was read has named. */
  readonly orphans: number;
}

const MARGIN_BYTES = 64;

/** Reads the log payloads of a namespace in their order, and makes the series that they name. */
export class LogReader {
  readonly #memory: BufferMemory;
  readonly #table: Address;
  #state: Address = 0;

  constructor(memory: BufferMemory, table: Address) {
    this.#memory = memory;
    this.#table = table;
  }

  /** Undefined when it builds upon a payload that was not read, or is none. @throws STORAGE_OVERLOADED */
  read(payload: Uint8Array): ReadPayload | undefined {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    this.#state ||= calls.createLogState();
    if (this.#state === 0) throw overloaded(this.#memory.limitBytes);
    try {
      const from = space.raw.put(payload);
      checked(calls.openLogWrite(this.#state, this.#table, from, payload.length));
      const samples = this.#readSamples();
      const orphans = calls.mapReferences(this.#state, space.references.address, samples);
      return { version: calls.logVersion(), samples, orphans };
    } catch (error) {
      if (!(error instanceof KernelFault)) throw error;
      calls.breakLogState(this.#state);
      if (error.fault === 'OUT_OF_MEMORY') throw overloaded(this.#memory.limitBytes);
      return undefined;
    }
  }

  /** Goes on where a writer was, in memory that is the same. @throws STORAGE_OVERLOADED */
  adopt({ state, epoch, ordinal }: LogReaderState): void {
    const { calls } = this.#memory.kernel;
    this.#state = state;
    if (calls.becomeReader(state, BigInt(epoch), ordinal, calls.seriesCount(this.#table)) === 0) {
      throw overloaded(this.#memory.limitBytes);
    }
  }

  dispose(): void {
    if (this.#state !== 0) this.#memory.kernel.calls.freeLogState(this.#state);
    this.#state = 0;
  }

  #readSamples(): number {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    // A sample has a byte at least.
    const capacity = calls.logMaxSamples();
    const references = space.references.ensure(capacity * 4);
    const times = space.times.ensure(capacity * 8 + MARGIN_BYTES);
    const values = space.values.ensure(capacity * 8 + MARGIN_BYTES);
    return checked(
      calls.decodeLogSamples(
        this.#state,
        calls.logSamplesAt(),
        capacity,
        MAX_SERIES,
        references,
        times,
        values,
        capacity,
      ),
    );
  }
}
