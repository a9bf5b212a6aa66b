// The samples of one block that is still written, by series: raw values, and timestamps only where they are not
// what the step of the series says. Samples of a series ascend; what does not is for the caller.
//
// The set is a page: a head, then the addresses of pages of lines, one line of 32 bytes a series. Samples are in
// chains of pieces of 128, 256, 512, 1024, then 2048 bytes, cut from pages. The set is given back as a whole.
import { PAGE_BYTES, givePage, takePage } from './allocator';
import { TOO_LARGE } from './fault';

// The head.
const START: usize = 0;
const END: usize = 8;
const PIECES_NEXT: usize = 16;
const PIECES_END: usize = 20;
const PIECES_PAGES: usize = 24;
const SAMPLES: usize = 32;
const LINE_PAGES: usize = 1024;
const MAX_PAGES: u32 = 4096;

// A line.
const LAST: usize = 0;
const STEP: usize = 8;
const NEXT: usize = 16;
const PIECE_END: usize = 20;
const COUNT: usize = 24;
const FIRST_PIECE: usize = 28;
const LINES_PER_PAGE: u32 = 2048;

// A piece begins with the address of the next; the first one has more.
const PIECE_HEAD: usize = 8;
/** How many samples are stored without timestamp. */
const STEPPED: usize = 4;
const FIRST_TIME: usize = 8;
const FIRST_HEAD: usize = 16;
const FIRST_SIZE: usize = 128;
const LARGEST_SIZE: usize = 2048;

// What becomes of a sample.
const APPENDED: u8 = 0;
const NOT_ASCENDING: u8 = 1;
const OUTSIDE: u8 = 2;
const NO_SERIES: u8 = 3;
const NO_MEMORY: u8 = 4;

/** An empty set for timestamps in [start, end), or 0 when there is no memory. */
export function createChunks(start: i64, end: i64): usize {
  const chunks = takePage();
  if (chunks == 0) return 0;
  store<i64>(chunks, start, START);
  store<i64>(chunks, end, END);
  return chunks;
}

export function freeChunks(chunks: usize): void {
  for (let i: u32 = 0; i < MAX_PAGES; i++) {
    const page = load<usize>(chunks + LINE_PAGES + (i << 2));
    if (page != 0) givePage(page);
  }
  for (let page = load<usize>(chunks, PIECES_PAGES); page != 0; ) {
    const before = load<usize>(page);
    givePage(page);
    page = before;
  }
  givePage(chunks);
}

/** How many samples all chunks of the set hold. */
export function chunksSamples(chunks: usize): u32 {
  return load<u32>(chunks, SAMPLES);
}

@inline
function lineAt(chunks: usize, reference: u32): usize {
  const page = load<usize>(chunks + LINE_PAGES + ((reference >> 11) << 2));
  return page == 0 ? 0 : page + ((reference & 2047) << 5);
}

/** The line of a series, made if need be; 0 when there is no memory. */
function makeLine(chunks: usize, reference: u32): usize {
  const place = chunks + LINE_PAGES + ((reference >> 11) << 2);
  store<usize>(place, takePage());
  return lineAt(chunks, reference);
}

/** A piece of zero bytes, or 0 when there is no memory. */
function takePiece(chunks: usize, size: usize): usize {
  let piece = load<usize>(chunks, PIECES_NEXT);
  if (piece == 0 || piece + size > load<usize>(chunks, PIECES_END)) {
    const page = takePage();
    if (page == 0) return 0;
    store<usize>(page, load<usize>(chunks, PIECES_PAGES));
    store<usize>(chunks, page, PIECES_PAGES);
    store<usize>(chunks, page + PAGE_BYTES, PIECES_END);
    // The rest of a line of the cache, so that pieces do not share one needlessly.
    piece = page + 64;
  }
  store<usize>(chunks, piece + size, PIECES_NEXT);
  return piece;
}

