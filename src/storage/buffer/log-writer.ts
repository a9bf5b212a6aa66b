import { checked, KernelFault } from '../kernel/kernel-fault.ts';
import { LOG_RESTART, type Address } from '../kernel/kernel.ts';
import { overloaded, type BufferMemory } from './buffer-memory.ts';

/** A batch in the working space. */
export interface LoggedSamples {
  readonly series: number;
  readonly samples: number;
}

/** The payloads of one epoch, which build upon each other; `brokenFrom` is the first that is not in the log. */
interface Chain {
  brokenFrom: number;
}

/** The place of a payload in its chain. */
export interface LogTicket {
  readonly chain: Chain;
  readonly ordinal: number;
}

/** The state of a writer as an image has it. */
export interface LogReaderState {
  readonly state: Address;
  readonly epoch: string;
  readonly ordinal: number;
}

/** A restart of values costs a full value for each series that is written: not more than a few percent of this. */
const LEAST_RESTART_BYTES = 4 * 1024 * 1024;
const RESTART_BYTES_PER_SERIES = 64;

/**
 * Makes the log payloads of a namespace. Each builds upon those before it, back to the last restart: values are coded
 * against the last ones of their series, and a series is named by its labels only once in an epoch.
 *
 * What the log refuses breaks the chain: a payload behind it cannot be read, even if the log took it, and must not be
 * acknowledged.
 */
export class LogWriter {
  readonly #memory: BufferMemory;
  readonly #table: Address;
  #state: Address = 0;
  #chain: Chain = { brokenFrom: Number.POSITIVE_INFINITY };
  #epoch = 0n;
  #ordinal = 0;
  #bytesSinceRestart = 0;
  /** What the next payload has to begin with. */
  #due: keyof typeof LOG_RESTART = 'names';

  constructor(memory: BufferMemory, table: Address) {
    this.#memory = memory;
    this.#table = table;
  }

  /** The next payload builds upon nothing. */
  beginEpoch(): void {
    this.#due = 'names';
  }

  /**
   * Encodes what is in the working space; the payload is a view of it. `epoch` is larger than every one before.
   * @throws STORAGE_OVERLOADED
   */
  encode(batch: LoggedSamples, version: bigint, epoch = version): { payload: Uint8Array; ticket: LogTicket } {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    this.#state ||= calls.createLogState();
    if (this.#state === 0) throw overloaded(this.#memory.limitBytes);
    this.#restartIfDue(epoch);
    const [entries, references] = [space.entries.address, space.references.address];
    const namesBytes = calls.maxLogNamesBytes(this.#state, this.#table, entries, batch.series, references);
    const out = space.payload.ensure(namesBytes + calls.maxLogSamplesBytes(batch.samples));
    const ticket = { chain: this.#chain, ordinal: this.#ordinal };
    const result = calls.encodeLogWrite(
      this.#state,
      this.#table,
      LOG_RESTART[this.#due],
      this.#epoch,
      version,
      this.#ordinal,
      entries,
      batch.series,
      references,
      space.times.address,
      space.values.address,
      out,
    );
    const sizeBytes = this.#checkedSize(result);
    this.#ordinal++;
    this.#due = 'none';
    this.#bytesSinceRestart += sizeBytes;
    return { payload: kernel.bytes.subarray(out, out + sizeBytes), ticket };
  }

  /** The log did not take this payload. */
  refused({ chain, ordinal }: LogTicket): void {
    chain.brokenFrom = Math.min(chain.brokenFrom, ordinal);
    if (chain === this.#chain) this.#due = 'names';
  }

  /** Whether all that a payload builds upon is in the log, of those that it has answered. */
  isWhole({ chain, ordinal }: LogTicket): boolean {
    return ordinal < chain.brokenFrom;
  }

  /** What a reader needs that goes on behind what was written; undefined when that builds upon nothing. */
  readerState(): LogReaderState | undefined {
    if (this.#state === 0 || this.#due === 'names') return undefined;
    return { state: this.#state, epoch: String(this.#epoch), ordinal: this.#ordinal };
  }

  listPages(out: Address, from: number): number {
    if (this.readerState() === undefined) return from;
    return this.#memory.kernel.calls.listLogPages(this.#state, out, from);
  }

  dispose(): void {
    if (this.#state !== 0) this.#memory.kernel.calls.freeLogState(this.#state);
    this.#state = 0;
  }

  #restartIfDue(epoch: bigint): void {
    const { calls } = this.#memory.kernel;
    const series = calls.seriesCount(this.#table);
    const limit = Math.max(LEAST_RESTART_BYTES, RESTART_BYTES_PER_SERIES * series);
    if (this.#due === 'none' && this.#bytesSinceRestart > limit) this.#due = 'values';
    if (this.#due === 'none') return;
    const restartsNames = this.#due === 'names';
    calls.restartLogState(this.#state, restartsNames ? 1 : 0);
    this.#bytesSinceRestart = 0;
    if (!restartsNames) return;
    this.#epoch = epoch;
    this.#ordinal = 0;
    this.#chain = { brokenFrom: Number.POSITIVE_INFINITY };
  }

  #checkedSize(result: number): number {
    try {
      return checked(result);
    } catch (error) {
      this.#due = 'names';
      if (error instanceof KernelFault && error.fault === 'OUT_OF_MEMORY')
        throw overloaded(this.#memory.limitBytes);
      throw error;
    }
  }
}
