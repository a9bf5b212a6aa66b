// A closed piece: up to 64 samples of a series as sealed columns. It begins with the address of the piece before,
// the bytes of its time column and of its value column, which follow.
import {
  ALL_STEPPED,
  CLOSED,
  CLOSED_COUNT,
  COUNT,
  FIRST_TIME,
  MAX_OPEN,
  NEXT,
  PIECE,
  PIECE_END,
  PIECE_HEAD,
  STEP,
  STEPPED,
  takeClosed,
} from './chunk-layout';
import { decodeTimes, encodeSteps, encodeTimes } from './time-column';
import { decodeValues, encodeValues, encodeValuesLike } from './value-column';

const BEFORE: usize = 0;
const TIME_BYTES: usize = 4;
const VALUE_BYTES: usize = 6;
const HEAD: usize = 8;

/** Room for the columns of a piece, decoded and encoded, and for what encoding needs. */
const times: usize = memory.data(576, 16);
const values: usize = memory.data(576, 16);
const encodedTimes: usize = memory.data(768, 16);
const encodedValues: usize = memory.data(832, 16);
const scratch: usize = memory.data(1408, 16);

/** Copies the samples of the open piece of a line to columns. */
export function readOpenPiece(line: usize, timesOut: usize, valuesOut: usize): void {
  const piece = load<usize>(line, PIECE);
  const count = load<u32>(line, COUNT);
  if (count == 0) return;
  const step = load<i64>(line, STEP);
  const mark = load<u8>(piece, STEPPED);
  const stepped: u32 = mark == ALL_STEPPED ? count : mark;
  let time = load<i64>(piece, FIRST_TIME);
  for (let i: u32 = 0; i < stepped; i++, time += step) store<i64>(timesOut + (<usize>i << 3), time);
  let at = piece + PIECE_HEAD;
  memory.copy(valuesOut, at, stepped << 3);
  at += stepped << 3;
  for (let i = stepped; i < count; i++, at += 16) {
    store<u64>(valuesOut + (<usize>i << 3), load<u64>(at));
    store<i64>(timesOut + (<usize>i << 3), load<i64>(at, 8));
  }
}

/** Empties the open piece of a line into a closed one; false when there is no memory, and then nothing has changed. */
export function closePiece(chunks: usize, line: usize): bool {
  const piece = load<usize>(line, PIECE);
  const count = load<u32>(line, COUNT);
  const before = load<usize>(piece, CLOSED);
  let plain = values;
  let timeBytes: i32;
  if (load<u8>(piece, STEPPED) == ALL_STEPPED) {
    plain = piece + PIECE_HEAD;
    timeBytes = encodeSteps(load<i64>(piece, FIRST_TIME), load<i64>(line, STEP), count, encodedTimes);
  } else {
    readOpenPiece(line, times, values);
    timeBytes = encodeTimes(times, count, encodedTimes, scratch);
  }
  const valueBytes =
    before == 0
      ? encodeValues(plain, count, encodedValues, scratch)
      : encodeValuesLike(plain, count, encodedValues, scratch, before + HEAD + load<u16>(before, TIME_BYTES));
  const closed = takeClosed(chunks, HEAD + timeBytes + valueBytes);
  if (closed == 0) return false;
  store<usize>(closed, before, BEFORE);
  store<u16>(closed, <u16>timeBytes, TIME_BYTES);
  store<u16>(closed, <u16>valueBytes, VALUE_BYTES);
  memory.copy(closed + HEAD, encodedTimes, timeBytes);
  memory.copy(closed + HEAD + timeBytes, encodedValues, valueBytes);
  store<usize>(piece, closed, CLOSED);
  store<u32>(piece, load<u32>(piece, CLOSED_COUNT) + count, CLOSED_COUNT);
  store<u32>(line, 0, COUNT);
  store<usize>(line, piece + PIECE_HEAD, NEXT);
  store<usize>(line, 0, PIECE_END);
  return true;
}

/** Copies the samples of all closed pieces, `count` of them, to columns; a fault when they are not what was written. */
export function readClosedPieces(newest: usize, count: u32, timesOut: usize, valuesOut: usize): i32 {
  let place = count;
  for (let piece = newest; piece != 0; piece = load<usize>(piece, BEFORE)) {
    const timeBytes = <u32>load<u16>(piece, TIME_BYTES);
    const some = decodeTimes(piece + HEAD, timeBytes, times, MAX_OPEN);
    if (some < 0) return some;
    const fault = decodeValues(piece + HEAD + timeBytes, load<u16>(piece, VALUE_BYTES), some, values);
    if (fault < 0) return fault;
    place -= some;
    memory.copy(timesOut + (<usize>place << 3), times, some << 3);
    memory.copy(valuesOut + (<usize>place << 3), values, some << 3);
  }
  return 0;
}
