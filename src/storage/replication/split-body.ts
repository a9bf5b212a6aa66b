import { VarveError } from '../../core/errors.ts';
import { BufferMemory } from '../buffer/buffer-memory.ts';
import { REQUEST_LIMITS } from '../buffer/request-decoder.ts';
import { KernelFault, checked } from '../kernel/kernel-fault.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { canonicalLabels, encodeLabels } from '../kernel/remote-write.ts';
import { snappyLength, type ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { ColumnsWriter, readColumns } from './columns-body.ts';
import type { ReplicaFormat } from './replica-transport.ts';
import type { Routing } from './routing.ts';

/** One body as the instances are to have it. */
export interface SplitBody {
  /** Groups of shards that it has series of. */
  readonly groups: readonly number[];
  /** By place of the instance. */
  readonly bodies: ReadonlyMap<number, Uint8Array>;
  readonly samples: number;
  /** What is in it and is not kept. */
  readonly exemplars: number;
  readonly histograms: number;
}

/** Places of the instances that get a group. */
export type TargetsOf = (group: number) => readonly number[];

const MEMORY_BYTES = 256 * 1024 * 1024;
const MARGIN_BYTES = 64;

const SERIES_1 = 0x0a;
const SYMBOL_2 = 0x22;
const SERIES_2 = 0x2a;
const LABEL = 0x0a;
const REFERENCES = 0x0a;
const SAMPLE = 0x12;
const EXEMPLAR_1 = 0x1a;
const HISTOGRAM_1 = 0x22;
const HISTOGRAM_2 = 0x1a;
const EXEMPLAR_2 = 0x22;

/**
 * Takes bodies apart by shard. Series are copied as they are, with all that is in them: samples are not looked at.
 * What no series can be made of goes where its bytes lead; the replicas there refuse it.
 */
export class BodySplitter {
  readonly #kernel: ProtocolKernel;
  #memory: BufferMemory | undefined;
  readonly #reader = new FieldReader();

  constructor(kernel: ProtocolKernel) {
    this.#kernel = kernel;
  }

  /** To all that have a shard, unless `targets` says otherwise. @throws WRITE_INVALID */
  split(
    format: ReplicaFormat,
    body: Uint8Array,
    routing: Routing,
    targets: TargetsOf = (group) => routing.groups[group]?.writers ?? [],
  ): SplitBody {
    if (format === 'columns') return splitColumns(body, routing, targets);
    try {
      const message = this.#decompress(body);
      const fields = format === 1 ? this.#fields1(message, routing) : this.#fields2(message, routing);
      return this.#assemble(message, fields, targets);
    } catch (error) {
      if (!(error instanceof KernelFault)) throw error;
      throw new VarveError('WRITE_INVALID', `the body is no remote write request: ${error.message}`, {
        cause: error,
      });
    }
  }

  /** A view of the kernel's memory. */
  #decompress(body: Uint8Array): Uint8Array {
    this.#memory ??= new BufferMemory({ limitBytes: MEMORY_BYTES });
    const { kernel, space } = this.#memory;
    if (body.length > REQUEST_LIMITS.bodyBytes) throw new KernelFault('TOO_LARGE');
    const from = space.input.put(body);
    const sizeBytes = checked(kernel.calls.snappyLength(from, body.length));
    if (sizeBytes > REQUEST_LIMITS.bodyBytes) throw new KernelFault('TOO_LARGE');
    const out = space.raw.ensure(sizeBytes + MARGIN_BYTES);
    checked(kernel.calls.decodeSnappy(from, body.length, out, sizeBytes));
    return kernel.bytes.subarray(out, out + sizeBytes);
  }

  #fields1(message: Uint8Array, routing: Routing): SplitFields {
    const fields = new SplitFields(routing);
    const reader = new FieldReader().over(message, 0, message.length);
    while (reader.next()) {
      if (reader.tag !== SERIES_1) continue;
      fields.add(this.#shard1(message, reader, { fields, routing }), reader.start, reader.end);
    }
    return fields;
  }

  #shard1(
    message: Uint8Array,
    series: FieldReader,
    { fields, routing }: { readonly fields: SplitFields; readonly routing: Routing },
  ): number {
    const { shardCount } = routing;
    const labelsEnd = canonicalEnd(message, series.content, series.end);
    const reader = this.#reader.over(message, labelsEnd, series.end);
    let isCanonical = labelsEnd > series.content;
    while (reader.next()) {
      fields.count(reader.tag, EXEMPLAR_1, HISTOGRAM_1);
      isCanonical &&= reader.tag !== LABEL;
    }
    if (isCanonical) return murmur3(message, 0, series.content, labelsEnd) % shardCount;
    return shardOfAny(message.subarray(series.content, series.end), shardCount);
  }

  #fields2(message: Uint8Array, routing: Routing): SplitFields {
    const fields = new SplitFields(routing);
    const symbols: Uint8Array[] = [];
    const reader = new FieldReader().over(message, 0, message.length);
    while (reader.next()) {
      if (reader.tag !== SYMBOL_2) continue;
      symbols.push(message.subarray(reader.content, reader.end));
      fields.addToAll(reader.start, reader.end);
    }
    const series = new FieldReader().over(message, 0, message.length);
    while (series.next()) {
      if (series.tag !== SERIES_2) continue;
      const labels = labelsOf(message, series, { symbols, fields });
      fields.add(shardOfAny(labels, routing.shardCount), series.start, series.end);
    }
    return fields;
  }

  /** Each part is compressed once, for all that get it. */
  #assemble(message: Uint8Array, fields: SplitFields, targets: TargetsOf): SplitBody {
    const groups = fields.groups();
    const common = this.#compress(fields.join(message, undefined));
    const parts = new Map<number, CompressedPart[]>();
    for (const group of groups) {
      const part = this.#compress(fields.join(message, group));
      for (const place of targets(group)) {
        const own = parts.get(place) ?? [common];
        own.push(part);
        parts.set(place, own);
      }
    }
    const bodies = new Map([...parts].map(([place, own]) => [place, joinParts(own)]));
    const { samples, exemplars, histograms } = fields;
    return { groups, bodies, samples, exemplars, histograms };
  }

  #compress(bytes: Uint8Array): CompressedPart {
    return { bytes: bytes.length, elements: [...this.#kernel.snappyPieces(bytes)] };
  }
}

