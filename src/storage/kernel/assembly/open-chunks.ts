// Samples of one block that is still written: appending them. `chunk-layout.ts` draws the memory.
import { givePage, takePage } from './allocator';
import {
  ALL_STEPPED,
  CLASS,
  CLOSED_COUNT,
  CLOSED_PAGES,
  COLD,
  COUNT,
  END,
  FIRST_CLASS,
  FIRST_TIME,
  LAST,
  LAST_CLASS,
  LATE,
  LATE_LEFT,
  LATE_SAMPLES,
  LINES_PER_PAGE,
  LINE_PAGES,
  MAX_LINE_PAGES,
  MAX_OPEN,
  NEXT,
  NO_STEP,
  ORDERED_SAMPLES,
  PAGES,
  PIECE,
  PIECE_END,
  PIECE_HEAD,
  ROOM_PAGES,
  SPARSE,
  START,
  STEP,
  STEPPED,
  classSize,
  giveRoom,
  lineAt,
  makeLine,
  takeRoom,
} from './chunk-layout';
import { closePiece } from './closed-piece';
import { listChain, listPage, listTree } from './page-list';
import { FIRST_LATE_LEFT, LATE_NO_MEMORY, LATE_REPEATED, addLate, isCold } from './late-samples';

/** An empty set for timestamps in [start, end), or 0 when there is no memory. In a cold one all samples are late. */
export function createChunks(start: i64, end: i64, cold: bool): usize {
  const chunks = takePage();
  if (chunks == 0) return 0;
  store<i64>(chunks, start, START);
  store<i64>(chunks, end, END);
  store<u32>(chunks, cold ? 1 : 0, COLD);
  store<u32>(chunks, 1, PAGES);
  return chunks;
}

/** Makes a set a cold one: what is in order stays, what comes is late, so that its version is known. */
export function chillChunks(chunks: usize): void {
  store<u32>(chunks, 1, COLD);
}

export function freeChunks(chunks: usize): void {
  for (let i: u32 = 0; i < MAX_LINE_PAGES; i++) {
    const page = load<usize>(chunks + LINE_PAGES + (i << 2));
    if (page != 0) givePage(page);
  }
  freeChain(load<usize>(chunks, ROOM_PAGES));
  freeChain(load<usize>(chunks, CLOSED_PAGES));
  givePage(chunks);
}

/** Lists the pages of a set; `page-list.ts` has the form. */
export function listChunksPages(chunks: usize, out: usize, from: u32): u32 {
  let count = listPage(out, from, chunks);
  count = listTree(out, count, chunks + LINE_PAGES, MAX_LINE_PAGES);
  for (let page = load<usize>(chunks, ROOM_PAGES); page != 0; page = load<usize>(page)) count = listPage(out, count, page);
  return listChain(out, count, load<usize>(chunks, CLOSED_PAGES));
}

function freeChain(newest: usize): void {
  for (let page = newest; page != 0; ) {
    const before = load<usize>(page);
    givePage(page);
    page = before;
  }
}

/** How many samples of the set are in order, how many late, and how many pages it has. */
export function chunksOrdered(chunks: usize): u32 {
  return load<u32>(chunks, ORDERED_SAMPLES);
}
export function chunksLate(chunks: usize): u32 {
  return load<u32>(chunks, LATE_SAMPLES);
}
export function chunksPages(chunks: usize): u32 {
  return load<u32>(chunks, PAGES);
}

/** What the last `appendSamples` did with the samples of its block. */
let late: u32 = 0;
let repeated: u32 = 0;
let refused: u32 = 0;
/** The least time behind the block that it passed over. */
let leastBehind: i64 = i64.MAX_VALUE;

export function appendedLate(): u32 {
  return late;
}
export function appendedRepeated(): u32 {
  return repeated;
}
/** For want of memory. */
export function appendedRefused(): u32 {
  return refused;
}
export function appendedLeastBehind(): i64 {
  return leastBehind;
}

/** Gives a series its first piece; false when there is no memory. */
function begin(chunks: usize, line: usize): bool {
  const piece = takeRoom(chunks, FIRST_CLASS);
  if (piece == 0) return false;
  memory.fill(piece, 0, PIECE_HEAD);
  store<u8>(piece, FIRST_CLASS, CLASS);
  store<u16>(piece, FIRST_LATE_LEFT, LATE_LEFT);
  store<usize>(line, piece, PIECE);
  store<usize>(line, piece + PIECE_HEAD, NEXT);
  store<i64>(line, i64.MIN_VALUE, LAST);
  store<i64>(line, NO_STEP, STEP);
  return true;
}

/** The line of a series, made if need be, with a piece; 0 when there is no memory. */
export function lineToWrite(chunks: usize, reference: u32): usize {
  const line = makeLine(chunks, reference);
  return line == 0 || (load<usize>(line, PIECE) == 0 && !begin(chunks, line)) ? 0 : line;
}

/**
 * Where the room for samples ends. First large pieces end at different places, so that series that began together are not
 * all closed by one request.
 */
function roomEnd(piece: usize, reference: u32): usize {
  const kind = load<u8>(piece, CLASS);
  if (kind < LAST_CLASS) return piece + classSize(kind);
  const capacity = load<u32>(piece, CLOSED_COUNT) < 2 * SPARSE ? 32 + (reference & 31) : MAX_OPEN;
  return piece + PIECE_HEAD + (capacity << 3);
}

/** Moves the open piece to the next larger room; false when there is no memory. */
function grow(chunks: usize, line: usize): bool {
  const piece = load<usize>(line, PIECE);
  const kind = load<u8>(piece, CLASS);
  const larger = takeRoom(chunks, kind + 1);
  if (larger == 0) return false;
  const used = load<usize>(line, NEXT) - piece;
  memory.copy(larger, piece, used);
  store<u8>(larger, kind + 1, CLASS);
  store<usize>(line, larger, PIECE);
  store<usize>(line, larger + used, NEXT);
  giveRoom(chunks, kind, piece);
  return true;
}