function append(chunks: usize, reference: u32, time: i64, value: u64): u8 {
  if (time < load<i64>(chunks, START) || time >= load<i64>(chunks, END)) return OUTSIDE;
  let line = lineAt(chunks, reference);
  if (line == 0) {
    line = makeLine(chunks, reference);
    if (line == 0) return NO_MEMORY;
  }
  const count = load<u32>(line, COUNT);
  if (count == 0) {
    const piece = takePiece(chunks, FIRST_SIZE);
    if (piece == 0) return NO_MEMORY;
    store<u32>(piece, u32.MAX_VALUE, STEPPED);
    store<i64>(piece, time, FIRST_TIME);
    store<u64>(piece, value, FIRST_HEAD);
    store<usize>(line, piece, FIRST_PIECE);
    store<usize>(line, piece + FIRST_HEAD + 8, NEXT);
    store<usize>(line, piece + FIRST_SIZE, PIECE_END);
  } else {
    const last = load<i64>(line, LAST);
    if (time <= last) return NOT_ASCENDING;
    const first = load<usize>(line, FIRST_PIECE);
    const stepped = load<u32>(first, STEPPED) == u32.MAX_VALUE;
    if (count > 1 && stepped && time - last != load<i64>(line, STEP)) {
      if (!push(chunks, line, time, value, true)) return NO_MEMORY;
      store<u32>(first, count, STEPPED);
    } else {
      if (!push(chunks, line, time, value, !stepped)) return NO_MEMORY;
      if (count == 1) store<i64>(line, time - last, STEP);
    }
  }
  store<i64>(line, time, LAST);
  store<u32>(line, count + 1, COUNT);
  return APPENDED;
}

@inline
function push(chunks: usize, line: usize, time: i64, value: u64, timed: bool): bool {
  const size: usize = timed ? 16 : 8;
  let at = load<usize>(line, NEXT);
  if (at + size > load<usize>(line, PIECE_END)) {
    at = nextPiece(chunks, line);
    if (at == 0) return false;
  }
  store<u64>(at, value);
  if (timed) store<i64>(at, time, 8);
  store<usize>(line, at + size, NEXT);
  return true;
}

/** Chains a piece of the next size to the last one; returns where its samples begin, or 0. */
function nextPiece(chunks: usize, line: usize): usize {
  let last = load<usize>(line, FIRST_PIECE);
  let size = FIRST_SIZE;
  while (load<usize>(last) != 0) {
    last = load<usize>(last);
    size = larger(size);
  }
  size = larger(size);
  const piece = takePiece(chunks, size);
  if (piece == 0) return 0;
  store<usize>(last, piece);
  store<usize>(line, piece + size, PIECE_END);
  return piece + PIECE_HEAD;
}

@inline
function larger(size: usize): usize {
  return min(size << 1, LARGEST_SIZE);
}

/**
 * Appends the samples of `count` entries of `walkWriteRequest` with the references of `resolveSeries`; writes
 * what becomes of each to `results`, a byte a sample, and returns how many were not appended.
 */
export function appendSamples(
  chunks: usize,
  entries: usize,
  count: u32,
  references: usize,
  times: usize,
  values: usize,
  results: usize,
): u32 {
  let refused: u32 = 0;
  let appended: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const entry = entries + (i << 4);
    const from = load<u32>(entry, 8);
    const to = from + load<u32>(entry, 12);
    const reference = load<u32>(references + (i << 2));
    for (let sample = from; sample < to; sample++) {
      const place = <usize>sample << 3;
      const result =
        reference >= LINES_PER_PAGE * MAX_PAGES
          ? NO_SERIES
          : append(chunks, reference, load<i64>(times + place), load<u64>(values + place));
      store<u8>(results + sample, result);
      if (result == APPENDED) appended++;
      else refused++;
    }
  }
  store<u32>(chunks, load<u32>(chunks, SAMPLES) + appended, SAMPLES);
  return refused;
}

/** How many samples the set has of a series. */
export function chunkCount(chunks: usize, reference: u32): u32 {
  if (reference >= LINES_PER_PAGE * MAX_PAGES) return 0;
  const line = lineAt(chunks, reference);
  return line == 0 ? 0 : load<u32>(line, COUNT);
}

/** Copies the samples of a series to columns and returns how many, or TOO_LARGE. */
export function readChunk(chunks: usize, reference: u32, times: usize, values: usize, capacity: u32): i32 {
  const count = chunkCount(chunks, reference);
  if (count == 0) return 0;
  if (count > capacity) return TOO_LARGE;
  const line = lineAt(chunks, reference);
  const step = load<i64>(line, STEP);
  let piece = load<usize>(line, FIRST_PIECE);
  const stepped = min(load<u32>(piece, STEPPED), count);
  let time = load<i64>(piece, FIRST_TIME);
  let size = FIRST_SIZE;
  let at = piece + FIRST_HEAD;
  for (let i: u32 = 0; i < count; i++) {
    const timed = i >= stepped;
    const need: usize = timed ? 16 : 8;
    if (at + need > piece + size) {
      piece = load<usize>(piece);
      size = larger(size);
      at = piece + PIECE_HEAD;
    }
    if (timed) time = load<i64>(at, 8);
    else if (i > 0) time += step;
    store<i64>(times + (<usize>i << 3), time);
    store<u64>(values + (<usize>i << 3), load<u64>(at));
    at += need;
  }
  return count;
}
