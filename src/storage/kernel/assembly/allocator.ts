/** Bytes behind every region that kernels may read, though not use. */
const SLACK: usize = 64;
const PAGE_BITS: usize = 16;
/** Growing takes up to milliseconds, and what is not touched takes no memory of the machine. */
const GROWTH_PAGES: i32 = 64;

let next: usize = (__heap_base + 63) & ~63;
let limitPages: i32 = 65535;

/** The memory will not grow beyond this. */
export function limitMemory(bytes: usize): void {
  limitPages = min(<i32>(bytes >> PAGE_BITS), 65535);
}

/** A region of `size` zero bytes that is never given back, aligned to 64; 0 when the limit is reached. */
export function allocate(size: usize): usize {
  const at = next;
  const end = at + ((size + 63) & ~63);
  if (end < at) return 0;
  const needed = <i32>((end + SLACK + 65535) >> PAGE_BITS);
  const present = memory.size();
  if (needed > present) {
    if (needed > limitPages) return 0;
    const ample = max(GROWTH_PAGES, present >> 2);
    const wanted = min(max(needed - present, ample), limitPages - present);
    if (memory.grow(wanted) < 0 && memory.grow(needed - present) < 0) return 0;
  }
  next = end;
  return at;
}

export const PAGE_BYTES: usize = 65536;

let freePages: usize = 0;
let pagesInUse: u32 = 0;
let pagesFree: u32 = 0;

/** A page of zero bytes, or 0 when the limit is reached. */
export function takePage(): usize {
  let page = freePages;
  if (page != 0) {
    freePages = load<usize>(page);
    pagesFree--;
    memory.fill(page, 0, PAGE_BYTES);
  } else {
    page = allocate(PAGE_BYTES);
    if (page == 0) return 0;
  }
  pagesInUse++;
  return page;
}

let serial: u32 = 0;

/** A number that no other page was ever marked with. */
export function nextSerial(): u32 {
  return ++serial;
}

/** Where memory ends that was ever given out, and the last serial: with the pages in use, all that there is to know. */
export function allocatedEnd(): usize {
  return next;
}
export function lastSerial(): u32 {
  return serial;
}

/** Makes memory as it was when these were read. Only for one from which nothing was taken; false when it is too small. */
export function restoreAllocator(end: usize, pages: u32, last: u32): bool {
  if (end < next) return false;
  if (end > next && allocate(end - next) == 0) return false;
  pagesInUse = pages;
  serial = last;
  return true;
}

/** Takes a page back that was in no use when memory was restored. */
export function addFreePage(page: usize): void {
  store<usize>(page, freePages);
  freePages = page;
  pagesFree++;
}

/** Writes the addresses of all free pages to `out`, if it is not 0; returns how many there are. */
export function listFreePages(out: usize): u32 {
  let count: u32 = 0;
  for (let page = freePages; page != 0; page = load<usize>(page)) {
    if (out != 0) store<usize>(out + (<usize>count << 2), page);
    count++;
  }
  return count;
}

export function givePage(page: usize): void {
  store<usize>(page, freePages);
  freePages = page;
  pagesInUse--;
  pagesFree++;
}

/** Pages of 64 KiB that tables and chunks hold. */
export function usedPages(): u32 {
  return pagesInUse;
}

/** Pages that can still be taken. */
export function availablePages(): u32 {
  const end = <usize>limitPages << PAGE_BITS;
  const behind = end > next + SLACK ? <u32>((end - next - SLACK) >> PAGE_BITS) : 0;
  return pagesFree + behind;
}
