// How the samples of one block that is still written lie in memory. The set of a block is a page: a head, then the
// addresses of pages of lines, one line of 32 bytes a series.
//
// A series has one open piece of raw samples, which is emptied into a closed piece when it is full, and moved to a
// larger one once the series has shown that it goes on; and a chain of late samples: those that were not behind the last one.
// Closed pieces lie in pages of their own, which are never written again once they are full.
import { PAGE_BYTES, nextSerial, takePage } from './allocator';

// The head.
export const START: usize = 0;
export const END: usize = 8;
export const ROOM_NEXT: usize = 16;
export const ROOM_END: usize = 20;
export const CLOSED_NEXT: usize = 24;
export const CLOSED_END: usize = 28;
export const ORDERED_SAMPLES: usize = 32;
export const LATE_SAMPLES: usize = 36;
/** The newest page of each kind; each begins with the address of the one before, and a serial. */
export const ROOM_PAGES: usize = 40;
export const CLOSED_PAGES: usize = 44;
/** The first free room of each class. */
const FREE: usize = 48;
/** 1 when every sample keeps its version. */
export const COLD: usize = 64;
export const PAGES: usize = 68;
/** How many series have so many late samples that they should be merged, and which. */
export const DUE_COUNT: usize = 72;
export const DUE: usize = 128;
export const MAX_DUE: u32 = 224;
export const LINE_PAGES: usize = 1024;
export const MAX_LINE_PAGES: u32 = 4096;
export const LINES_PER_PAGE: u32 = 2048;

// A line: the time of the last sample in order, the step between samples, where the next value goes and where the
// room for values without timestamps ends (0: the next sample needs more than a store), samples in the open piece.
export const LAST: usize = 0;
export const STEP: usize = 8;
export const NEXT: usize = 16;
export const PIECE_END: usize = 20;
export const COUNT: usize = 24;
export const PIECE: usize = 28;

/** No difference of two times of a block. */
export const NO_STEP: i64 = i64.MIN_VALUE;

// The head of an open piece: the time of its first sample, the newest closed piece and the newest late sample of the
// series, the samples in closed pieces, how many samples of this one are without timestamp (ALL_STEPPED: all), its
// class, and how many more late samples may come before they are merged.
export const FIRST_TIME: usize = 0;
export const CLOSED: usize = 8;
export const LATE: usize = 12;
export const CLOSED_COUNT: usize = 16;
export const STEPPED: usize = 20;
export const CLASS: usize = 21;
export const LATE_LEFT: usize = 22;
export const PIECE_HEAD: usize = 24;
export const ALL_STEPPED: u8 = 255;

/** The classes of rooms: a late sample, and open pieces; a dozen samples at equal steps fit into the first. */
export const LATE_CLASS: u8 = 0;
export const FIRST_CLASS: u8 = 1;
export const LAST_CLASS: u8 = 2;
const CLASS_SIZES: usize = memory.data<u32>([32, 128, 536]);

/** Of a full piece of equal steps. Twice as many would take a sixth less when closed, and twice as much while open. */
export const MAX_OPEN: u32 = 64;
/** A series gets a large piece when it has closed so many samples: those with few come by with a small one. */
export const SPARSE: u32 = 24;

/** What is before the first room of a page: the address of the page before, and the rest of a line of the cache. */
const PAGE_HEAD: usize = 64;

@inline
export function classSize(kind: u8): usize {
  return load<u32>(CLASS_SIZES + (<usize>kind << 2));
}

@inline
export function lineAt(chunks: usize, reference: u32): usize {
  const page = load<usize>(chunks + LINE_PAGES + ((reference >> 11) << 2));
  return page == 0 ? 0 : page + ((reference & 2047) << 5);
}

/** The line of a series, made if need be; 0 when there is no memory. */
export function makeLine(chunks: usize, reference: u32): usize {
  const place = chunks + LINE_PAGES + ((reference >> 11) << 2);
  if (load<usize>(place) == 0) {
    store<usize>(place, takePage());
    if (load<usize>(place) == 0) return 0;
    store<u32>(chunks, load<u32>(chunks, PAGES) + 1, PAGES);
  }
  return lineAt(chunks, reference);
}

/** A page at the head of a chain; 0 when there is no memory. */
function chainPage(chunks: usize, chain: usize): usize {
  const page = takePage();
  if (page == 0) return 0;
  store<usize>(page, load<usize>(chunks + chain));
  store<u32>(page, nextSerial(), 4);
  store<usize>(chunks + chain, page);
  store<u32>(chunks, load<u32>(chunks, PAGES) + 1, PAGES);
  return page;
}

/** Room of a class, with what was in it before; 0 when there is no memory. */
export function takeRoom(chunks: usize, kind: u8): usize {
  const free = chunks + FREE + (<usize>kind << 2);
  let room = load<usize>(free);
  if (room != 0) {
    store<usize>(free, load<usize>(room));
    return room;
  }
  const size = classSize(kind);
  room = load<usize>(chunks, ROOM_NEXT);
  if (room == 0 || room + size > load<usize>(chunks, ROOM_END)) {
    const page = chainPage(chunks, ROOM_PAGES);
    if (page == 0) return 0;
    store<usize>(chunks, page + PAGE_BYTES, ROOM_END);
    room = page + PAGE_HEAD;
  }
  store<usize>(chunks, room + size, ROOM_NEXT);
  return room;
}

export function giveRoom(chunks: usize, kind: u8, room: usize): void {
  const free = chunks + FREE + (<usize>kind << 2);
  store<usize>(room, load<usize>(free));
  store<usize>(free, room);
}

/** Room for a closed piece; 0 when there is no memory. */
export function takeClosed(chunks: usize, size: usize): usize {
  let room = load<usize>(chunks, CLOSED_NEXT);
  if (room == 0 || room + size > load<usize>(chunks, CLOSED_END)) {
    const page = chainPage(chunks, CLOSED_PAGES);
    if (page == 0) return 0;
    store<usize>(chunks, page + PAGE_BYTES, CLOSED_END);
    room = page + PAGE_HEAD;
  }
  store<usize>(chunks, room + ((size + 3) & ~3), CLOSED_NEXT);
  return room;
}