/** Appends a sample behind the last one of a line that has a piece; false when there is no memory. */
export function push(chunks: usize, line: usize, reference: u32, time: i64, value: u64): bool {
  for (;;) {
    const piece = load<usize>(line, PIECE);
    const count = load<u32>(line, COUNT);
    const at = load<usize>(line, NEXT);
    const end = roomEnd(piece, reference);
    if (count == 0) {
      store<i64>(piece, time, FIRST_TIME);
      store<u8>(piece, ALL_STEPPED, STEPPED);
      store<usize>(line, end, PIECE_END);
    }
    const difference = time - load<i64>(line, LAST);
    let timed = load<u8>(piece, STEPPED) != ALL_STEPPED;
    if (!timed && count > 1 && difference != load<i64>(line, STEP)) {
      store<u8>(piece, <u8>count, STEPPED);
      store<usize>(line, 0, PIECE_END);
      timed = true;
    }
    const next = at + (timed ? 16 : 8);
    if (next > end) {
      const grows = load<u8>(piece, CLASS) < LAST_CLASS && load<u32>(piece, CLOSED_COUNT) >= SPARSE;
      if (!(grows ? grow(chunks, line) : closePiece(chunks, line))) return false;
      if (grows && !timed) store<usize>(line, roomEnd(load<usize>(line, PIECE), reference), PIECE_END);
      continue;
    }
    if (count == 1 && !timed) store<i64>(line, difference, STEP);
    store<u64>(at, value);
    if (timed) store<i64>(at, time, 8);
    store<usize>(line, next, NEXT);
    store<i64>(line, time, LAST);
    store<u32>(line, count + 1, COUNT);
    return true;
  }
}

/** Appends a sample that is not simply the next one of a series that is under way. */
function append(chunks: usize, reference: u32, time: i64, value: u64, version: i64): void {
  if (time < load<i64>(chunks, START)) return;
  if (time >= load<i64>(chunks, END)) {
    leastBehind = min(leastBehind, time);
    return;
  }
  const line = lineToWrite(chunks, reference);
  if (line == 0) {
    refused++;
    return;
  }
  if (time <= load<i64>(line, LAST) || isCold(chunks)) {
    const result = addLate(chunks, line, reference, time, value, version, false);
    if (result == LATE_NO_MEMORY) refused++;
    else if (result == LATE_REPEATED) repeated++;
    else late++;
    return;
  }
  if (push(chunks, line, reference, time, value)) {
    store<u32>(chunks, load<u32>(chunks, ORDERED_SAMPLES) + 1, ORDERED_SAMPLES);
  } else refused++;
}

/** Appends a sample if it is simply the next one of a series that is under way. */
@inline
function step(chunks: usize, reference: u32, time: i64, value: u64): bool {
  const line = lineAt(chunks, reference);
  if (line == 0) return false;
  const at = load<usize>(line, NEXT);
  if (time - load<i64>(line, LAST) != load<i64>(line, STEP) || at + 8 > load<usize>(line, PIECE_END)) return false;
  if (time >= load<i64>(chunks, END)) return false;
  store<u64>(at, value);
  store<i64>(line, time, LAST);
  store<usize>(line, at + 8, NEXT);
  store<u32>(line, load<u32>(line, COUNT) + 1, COUNT);
  return true;
}

function startAppending(): void {
  late = 0;
  repeated = 0;
  refused = 0;
  leastBehind = i64.MAX_VALUE;
}

/** Counts samples that were appended by `step`; returns how many are in order now that were not `before`. */
@inline
function endAppending(chunks: usize, stepped: u32, before: u32): u32 {
  const samples = load<u32>(chunks, ORDERED_SAMPLES) + stepped;
  store<u32>(chunks, samples, ORDERED_SAMPLES);
  return samples - before;
}

/**
 * Appends the samples of `count` entries of `walkWriteRequest` whose times are in the block, those without series
 * left out. `version` is that of the write. Returns how many were appended in order.
 */
export function appendSamples(
  chunks: usize,
  entries: usize,
  count: u32,
  references: usize,
  times: usize,
  values: usize,
  version: i64,
): u32 {
  startAppending();
  const before = load<u32>(chunks, ORDERED_SAMPLES);
  let stepped: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const entry = entries + (i << 4);
    const from = load<u32>(entry, 8);
    const to = from + load<u32>(entry, 12);
    const reference = load<u32>(references + (i << 2));
    if (reference >= LINES_PER_PAGE * MAX_LINE_PAGES) continue;
    for (let sample = from; sample < to; sample++) {
      const place = <usize>sample << 3;
      const time = load<i64>(times + place);
      const value = load<u64>(values + place);
      if (step(chunks, reference, time, value)) stepped++;
      else append(chunks, reference, time, value, version);
    }
  }
  return endAppending(chunks, stepped, before);
}

/** The same for `count` samples that have a reference each. */
export function appendRows(
  chunks: usize,
  count: u32,
  references: usize,
  times: usize,
  values: usize,
  version: i64,
): u32 {
  startAppending();
  const before = load<u32>(chunks, ORDERED_SAMPLES);
  let stepped: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const reference = load<u32>(references + (<usize>i << 2));
    if (reference >= LINES_PER_PAGE * MAX_LINE_PAGES) continue;
    const time = load<i64>(times + (<usize>i << 3));
    const value = load<u64>(values + (<usize>i << 3));
    if (step(chunks, reference, time, value)) stepped++;
    else append(chunks, reference, time, value, version);
  }
  return endAppending(chunks, stepped, before);
}
