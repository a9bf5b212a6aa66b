import { KernelFault } from './kernel-fault.ts';
import { decodeValues } from './value-column.ts';

/** A series of a page: the number of its times in the dictionary, and the bits of its values. */
export interface PageSeries {
  readonly number: number;
  readonly values: BigUint64Array;
}

const SHARED_TIMES = 1;

/**
 * The plain counterpart of `assembly/series-page.ts`: of each payload what it holds, or undefined when it is of another
 * kind, damaged, or finds no room.
 * @param counts how many times each column of the dictionary has
 */
export function decodeSeriesPage(
  payloads: readonly Uint8Array[],
  counts: Uint32Array,
  capacity: number,
): (PageSeries | undefined)[] {
  let room = capacity;
  return payloads.map((payload) => {
    const series = decodeOne(payload, counts, room);
    room -= series?.values.length ?? 0;
    return series;
  });
}

function decodeOne(payload: Uint8Array, counts: Uint32Array, room: number): PageSeries | undefined {
  const [flags = 0, low = 0, high = 0] = payload;
  if (payload.length < 3 || flags !== SHARED_TIMES) return undefined;
  const isLong = low >= 0x80;
  if (isLong && high >= 0x80) return undefined;
  const number = isLong ? (low & 0x7f) + high * 128 : low;
  const count = counts[number];
  if (count === undefined || count > room) return undefined;
  try {
    return { number, values: decodeValues(payload.subarray(isLong ? 3 : 2), count) };
  } catch (error) {
    if (error instanceof KernelFault) return undefined;
    throw error;
  }
}
