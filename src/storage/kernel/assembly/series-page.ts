// Many series of a fileset at once. `docs/formats/engine.md` draws their payloads: those of the common kind have a
// number in the fileset's dictionary of times, and behind it nothing but values.
import { decodeValues } from './value-column';

const SHARED_TIMES: u32 = 1;
const LEFT: i32 = -1;

/** Of a row: where the payload begins and how long it is; then, filled in, the first sample and the number. */
const ROW_SHIFT: usize = 4;

/** Fills in the row and returns how many samples it decoded; 0 when it left the payload to others. */
function decodeRow(
  row: usize,
  payloads: usize,
  counts: usize,
  numbers: u32,
  out: usize,
  first: u32,
  capacity: u32,
): u32 {
  store<u32>(row, first, 8);
  store<i32>(row, LEFT, 12);
  const from = payloads + load<u32>(row);
  const size = load<u32>(row, 4);
  if (size < 3 || load<u8>(from) != SHARED_TIMES) return 0;
  let number = <u32>load<u8>(from, 1);
  let head: u32 = 2;
  if (number >= 0x80) {
    const high = <u32>load<u8>(from, 2);
    if (high >= 0x80) return 0;
    number = (number & 0x7f) + (high << 7);
    head = 3;
  }
  if (number >= numbers || size <= head) return 0;
  const count = load<u32>(counts + (<usize>number << 2));
  if (count > capacity - first) return 0;
  if (decodeValues(from + head, size - head, count, out + (<usize>first << 3)) != 0) return 0;
  store<u32>(row, number, 12);
  return count;
}

/**
 * Decodes the values of `rows` payloads to `out`, one column behind the other, and returns how many samples there are.
 * `counts` says how many times each of the dictionary's columns has. A row whose payload is of another kind, is damaged
 * or finds no room among the `capacity` samples has the number -1: `out` has room for four more.
 */
export function decodeSeriesPage(
  table: usize,
  rows: u32,
  payloads: usize,
  counts: usize,
  numbers: u32,
  out: usize,
  capacity: u32,
): u32 {
  let samples: u32 = 0;
  for (let i: u32 = 0; i < rows; i++) {
    samples += decodeRow(table + (<usize>i << ROW_SHIFT), payloads, counts, numbers, out, samples, capacity);
  }
  return samples;
}
