import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { labelBytes } from '../../src/storage/kernel/remote-write.suite.ts';
import { KERNEL_FILE, Kernel } from '../../src/storage/kernel/kernel.ts';
import { checked } from '../../src/storage/kernel/kernel-fault.ts';
import { labelsOf, timesOf, valuesOf, type DataSet } from '../storage-data.ts';

/** As Prometheus sends them in its largest requests. */
export const SAMPLES_PER_BODY = 2000;
const PIECE_BYTES = 8 << 20;

/** A file of remote write bodies, ready to be sent: `u32 lane, u32 length, bytes` each, little endian. */
export interface BodyFile {
  readonly path: string;
  readonly set: DataSet;
  readonly startMs: number;
  readonly bodies: number;
  readonly samples: number;
  readonly rawBytes: number;
  readonly snappyBytes: number;
}

/**
 * Writes a data set from `startMs` on as remote write 1.0 requests of 2,000 samples, one scrape of the fleet after
 * the other. Requests of one lane have the same series: sent in order over one connection, no sample is late.
 */
export function writeBodies(path: string, set: DataSet, startMs: number): BodyFile {
  const kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 64 << 20 });
  const { calls } = kernel;
  const lanes = lanesOf(set, startMs);
  const room = Math.max(...lanes.map(({ template }) => template.length));
  const from = kernel.allocate(room + 64);
  const out = kernel.allocate(calls.maxSnappyBytes(room) + 64);
  const scratch = kernel.allocate(calls.snappyScratchBytes() + 64);
  const file = openSync(path, 'w');
  const piece = Buffer.alloc(PIECE_BYTES);
  let filled = 0;
  let [bodies, rawBytes, snappyBytes] = [0, 0, 0];
  const flush = (): void => {
    writeSync(file, piece, 0, filled);
    filled = 0;
  };
  for (let step = 0; step < set.samplesPerSeries; step++) {
    for (const [number, lane] of lanes.entries()) {
      fillIn(lane, step);
      kernel.bytes.set(lane.template, from);
      const size = checked(calls.encodeSnappy(from, lane.template.length, out, scratch));
      if (filled + size + 8 > PIECE_BYTES) flush();
      piece.writeUInt32LE(number, filled);
      piece.writeUInt32LE(size, filled + 4);
      piece.set(kernel.bytes.subarray(out, out + size), filled + 8);
      filled += size + 8;
      bodies++;
      rawBytes += lane.template.length;
      snappyBytes += size;
    }
  }
  flush();
  closeSync(file);
  const samples = set.series * set.samplesPerSeries;
  return { path, set, startMs, bodies, samples, rawBytes, snappyBytes };
}

/** A request whose values and times are filled in for each scrape. */
interface Lane {
  readonly template: Buffer;
  /** Of the value; nine bytes on is the time. */
  readonly places: Int32Array;
  readonly times: readonly Float64Array[];
  readonly values: readonly Float64Array[];
}

const TIME_BYTES = 6;
/** Tag and length, tag and value, tag and time. */
const SAMPLE_BYTES = 2 + 9 + 1 + TIME_BYTES;

function lanesOf(set: DataSet, startMs: number): Lane[] {
  const lanes: Lane[] = [];
  for (let first = 0; first < set.series; first += SAMPLES_PER_BODY) {
    const count = Math.min(SAMPLES_PER_BODY, set.series - first);
    const parts: Uint8Array[] = [];
    const places = new Int32Array(count);
    let at = 0;
    for (let i = 0; i < count; i++) {
      const labels = labelBytes(labelsOf(first + i));
      const sizeBytes = labels.length + SAMPLE_BYTES;
      const head = [0x0a, ...(sizeBytes < 128 ? [sizeBytes] : [(sizeBytes & 127) | 128, sizeBytes >> 7])];
      const sample = Buffer.alloc(SAMPLE_BYTES);
      sample.set([0x12, SAMPLE_BYTES - 2, 0x09]);
      sample[11] = 0x10;
      places[i] = at + head.length + labels.length + 3;
      parts.push(Buffer.from(head), labels, sample);
      at += head.length + sizeBytes;
    }
    const all = Array.from({ length: count }, (_, i) => first + i);
    const byHost = new Map<string, Float64Array>();
    lanes.push({
      template: Buffer.concat(parts),
      places,
      times: all.map((series) => shared(byHost, timesOf(set, series, startMs))),
      values: all.map((series) => valuesOf(set, series)),
    });
  }
  return lanes;
}

/** Series of a host have the same times: one array is enough. */
function shared(seen: Map<string, Float64Array>, times: Float64Array): Float64Array {
  const key = times.subarray(0, 40).join();
  const known = seen.get(key);
  if (known !== undefined) return known;
  seen.set(key, times);
  return times;
}

function fillIn({ template, places, times, values }: Lane, step: number): void {
  for (let i = 0; i < places.length; i++) {
    const at = places[i] as number;
    template.writeDoubleLE(values[i]?.[step] as number, at);
    let rest = times[i]?.[step] as number;
    for (let byte = 0; byte < TIME_BYTES; byte++) {
      template[at + 9 + byte] = byte === TIME_BYTES - 1 ? rest : (rest % 128) | 128;
      rest = Math.floor(rest / 128);
    }
  }
}
