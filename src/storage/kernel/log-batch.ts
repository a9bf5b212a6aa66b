import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';

/**
 * The plain counterpart of `assembly/log-batch.ts`: the samples in payloads of commit log batches.
 * `docs/formats/commit-log-batch.md` draws the bytes.
 */
export interface LogSample {
  readonly reference: number;
  /** Nanoseconds since the Unix epoch. */
  readonly time: bigint;
  /** The bits of a double. */
  readonly value: bigint;
}

const SAMPLES = 1;
const RESTARTED_SAMPLES = 2;
const NS_PER_MS = 1_000_000n;

/** Zero bytes behind and bytes kept, by code. */
const TRIMS: readonly (readonly [zeros: number, kept: number])[] = [
  [0, 0],
  ...[0, 1, 2, 3, 4, 5, 6, 7].flatMap((zeros) =>
    Array.from({ length: 8 - zeros }, (_, i) => [zeros, i + 1] as const),
  ),
];

/** What a writer or reader of a log knows: nothing at first, and again after each restart. */
export class LogState {
  readonly #values = new Map<number, bigint>();
  readonly #successors = new Map<number, number>();

  restart(): void {
    this.#values.clear();
    this.#successors.clear();
  }

  valueOf(reference: number): bigint {
    return this.#values.get(reference) ?? 0n;
  }

  expectedAfter(reference: number | undefined): number {
    if (reference === undefined) return 0;
    return this.#successors.get(reference) ?? reference + 1;
  }

  learn(before: number | undefined, reference: number, value: bigint): void {
    if (before !== undefined) this.#successors.set(before, reference);
    this.#values.set(reference, value);
  }
}

export function encodeLogSamples(
  state: LogState,
  restarts: boolean,
  samples: readonly LogSample[],
): Uint8Array {
  if (restarts) state.restart();
  const writer = new ByteWriter();
  writer.varint(restarts ? RESTARTED_SAMPLES : SAMPLES);
  writer.varint(samples.length);
  let before: LogSample | undefined;
  for (const sample of samples) {
    const expected = state.expectedAfter(before?.reference);
    const difference = BigInt.asIntN(64, sample.time - (before?.time ?? 0n));
    const xor = sample.value ^ state.valueOf(sample.reference);
    const code = codeOf(xor);
    const [zeros = 0, kept = 0] = TRIMS[code] ?? [];
    writer.byte((code << 2) | (difference === 0n ? 0 : 2) | (sample.reference === expected ? 0 : 1));
    if (sample.reference !== expected) writer.zigzag(BigInt(sample.reference - expected));
    if (difference !== 0n) writeTime(writer, difference);
    for (let i = zeros; i < zeros + kept; i++) writer.byte(Number((xor >> BigInt(8 * i)) & 255n));
    state.learn(before?.reference, sample.reference, sample.value);
    before = sample;
  }
  return writer.toBytes();
}

function codeOf(xor: bigint): number {
  const bytes = [0, 1, 2, 3, 4, 5, 6, 7].filter((i) => ((xor >> BigInt(8 * i)) & 255n) !== 0n);
  const [zeros = 0] = bytes;
  const kept = bytes.length === 0 ? 0 : (bytes.at(-1) ?? 0) + 1 - zeros;
  return TRIMS.findIndex((trim) => trim[0] === zeros && trim[1] === kept);
}

function writeTime(writer: ByteWriter, difference: bigint): void {
  if (difference % NS_PER_MS === 0n) return writer.zigzag((difference / NS_PER_MS) * 2n);
  writer.zigzag(1n);
  writer.littleEndian64(BigInt.asUintN(64, difference));
}

function readTime(reader: ByteReader): bigint {
  const coded = reader.zigzag();
  if ((coded & 1n) === 0n) return (coded >> 1n) * NS_PER_MS;
  if (coded !== 1n) throw new KernelFault('BAD_HEADER');
  return reader.littleEndian64();
}

/** Reads a payload of samples, `capacity` at most, with references below `maxReference`. @throws KernelFault */
export function decodeLogSamples(
  state: LogState,
  bytes: Uint8Array,
  limits: { readonly maxReference: number; readonly capacity: number },
): LogSample[] {
  const reader = new ByteReader(bytes);
  const { maxReference, capacity } = limits;
  const kind = reader.varint();
  const count = reader.varint();
  if (kind !== BigInt(SAMPLES) && kind !== BigInt(RESTARTED_SAMPLES)) throw new KernelFault('BAD_HEADER');
  if (count > capacity) throw new KernelFault('TOO_LARGE');
  if (kind === BigInt(RESTARTED_SAMPLES)) state.restart();
  const samples: LogSample[] = [];
  while (samples.length < Number(count)) {
    const before = samples.at(-1);
    const head = reader.byte();
    const [zeros, kept] = TRIMS[head >> 2] ?? [];
    if (zeros === undefined || kept === undefined) throw new KernelFault('BAD_HEADER');
    let next = BigInt(state.expectedAfter(before?.reference));
    if ((head & 1) !== 0) next = BigInt.asIntN(64, next + reader.zigzag());
    if (next < 0n || next >= maxReference) throw new KernelFault('BAD_REFERENCE');
    const time = (before?.time ?? 0n) + ((head & 2) === 0 ? 0n : readTime(reader));
    const reference = Number(next);
    const xor = reader.take(kept).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    const value = state.valueOf(reference) ^ (xor << BigInt(8 * zeros));
    state.learn(before?.reference, reference, value);
    samples.push({ reference, time: BigInt.asIntN(64, time), value });
  }
  reader.end();
  return samples;
}
