import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';
import { decodeLogSamples, encodeLogSamples, type LogSample, LogState } from './log-batch.ts';

/**
 * The plain counterpart of `assembly/log-write.ts`: the log batch of a write. `docs/formats/commit-log-batch.md` draws
 * the bytes.
 */
export interface LogWrite {
  /** 0, 1: values restart, 3: names too. */
  readonly flags: number;
  readonly epoch: bigint;
  readonly version: bigint;
  readonly ordinal: number;
  /** The series that were not named since the epoch began. */
  readonly named: readonly { readonly number: number; readonly labels: Uint8Array }[];
  readonly samples: readonly LogSample[];
}

const WRITE = 4;
const FIXED_BYTES = 18;
const RESTARTS_VALUES = 1;
const RESTARTS_NAMES = 2;
const COUNT_BYTES = 4;
const MAX_NUMBER = 1n << 32n;

export function encodeLogWrite(state: LogState, write: LogWrite): Uint8Array {
  if (write.flags !== 0) state.restart();
  const writer = new ByteWriter();
  writer.byte(WRITE);
  writer.byte(write.flags);
  writer.littleEndian64(BigInt.asUintN(64, write.epoch));
  writer.littleEndian64(BigInt.asUintN(64, write.version));
  writer.varint(write.ordinal);
  // The writer counts while it writes, so the count has a fixed width.
  for (let i = 0, rest = write.named.length; i < COUNT_BYTES; i++, rest >>= 7) {
    writer.byte((rest & 127) | (i < COUNT_BYTES - 1 ? 128 : 0));
  }
  let expected = 0;
  for (const { number, labels } of write.named) {
    writer.zigzag(BigInt(number - expected));
    writer.varint(labels.length);
    writer.append(labels);
    expected = number + 1;
  }
  writer.append(encodeLogSamples(state, false, write.samples));
  return writer.toBytes();
}

/** What a reader knows beside the state of its samples. */
export class LogWriteReader {
  readonly #state = new LogState();
  #epoch: bigint | undefined;
  #expected: number | undefined;
  #names = new Map<number, Uint8Array>();

  /** The next write of the epoch can be read only if it restarts. */
  break(): void {
    this.#expected = undefined;
  }

  /** Samples with the labels of their series; undefined where a number has none. @throws KernelFault */
  read(
    bytes: Uint8Array,
    limits: { readonly maxReference: number; readonly capacity: number },
  ): { version: bigint; samples: (Omit<LogSample, 'reference'> & { labels: Uint8Array | undefined })[] } {
    if (bytes.length < FIXED_BYTES + 2) throw new KernelFault('TRUNCATED');
    const reader = new ByteReader(bytes);
    const kind = reader.byte();
    const flags = reader.byte();
    if (kind !== WRITE || flags > 3 || flags === RESTARTS_NAMES) throw new KernelFault('BAD_HEADER');
    const epoch = BigInt.asIntN(64, reader.littleEndian64());
    const version = BigInt.asIntN(64, reader.littleEndian64());
    const ordinal = Number(BigInt.asUintN(32, reader.varint()));
    const named = reader.varint();
    const sameEpoch = this.#epoch === epoch;
    const follows = sameEpoch && this.#expected === ordinal;
    this.#expected = undefined;
    if (flags === 0 && !follows) throw new KernelFault('OUT_OF_SEQUENCE');
    if ((flags & RESTARTS_VALUES) !== 0) this.#state.restart();
    if ((flags & RESTARTS_NAMES) !== 0 || !sameEpoch) this.#names = new Map();
    this.#epoch = epoch;
    this.#readNames(reader, named);
    this.#expected = (ordinal + 1) >>> 0;
    const rest = Uint8Array.from(reader.take(reader.left));
    const samples = decodeLogSamples(this.#state, rest, { ...limits, capacity: rest.length });
    return {
      version,
      samples: samples.map(({ reference, time, value }) => ({
        time,
        value,
        labels: this.#names.get(reference),
      })),
    };
  }

  #readNames(reader: ByteReader, named: bigint): void {
    let number = 0n;
    for (let i = 0n; i < named; i++) {
      number += reader.zigzag();
      const size = reader.varint();
      if (size > reader.left) throw new KernelFault('TRUNCATED');
      const labels = Uint8Array.from(reader.take(Number(size)));
      if (number >= 0n && number < MAX_NUMBER) this.#names.set(Number(number), labels);
      number++;
    }
  }
}
