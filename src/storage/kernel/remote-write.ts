import { ByteWriter } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';
import { BYTES, FIXED64, VARINT, fieldsOf } from './protobuf-reader.ts';

/**
 * The plain counterpart of `assembly/remote-write.ts` and `assembly/label-set.ts`: what is in the body of a
 * remote write 1.0 request, and the canonical form of a label set.
 */
export interface WalkedSeries {
  /** The labels as they stand in the message: not looked into, in no certain order. */
  readonly labels: Uint8Array;
  /** Nanoseconds since the Unix epoch. */
  readonly times: readonly bigint[];
  /** The bits of doubles. */
  readonly values: readonly bigint[];
}

export interface WalkedRequest {
  readonly series: readonly WalkedSeries[];
  /** What is not stored. */
  readonly exemplars: number;
  readonly histograms: number;
}

export interface WalkLimits {
  readonly maxSeries: number;
  readonly maxSamples: number;
}

const MAX_MS = 9_223_372_036_854n;
const MAX_NS = (1n << 63n) - 1n;

/** @throws KernelFault */
export function walkWriteRequest(body: Uint8Array, limits: WalkLimits): WalkedRequest {
  const series: WalkedSeries[] = [];
  let [samples, exemplars, histograms] = [0, 0, 0];
  for (const field of fieldsOf(body, { 1: BYTES })) {
    if (field.number !== 1) continue;
    if (series.length === limits.maxSeries) throw new KernelFault('TOO_LARGE');
    const labels = new ByteWriter();
    const times: bigint[] = [];
    const values: bigint[] = [];
    for (const inner of fieldsOf(field.content, { 1: BYTES, 2: BYTES })) {
      if (inner.number === 1) {
        labels.append(inner.whole);
      } else if (inner.number === 2) {
        if (samples === limits.maxSamples) throw new KernelFault('TOO_LARGE');
        const { time, value } = readSample(inner.content);
        times.push(time);
        values.push(value);
        samples++;
      } else if (inner.number === 3) exemplars++;
      else if (inner.number === 4) histograms++;
    }
    series.push({ labels: labels.toBytes(), times, values });
  }
  return { series, exemplars, histograms };
}

export function readSample(message: Uint8Array): { time: bigint; value: bigint } {
  let ms = 0n;
  let value = 0n;
  for (const field of fieldsOf(message, { 1: FIXED64, 2: VARINT })) {
    if (field.number === 1) {
      value = new DataView(field.content.buffer).getBigUint64(0, true);
    } else if (field.number === 2) {
      ms = BigInt.asIntN(64, field.integer);
    }
  }
  const time = ms > MAX_MS ? MAX_NS : ms < -MAX_MS ? -MAX_NS - 1n : ms * 1_000_000n;
  return { time, value };
}

const MAX_LABELS = 256;
const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * The canonical form of labels: sorted by the bytes of their names, without empty values, with minimal lengths.
 * @throws KernelFault when the labels cannot be those of a series
 */
export function canonicalLabels(labels: Uint8Array): Uint8Array {
  const found: { name: Uint8Array; value: Uint8Array }[] = [];
  for (const field of fieldsOf(labels, { 1: BYTES })) {
    if (field.number !== 1) continue;
    if (found.length === MAX_LABELS) throw new KernelFault('TOO_LARGE');
    const label = readLabel(field.content);
    if (label.value.length > 0) found.push(label);
  }
  found.sort((one, other) => Buffer.compare(one.name, other.name));
  if (found.some(({ name }, i) => i > 0 && Buffer.compare(name, found[i - 1]?.name ?? name) === 0)) {
    throw new KernelFault('DUPLICATE_LABEL');
  }
  if (found.length === 0) throw new KernelFault('NO_LABELS');
  return encodeLabels(found);
}

function readLabel(message: Uint8Array): { name: Uint8Array; value: Uint8Array } {
  const texts: Uint8Array[] = [new Uint8Array(), new Uint8Array()];
  for (const field of fieldsOf(message, { 1: BYTES, 2: BYTES })) {
    if (field.number > 2) continue;
    try {
      utf8.decode(field.content);
    } catch {
      throw new KernelFault('BAD_UTF8');
    }
    texts[field.number - 1] = field.content;
  }
  const [name = new Uint8Array(), value = new Uint8Array()] = texts;
  if (name.length === 0) throw new KernelFault('EMPTY_LABEL_NAME');
  return { name, value };
}

/** Labels as fields 1 of a series message, in the order given. */
export function encodeLabels(labels: readonly { name: Uint8Array; value: Uint8Array }[]): Uint8Array {
  const writer = new ByteWriter();
  for (const { name, value } of labels) {
    const label = new ByteWriter();
    for (const [tag, text] of [
      [0x0a, name],
      [0x12, value],
    ] as const) {
      label.byte(tag);
      label.varint(text.length);
      label.append(text);
    }
    writer.byte(0x0a);
    writer.varint(label.length);
    writer.append(label.toBytes());
  }
  return writer.toBytes();
}