/** Elements of a block of snappy that stand for so many bytes, and refer to nothing before them. */
interface CompressedPart {
  readonly bytes: number;
  readonly elements: readonly Uint8Array[];
}

function joinParts(parts: readonly CompressedPart[]): Uint8Array {
  const sizeBytes = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  return Buffer.concat([snappyLength(sizeBytes), ...parts.flatMap(({ elements }) => elements)]);
}

/** Which parts of a message go where. */
class SplitFields {
  samples = 0;
  exemplars = 0;
  histograms = 0;
  readonly #routing: Routing;
  /** By group: start and end, alternating. */
  readonly #parts: (number[] | undefined)[] = [];
  readonly #common: number[] = [];

  constructor(routing: Routing) {
    this.#routing = routing;
  }

  add(shard: number, start: number, end: number): void {
    const group = this.#routing.groupOf(shard);
    (this.#parts[group] ??= []).push(start, end);
  }

  addToAll(start: number, end: number): void {
    this.#common.push(start, end);
  }

  count(tag: number, exemplar: number, histogram: number): void {
    if (tag === SAMPLE) this.samples++;
    else if (tag === exemplar) this.exemplars++;
    else if (tag === histogram) this.histograms++;
  }

  groups(): number[] {
    return this.#parts.flatMap((parts, group) => (parts ? [group] : []));
  }

  /** What a group has; what all get, of none. */
  join(message: Uint8Array, group: number | undefined): Uint8Array {
    const list = group === undefined ? this.#common : (this.#parts[group] ?? []);
    let sizeBytes = 0;
    for (let i = 0; i < list.length; i += 2) sizeBytes += (list[i + 1] as number) - (list[i] as number);
    const joined = new Uint8Array(sizeBytes);
    let at = 0;
    for (let i = 0; i < list.length; i += 2) {
      const [start, end] = [list[i] as number, list[i + 1] as number];
      // Most are short.
      for (let from = start; from < end; from++) joined[at++] = message[from] as number;
    }
    return joined;
  }
}

/** Goes over the fields of a message without making anything. @throws KernelFault */
class FieldReader {
  tag = 0;
  /** Of the field, with its tag. */
  start = 0;
  content = 0;
  end = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #stop = 0;

  /** May be used again and again. */
  over(bytes: Uint8Array, start: number, stop: number): this {
    this.#bytes = bytes;
    this.end = start;
    this.#stop = stop;
    return this;
  }

