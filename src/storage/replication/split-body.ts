import { VarveError } from '../../core/errors.ts';
import { BufferMemory } from '../buffer/buffer-memory.ts';
import { REQUEST_LIMITS } from '../buffer/request-decoder.ts';
import { LabelCursor } from '../index/labels.ts';
import { KernelFault, checked } from '../kernel/kernel-fault.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { canonicalLabels, encodeLabels } from '../kernel/remote-write.ts';
import type { ProtocolKernel } from '../protocol/protocol-kernel.ts';
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
  readonly #cursor = new LabelCursor();

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
    const reader = new FieldReader(message, 0, message.length);
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
    const reader = new FieldReader(message, series.content, series.end);
    let labelsEnd = series.content;
    let isTogether = true;
    while (reader.next()) {
      fields.count(reader.tag, EXEMPLAR_1, HISTOGRAM_1);
      if (reader.tag !== LABEL) continue;
      isTogether &&= reader.start === labelsEnd;
      labelsEnd = reader.end;
    }
    if (isTogether && this.#isCanonical(message, series.content, labelsEnd)) {
      return shardOf(message.subarray(series.content, labelsEnd), shardCount);
    }
    return shardOfAny(message.subarray(series.content, series.end), shardCount);
  }

  /** As senders have labels as a rule: in order, none empty, none twice. */
  #isCanonical(bytes: Uint8Array, start: number, end: number): boolean {
    const cursor = this.#cursor;
    cursor.reset(bytes, start, end);
    let [lastStart, lastStop] = [start, start];
    while (cursor.next()) {
      const [nameStart, nameStop] = [cursor.start, cursor.stop];
      const last = bytes.subarray(lastStart, lastStop);
      if (Buffer.compare(last, bytes.subarray(nameStart, nameStop)) >= 0) return false;
      if (!cursor.next() || cursor.start === cursor.stop) return false;
      [lastStart, lastStop] = [nameStart, nameStop];
    }
    return !cursor.broken && end > start;
  }

  #fields2(message: Uint8Array, routing: Routing): SplitFields {
    const fields = new SplitFields(routing);
    const symbols: Uint8Array[] = [];
    const reader = new FieldReader(message, 0, message.length);
    while (reader.next()) {
      if (reader.tag !== SYMBOL_2) continue;
      symbols.push(message.subarray(reader.content, reader.end));
      fields.addToAll(reader.start, reader.end);
    }
    const series = new FieldReader(message, 0, message.length);
    while (series.next()) {
      if (series.tag !== SERIES_2) continue;
      const labels = labelsOf(message, series, { symbols, fields });
      fields.add(shardOfAny(labels, routing.shardCount), series.start, series.end);
    }
    return fields;
  }

  #assemble(message: Uint8Array, fields: SplitFields, targets: TargetsOf): SplitBody {
    const groups = fields.groups();
    const places = new Set(groups.flatMap((group) => targets(group)));
    const bodies = new Map<number, Uint8Array>();
    for (const place of places) {
      const own = groups.filter((group) => targets(group).includes(place));
      bodies.set(place, this.#kernel.encodeSnappy(fields.join(message, own)));
    }
    const { samples, exemplars, histograms } = fields;
    return { groups, bodies, samples, exemplars, histograms };
  }
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

  join(message: Uint8Array, groups: readonly number[]): Uint8Array {
    const lists = [this.#common, ...groups.map((group) => this.#parts[group] ?? [])];
    let sizeBytes = 0;
    for (const list of lists) {
      for (let i = 0; i < list.length; i += 2) sizeBytes += (list[i + 1] as number) - (list[i] as number);
    }
    const joined = new Uint8Array(sizeBytes);
    let at = 0;
    for (const list of lists) {
      for (let i = 0; i < list.length; i += 2) {
        const part = message.subarray(list[i], list[i + 1]);
        joined.set(part, at);
        at += part.length;
      }
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
  readonly #bytes: Uint8Array;
  readonly #stop: number;

  constructor(bytes: Uint8Array, start: number, stop: number) {
    this.#bytes = bytes;
    this.end = start;
    this.#stop = stop;
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

/** The labels of a series of version 2, as version 1 has them. */
function labelsOf(
  message: Uint8Array,
  series: FieldReader,
  { symbols, fields }: { readonly symbols: readonly Uint8Array[]; readonly fields: SplitFields },
): Uint8Array {
  const pairs: { name: Uint8Array; value: Uint8Array }[] = [];
  let name: Uint8Array | undefined;
  const reader = new FieldReader(message, series.content, series.end);
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
