import { VarveError } from '../../core/errors.ts';
import { BufferMemory } from '../buffer/buffer-memory.ts';
import { REQUEST_LIMITS } from '../buffer/request-decoder.ts';
import { KernelFault, checked } from '../kernel/kernel-fault.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { canonicalLabels, encodeLabels } from '../kernel/remote-write.ts';
import { varintBytes } from '../protocol/protobuf-writer.ts';
import { snappyLength } from '../protocol/protocol-kernel.ts';
import { ColumnsWriter, readColumns } from './columns-body.ts';
import { FieldReader } from './field-reader.ts';
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

const MEMORY_BYTES = 512 * 1024 * 1024;
const MARGIN_BYTES = 64;
const FIRST_SERIES = 4096;
/** What is compressed at once: snappy's own blocks have 64 KiB. */
const PIECE_BYTES = 256 * 1024;

const SYMBOL_2 = 0x22;
const SERIES_2 = 0x2a;
const REFERENCES = 0x0a;
const SAMPLE = 0x12;
const HISTOGRAM_2 = 0x1a;
const EXEMPLAR_2 = 0x22;

/** Of a part in the kernel's memory: 32-bit numbers. */
const PART = { address: 0, sizeBytes: 1, group: 2, length: 3 } as const;
const PART_BYTES = 4 * PART.length;
/** Of a part that the kernel cannot tell the shard of. */
const UNKNOWN = 2 ** 32 - 1;

/** A message that was taken apart: its parts are in the kernel's memory. */
interface Cut {
  readonly parts: number;
  readonly samples: number;
  readonly exemplars: number;
  readonly histograms: number;
}

/** A region of the kernel's memory. */
interface Span {
  readonly address: number;
  readonly sizeBytes: number;
}

/**
 * Takes bodies apart by shard. Series are copied as they are, with all that is in them: samples are not looked at.
 * What no series can be made of goes where its bytes lead; the replicas there refuse it. All of it happens in the memory
 * of kernels that nobody else uses, so that a series costs as much as its bytes do.
 */