  next(): boolean {
    if (this.end >= this.#stop) return false;
    this.start = this.end;
    this.content = this.start;
    this.tag = this.#number();
    switch (this.tag & 7) {
      case 0:
        this.end = this.content;
        this.#skipNumber();
        break;
      case 1:
        this.end = this.content + 8;
        break;
      case 2:
        this.end = this.#number();
        this.end += this.content;
        break;
      case 5:
        this.end = this.content + 4;
        break;
      default:
        throw new KernelFault('BAD_TAG');
    }
    if (this.end > this.#stop) throw new KernelFault('TRUNCATED');
    return true;
  }

  /** A length or a tag: 31 bits. Moves `content` behind it. */
  #number(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      if (this.content >= this.#stop) throw new KernelFault('TRUNCATED');
      const byte = this.#bytes[this.content++] as number;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new KernelFault('BAD_VARINT');
  }

  #skipNumber(): void {
    for (let bytes = 0; ; bytes++) {
      if (bytes === 10) throw new KernelFault('BAD_VARINT');
      if (this.end >= this.#stop) throw new KernelFault('TRUNCATED');
      if ((this.#bytes[this.end++] as number) < 0x80) return;
    }
  }
}

const NAME = 0x0a;
const VALUE = 0x12;

/**
 * Where the labels end that a series begins with, if they are as senders have them as a rule, and as the ID of a series
 * has them: by ascending names, none empty, each with lengths below 128. `start` when the first is not so.
 */
function canonicalEnd(bytes: Uint8Array, start: number, stop: number): number {
  let end = start;
  let [lastName, lastLength] = [start, 0];
  while (end + 6 < stop && bytes[end] === LABEL) {
    const labelEnd = end + 2 + (bytes[end + 1] as number);
    const name = end + 4;
    const nameLength = bytes[end + 3] as number;
    const value = name + nameLength + 2;
    const isWell =
      (bytes[end + 1] as number) < 0x80 &&
      labelEnd <= stop &&
      bytes[end + 2] === NAME &&
      value < labelEnd &&
      bytes[value - 2] === VALUE &&
      value + (bytes[value - 1] as number) === labelEnd &&
      isBehind(bytes, [lastName, lastLength], [name, nameLength]);
    if (!isWell) return start;
    [lastName, lastLength] = [name, nameLength];
    end = labelEnd;
  }
  return end;
}

/** Whether the second text is greater, by its bytes. */
function isBehind(
  bytes: Uint8Array,
  [one, oneLength]: readonly [number, number],
  [other, otherLength]: readonly [number, number],
): boolean {
  const length = Math.min(oneLength, otherLength);
  for (let i = 0; i < length; i++) {
    const difference = (bytes[other + i] as number) - (bytes[one + i] as number);
    if (difference !== 0) return difference > 0;
  }
  return otherLength > oneLength;
}

/** The labels of a series of version 2, as version 1 has them. */
function labelsOf(
  message: Uint8Array,
  series: FieldReader,
  { symbols, fields }: { readonly symbols: readonly Uint8Array[]; readonly fields: SplitFields },
): Uint8Array {
  const pairs: { name: Uint8Array; value: Uint8Array }[] = [];
  let name: Uint8Array | undefined;
  const reader = new FieldReader().over(message, series.content, series.end);
  while (reader.next()) {
    fields.count(reader.tag, EXEMPLAR_2, HISTOGRAM_2);
    const isPacked = reader.tag === REFERENCES;
    if (!isPacked && reader.tag !== 0x08) continue;
    for (let at = reader.content; at < reader.end;) {
      let [reference, scale] = [0, 1];
      for (let byte = 0x80; byte >= 0x80; scale *= 128) {
        if (at >= reader.end || scale > 2 ** 35) throw new KernelFault('BAD_REFERENCE');
        byte = message[at++] as number;
        reference += (byte & 0x7f) * scale;
      }
      const symbol = symbols[reference];
      if (symbol === undefined) throw new KernelFault('BAD_REFERENCE');
      if (name === undefined) name = symbol;
      else {
        pairs.push({ name, value: symbol });
        name = undefined;
      }
    }
  }
  if (name !== undefined) throw new KernelFault('BAD_COUNT');
  return encodeLabels(pairs);
}

export function shardOf(canonical: Uint8Array, shardCount: number): number {
  return murmur3(canonical, 0) % shardCount;
}

/** Of labels in any form, perhaps with more behind them; some shard of those that are no labels of a series. */
export function shardOfAny(labels: Uint8Array, shardCount: number): number {
  try {
    return shardOf(canonicalLabels(labels), shardCount);
  } catch (error) {
    if (!(error instanceof KernelFault)) throw error;
    return shardOf(labels, shardCount);
  }
}

function splitColumns(body: Uint8Array, routing: Routing, targets: TargetsOf): SplitBody {
  const writers = routing.instances.map(() => new ColumnsWriter());
  const groups = new Set<number>();
  let samples = 0;
  for (const { labels, columns } of readColumns(body)) {
    const group = routing.groupOf(shardOfAny(labels, routing.shardCount));
    groups.add(group);
    samples += columns.times.length;
    for (const place of targets(group)) writers[place]?.add(labels, columns);
  }
  const bodies = writers.flatMap((writer, place) =>
    writer.length === 0 ? [] : [[place, writer.take()] as const],
  );
  return { groups: [...groups], bodies: new Map(bodies), samples, exemplars: 0, histograms: 0 };
}
