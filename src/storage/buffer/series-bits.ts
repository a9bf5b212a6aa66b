import type { SeriesBits } from '../engine/replica-access.ts';
import type { SeriesSamples } from '../engine/storage-engine.ts';
import { ByteWriter } from '../index/byte-writer.ts';
import { writeLabel } from '../index/labels.ts';

const MAX_TIME = (1n << 63n) - 1n;

/** Series of objects as columns, their labels as a protobuf series has them, in the order in which they came. */
export function bitsOf(series: readonly SeriesSamples[]): SeriesBits[] {
  const writer = new ByteWriter();
  return series.map(({ labels, samples }) => {
    for (const [name, value] of labels) writeLabel(writer, Buffer.from(name), Buffer.from(value));
    const times = BigInt64Array.from(samples, ({ timeNs }) => clampTime(timeNs));
    const values = Float64Array.from(samples, ({ value }) => value);
    return { labels: writer.take(), times, bits: new BigUint64Array(values.buffer) };
  });
}

/** What is beyond the numbers is beyond the bounds, too. */
function clampTime(timeNs: bigint): bigint {
  return timeNs > MAX_TIME ? MAX_TIME : timeNs < -MAX_TIME ? -MAX_TIME - 1n : timeNs;
}