export class BodySplitter {
  #kernels: BufferMemory | undefined;
  #room = FIRST_SERIES;
  readonly #reader = new FieldReader();

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
      const cut = format === 1 ? this.#cut1(message, routing) : this.#cut2(message, routing);
      return this.#assemble(cut, routing, targets);
    } catch (error) {
      if (!(error instanceof KernelFault)) throw error;
      throw new VarveError('WRITE_INVALID', `the body is no remote write request: ${error.message}`, {
        cause: error,
      });
    }
  }

  get #memory(): BufferMemory {
    this.#kernels ??= new BufferMemory({ limitBytes: MEMORY_BYTES });
    return this.#kernels;
  }

  #decompress(body: Uint8Array): Span {
    const { kernel, space } = this.#memory;
    if (body.length > REQUEST_LIMITS.bodyBytes) throw new KernelFault('TOO_LARGE');
    const from = space.input.put(body);
    const sizeBytes = checked(kernel.calls.snappyLength(from, body.length));
    if (sizeBytes > REQUEST_LIMITS.bodyBytes) throw new KernelFault('TOO_LARGE');
    const address = space.raw.ensure(sizeBytes + MARGIN_BYTES);
    checked(kernel.calls.decodeSnappy(from, body.length, address, sizeBytes));
    return { address, sizeBytes };
  }

  #cut1({ address, sizeBytes }: Span, routing: Routing): Cut {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const groups = space.references.put(routing.groupsOfShards);
    for (;;) {
      const parts = space.entries.ensure(this.#room * PART_BYTES);
      this.#clearSizes(routing);
      const count = calls.splitRequest(
        address,
        sizeBytes,
        parts,
        this.#room,
        groups,
        routing.shardCount,
        space.times.address,
      );
      if (!this.#hadRoom(count)) continue;
      if (calls.splitUnknown() > 0) this.#placeUnknown(count, routing);
      return {
        parts: count,
        samples: calls.splitSamples(),
        exemplars: calls.splitExemplars(),
        histograms: calls.splitHistograms(),
      };
    }
  }

  /** Makes more of it for another try. @throws KernelFault for a body that is none, or has too many series */
  #hadRoom(count: number): boolean {
    if (count >= 0) return true;
    try {
      checked(count);
    } catch (error) {
      const isFull = error instanceof KernelFault && error.fault === 'TOO_LARGE';
      if (!isFull || this.#room >= REQUEST_LIMITS.series) throw error;
    }
    this.#room = Math.min(2 * this.#room, REQUEST_LIMITS.series);
    return false;
  }

  /** Series whose labels have to be put in order, or are none. */
  #placeUnknown(count: number, routing: Routing): void {
    const { bytes } = this.#memory.kernel;
    const parts = this.#parts(count);
    const sizes = this.#sizes(routing);
    for (let at = 0; at < parts.length; at += PART.length) {
      if (parts[at + PART.group] !== UNKNOWN) continue;
      const start = parts[at + PART.address] as number;
      const sizeBytes = parts[at + PART.sizeBytes] as number;
      this.#reader.over(bytes, start, start + sizeBytes).next();
      const labels = bytes.subarray(this.#reader.content, this.#reader.end);
      const group = routing.groupOf(shardOfAny(labels, routing.shardCount));
      parts[at + PART.group] = group;
      sizes[group] = (sizes[group] as number) + sizeBytes;
    }
  }

  /** Symbols are for all. */
  #cut2({ address, sizeBytes }: Span, routing: Routing): Cut {
    const { kernel, space } = this.#memory;
    const fields = (): FieldReader => new FieldReader().over(kernel.bytes, address, address + sizeBytes);
    let count = 0;
    for (const reader = fields(); reader.next();) {
      if (reader.tag === SYMBOL_2 || reader.tag === SERIES_2) count++;
    }
    space.entries.ensure(count * PART_BYTES);
    this.#clearSizes(routing);
    // Where the memory is may be another place from here on.
    const parts = this.#parts(count);
    const sizes = this.#sizes(routing);
    let place = 0;
    const put = ({ start, end }: FieldReader, group: number): void => {
      parts.set([start, end - start, group], PART.length * place++);
      sizes[group] = (sizes[group] as number) + end - start;
    };
    const symbols: Uint8Array[] = [];
    for (const reader = fields(); reader.next();) {
      if (reader.tag !== SYMBOL_2) continue;
      symbols.push(kernel.bytes.subarray(reader.content, reader.end));
      put(reader, routing.groups.length);
    }
    const found = { samples: 0, exemplars: 0, histograms: 0 };
    for (const series = fields(); series.next();) {
      if (series.tag !== SERIES_2) continue;
      const labels = labelsOf(kernel.bytes, series, { symbols, found });
      put(series, routing.groupOf(shardOfAny(labels, routing.shardCount)));
    }
    return { parts: count, ...found };
  }

  /** Each group is compressed once, for all that get it. */
  #assemble(cut: Cut, routing: Routing, targets: TargetsOf): SplitBody {
    const { parts: count, samples, exemplars, histograms } = cut;
    const { kernel, space } = this.#memory;
    const sizes = this.#sizes(routing).slice();
    const total = sizes.reduce((sum, size) => sum + size, 0);
    let end = space.payload.ensure(total + MARGIN_BYTES);
    const places = sizes.map((size) => {
      end += size;
      return end - size;
    });
    kernel.calls.gatherParts(space.entries.address, count, space.values.put(places));
    const compressed = (group: number): CompressedPart =>
      this.#compress({ address: places[group] as number, sizeBytes: sizes[group] as number });
    const common = compressed(routing.groups.length);
    const groups = routing.groups.flatMap((_, group) => ((sizes[group] as number) > 0 ? [group] : []));
    const own = new Map<number, CompressedPart[]>();
    for (const group of groups) {
      const part = compressed(group);
      for (const place of targets(group)) {
        const list = own.get(place) ?? [common];
        list.push(part);
        own.set(place, list);
      }
    }
    const bodies = new Map([...own].map(([place, list]) => [place, joinParts(list)]));
    return { groups, bodies, samples, exemplars, histograms };
  }

  #compress({ address, sizeBytes }: Span): CompressedPart {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const out = space.sealedValues.ensure(calls.maxSnappyBytes(PIECE_BYTES));
    const scratch = space.scratch.ensure(calls.snappyScratchBytes());
    const elements: Uint8Array[] = [];
    for (let done = 0; done < sizeBytes; done += PIECE_BYTES) {
      const size = Math.min(PIECE_BYTES, sizeBytes - done);
      const end = out + checked(calls.encodeSnappy(address + done, size, out, scratch));
      elements.push(kernel.bytes.slice(out + varintBytes(size), end));
    }
    return { bytes: sizeBytes, elements };
  }

  #parts(count: number): Uint32Array {
    const { kernel, space } = this.#memory;
    return new Uint32Array(kernel.bytes.buffer, space.entries.address, PART.length * count);
  }

  /** Bytes of each group, and of what is for all behind them. */
  #sizes(routing: Routing): Uint32Array {
    const { kernel, space } = this.#memory;
    return new Uint32Array(kernel.bytes.buffer, space.times.address, routing.groups.length + 1);
  }

  #clearSizes(routing: Routing): void {
    this.#memory.space.times.ensure(4 * (routing.groups.length + 1));
    this.#sizes(routing).fill(0);
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

/** What series of version 2 have besides labels, counted. */
interface Found {
  samples: number;
  exemplars: number;
  histograms: number;
}

/** The labels of a series of version 2, as version 1 has them. */
function labelsOf(
  message: Uint8Array,
  series: FieldReader,
  { symbols, found }: { readonly symbols: readonly Uint8Array[]; readonly found: Found },
): Uint8Array {
  const pairs: { name: Uint8Array; value: Uint8Array }[] = [];
  let name: Uint8Array | undefined;
  const reader = new FieldReader().over(message, series.content, series.end);
  while (reader.next()) {
    if (reader.tag === SAMPLE) found.samples++;
    else if (reader.tag === EXEMPLAR_2) found.exemplars++;
    else if (reader.tag === HISTOGRAM_2) found.histograms++;
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
