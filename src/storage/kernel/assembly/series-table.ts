// Series by their canonical labels. A series' reference is its number, from 0 up in the order of creation, for
// as long as the table lives. Series come in the same order scrape after scrape, so each record remembers which
// series came after it: most are found by one comparison of bytes, without a hash.
//
// Everything is in pages of 64 KiB, so that a table grows without copying records and gives all back at its end.
// The table itself is a page: a head, then the addresses of the pages of records and of slots.
import { PAGE_BYTES, givePage, nextSerial, takePage } from './allocator';
import { listChain, listPage, listTree } from './page-list';
import { BAD_REFERENCE, OUT_OF_MEMORY, TOO_LARGE } from './fault';
import { murmur3, xxh64 } from './hash';
import { canonicalLabels, isPlainlyCanonical } from './label-set';

// The head.
const COUNT: usize = 0;
const MAX_SERIES: usize = 4;
const SLOT_MASK: usize = 8;
const TEXT_NEXT: usize = 12;
const TEXT_END: usize = 16;
const TEXT_PAGES: usize = 20;
const SEED: usize = 24;
const SCRATCH: usize = 32;
const RECORD_PAGES: usize = 1024;
const SLOT_PAGES: usize = 1024 + 4 * 4096;
const MAX_PAGES: u32 = 4096;

// A record of 32 bytes: address and size of the labels, MurmurHash3 of the labels, reference + 1 of the series
// that came after it last, and 16 bytes for the open chunk.
const RECORDS_PER_PAGE: u32 = 2048;
const LABELS: usize = 0;
const LABELS_SIZE: usize = 4;
const SHARD_HASH: usize = 8;
const SUCCESSOR: usize = 12;

// A slot of 8 bytes: 32 bits of the hash, reference + 1.
const SLOTS_PER_PAGE: u32 = 8192;

/** Labels that a table can hold: they and the address of the page before are in one page. */
const MAX_LABELS: u32 = 65000;

@inline
function recordAt(table: usize, reference: u32): usize {
  return load<usize>(table + RECORD_PAGES + ((reference >> 11) << 2)) + ((reference & 2047) << 5);
}

@inline
function slotAt(table: usize, slot: u32): usize {
  return load<usize>(table + SLOT_PAGES + ((slot >> 13) << 2)) + ((slot & 8191) << 3);
}

@inline
function sameBytes(one: usize, other: usize, size: u32): bool {
  if (size < 16) {
    for (let i: u32 = 0; i < size; i++) if (load<u8>(one + i) != load<u8>(other + i)) return false;
    return true;
  }
  const last = size - 16;
  for (let i: u32 = 0; i < last; i += 16) {
    if (v128.any_true(v128.xor(v128.load(one + i), v128.load(other + i)))) return false;
  }
  return !v128.any_true(v128.xor(v128.load(one + last), v128.load(other + last)));
}

/** A table for at most `maxSeries` (8,388,608 at most), or 0 when there is no memory. */
export function createSeriesTable(maxSeries: u32, seed: u64): usize {
  const table = takePage();
  const slots = takePage();
  const scratch = takePage();
  if (table == 0 || slots == 0 || scratch == 0) {
    if (table != 0) givePage(table);
    if (slots != 0) givePage(slots);
    if (scratch != 0) givePage(scratch);
    return 0;
  }
  store<u32>(table, min(maxSeries, RECORDS_PER_PAGE * MAX_PAGES), MAX_SERIES);
  store<u32>(table, SLOTS_PER_PAGE - 1, SLOT_MASK);
  store<u64>(table, seed, SEED);
  store<usize>(table, scratch, SCRATCH);
  store<usize>(table + SLOT_PAGES, slots);
  return table;
}

/** Gives back all memory of the table; open chunks must have been given back before. */
export function freeSeriesTable(table: usize): void {
  emptySeriesTable(table);
  givePage(table);
}

/** Gives back all memory of the table but its own page. */
export function emptySeriesTable(table: usize): void {
  for (let i: u32 = 0; i < MAX_PAGES; i++) {
    const page = load<usize>(table + RECORD_PAGES + (i << 2));
    if (page == 0) break;
    givePage(page);
  }
  freeSlots(table, load<u32>(table, SLOT_MASK) + 1);
  for (let page = load<usize>(table, TEXT_PAGES); page != 0; ) {
    const before = load<usize>(page);
    givePage(page);
    page = before;
  }
  givePage(load<usize>(table, SCRATCH));
}

function freeSlots(table: usize, slots: u32): void {
  for (let first: u32 = 0; first < slots; first += SLOTS_PER_PAGE) {
    givePage(load<usize>(table + SLOT_PAGES + ((first >> 13) << 2)));
  }
}

/** Changes how many series the table takes; those that are there stay. */
export function limitSeries(table: usize, maxSeries: u32): void {
  store<u32>(table, min(maxSeries, RECORDS_PER_PAGE * MAX_PAGES), MAX_SERIES);
}

export function seriesCount(table: usize): u32 {
  return load<u32>(table, COUNT);
}

/** Address of a record: labels, their size, their MurmurHash3 as 32-bit numbers; 0 for an unknown reference. */
export function seriesRecord(table: usize, reference: u32): usize {
  return reference < load<u32>(table, COUNT) ? recordAt(table, reference) : 0;
}

/** Lists the pages of a table; `page-list.ts` has the form. */
export function listTablePages(table: usize, out: usize, from: u32): u32 {
  let count = listPage(out, from, table);
  count = listPage(out, count, load<usize>(table, SCRATCH));
  count = listTree(out, count, table + RECORD_PAGES, (load<u32>(table, COUNT) + RECORDS_PER_PAGE - 1) / RECORDS_PER_PAGE);
  count = listTree(out, count, table + SLOT_PAGES, (load<u32>(table, SLOT_MASK) + 1) / SLOTS_PER_PAGE);
  return listChain(out, count, load<usize>(table, TEXT_PAGES));
}

/** The reference of the series with these bytes as labels, or BAD_REFERENCE. */
function find(table: usize, labels: usize, size: u32, hash: u32): i32 {
  const mask = load<u32>(table, SLOT_MASK);
  let place = slotAt(table, hash & mask);
  for (let slot = hash; load<u32>(place, 4) != 0; place = slotAt(table, ++slot & mask)) {
    if (load<u32>(place) != hash) continue;
    const reference = load<u32>(place, 4);
    const record = recordAt(table, reference - 1);
    if (load<u32>(record, LABELS_SIZE) == size && sameBytes(load<usize>(record, LABELS), labels, size)) {
      return reference - 1;
    }
  }
  return BAD_REFERENCE;
}

@inline
function hashOf(table: usize, labels: usize, size: u32): u32 {
  return <u32>(xxh64(labels, size, load<u64>(table, SEED)) >> 32);
}

/** Doubles the slots; false when there is no memory, and then nothing has changed. */
function growSlots(table: usize): bool {
  const before = load<u32>(table, SLOT_MASK) + 1;
  const pages = before / SLOTS_PER_PAGE;
  if (pages * 2 > MAX_PAGES) return false;
  const old = load<usize>(table, SCRATCH);
  memory.copy(old, table + SLOT_PAGES, pages << 2);
  for (let i: u32 = 0; i < pages * 2; i++) {
    const page = takePage();
    if (page == 0) {
      freeSlots(table, i * SLOTS_PER_PAGE);
      memory.copy(table + SLOT_PAGES, old, pages << 2);
      return false;
    }
    store<usize>(table + SLOT_PAGES + (i << 2), page);
  }
  const mask = before * 2 - 1;
  store<u32>(table, mask, SLOT_MASK);
  for (let i: u32 = 0; i < pages; i++) {
    const page = load<usize>(old + (i << 2));
    for (let place = page; place < page + PAGE_BYTES; place += 8) {
      const entry = load<u64>(place);
      if (entry != 0) putSlot(table, mask, entry);
    }
    givePage(page);
  }
  return true;
}

@inline
function putSlot(table: usize, mask: u32, entry: u64): void {
  let slot = <u32>entry & mask;
  while (load<u32>(slotAt(table, slot), 4) != 0) slot = (slot + 1) & mask;
  store<u64>(slotAt(table, slot), entry);
}

/** Room for labels, or 0 when there is no memory. */
function textRoom(table: usize, size: u32): usize {
  const at = load<usize>(table, TEXT_NEXT);
  if (at != 0 && at + size <= load<usize>(table, TEXT_END)) {
    store<usize>(table, at + size, TEXT_NEXT);
    return at;
  }
  const page = takePage();
  if (page == 0) return 0;
  store<usize>(page, load<usize>(table, TEXT_PAGES));
  store<u32>(page, nextSerial(), 4);
  store<usize>(table, page, TEXT_PAGES);
  store<usize>(table, page + 8 + size, TEXT_NEXT);
  store<usize>(table, page + PAGE_BYTES, TEXT_END);
  return page + 8;
}

function insert(table: usize, labels: usize, size: u32, hash: u32): i32 {
  const reference = load<u32>(table, COUNT);
  if (reference >= load<u32>(table, MAX_SERIES)) return TOO_LARGE;
  if (size > MAX_LABELS) return TOO_LARGE;
  const slots = load<u32>(table, SLOT_MASK) + 1;
  if ((reference + 1) * 3 > slots * 2 && !growSlots(table)) return OUT_OF_MEMORY;
  const recordPage = table + RECORD_PAGES + ((reference >> 11) << 2);
  if (load<usize>(recordPage) == 0) store<usize>(recordPage, takePage());
  if (load<usize>(recordPage) == 0) return OUT_OF_MEMORY;
  const text = textRoom(table, size);
  if (text == 0) return OUT_OF_MEMORY;
  memory.copy(text, labels, size);
  const record = recordAt(table, reference);
  store<usize>(record, text, LABELS);
  store<u32>(record, size, LABELS_SIZE);
  store<u32>(record, murmur3(text, size, 0), SHARD_HASH);
  store<u32>(table, reference + 1, COUNT);
  putSlot(table, load<u32>(table, SLOT_MASK), (<u64>(reference + 1) << 32) | hash);
  return reference;
}

/** The reference of a series by any form of its labels; made if `creates`, else BAD_REFERENCE. */
export function resolveLabels(table: usize, labels: usize, size: u32, creates: bool): i32 {
  const hash = hashOf(table, labels, size);
  const known = find(table, labels, size, hash);
  if (known >= 0) return known;
  if (size > MAX_LABELS) return TOO_LARGE;
  if (isPlainlyCanonical(labels, size)) return creates ? insert(table, labels, size, hash) : known;
  const canonical = load<usize>(table, SCRATCH);
  const canonicalSize = canonicalLabels(labels, size, canonical);
  if (canonicalSize < 0) return canonicalSize;
  const canonicalHash = hashOf(table, canonical, canonicalSize);
  const found = find(table, canonical, canonicalSize, canonicalHash);
  if (found >= 0 || !creates) return found;
  // Growing needs the scratch page, so the labels are copied from where they are in order already, if possible.
  if (<u32>canonicalSize == size && sameBytes(canonical, labels, size)) return insert(table, labels, size, hash);
  const slots = load<u32>(table, SLOT_MASK) + 1;
  if ((load<u32>(table, COUNT) + 1) * 3 > slots * 2) {
    if (!growSlots(table)) return OUT_OF_MEMORY;
    canonicalLabels(labels, size, canonical);
  }
  return insert(table, canonical, canonicalSize, canonicalHash);
}

/** What `walkKnownSeries` leaves for `resolveNew`. */
export const UNRESOLVED: i32 = i32.MIN_VALUE;

/** The reference of the series that came after that of a record last time, or -1. */
@inline
export function successorOf(record: usize): i32 {
  return <i32>load<u32>(record, SUCCESSOR) - 1;
}

@inline
export function setSuccessor(record: usize, reference: i32): void {
  store<u32>(record, <u32>reference + 1, SUCCESSOR);
}

@inline
export function recordOf(table: usize, reference: u32): usize {
  return recordAt(table, reference);
}

/** The size of the labels of a record if they are what stands at `p`, or 0. */
@inline
export function sizeIfAt(record: usize, p: usize, end: usize): u32 {
  const size = load<u32>(record, LABELS_SIZE);
  return size <= <u32>(end - p) && sameBytes(load<usize>(record, LABELS), p, size) ? size : 0;
}

/** The reference of the series that has just these bytes as labels, or BAD_REFERENCE. */
export function findLabels(table: usize, labels: usize, size: u32): i32 {
  return find(table, labels, size, hashOf(table, labels, size));
}

/**
 * Finds or makes the series that `walkKnownSeries` left UNRESOLVED among its `count` entries. Results and
 * parameters are those of `resolveSeries`.
 */
export function resolveNew(table: usize, entries: usize, count: u32, references: usize, after: i32): i32 {
  let last = after;
  let learns = false;
  for (let i: u32 = 0; i < count; i++) {
    let reference = load<i32>(references + (i << 2));
    const isNew = reference == UNRESOLVED;
    if (isNew) {
      const entry = entries + (i << 4);
      reference = resolveLabels(table, load<usize>(entry), load<u32>(entry, 4), true);
      store<i32>(references + (i << 2), reference);
    }
    if (reference < 0) continue;
    if ((isNew || learns) && last >= 0) setSuccessor(recordAt(table, last), reference);
    learns = isNew;
    last = reference;
  }
  return last;
}

/**
 * Finds or makes the series of `count` entries of `walkWriteRequest`; writes their references, or faults, as
 * 32-bit numbers to `references`. `after` is the last series of the same sender before, or -1. Returns the last.
 */
export function resolveSeries(table: usize, entries: usize, count: u32, references: usize, after: i32): i32 {
  return resolveEntries(table, entries, count, references, after, true);
}

/** The same without making any: what is not known is left UNRESOLVED for `resolveNew`. */
export function findSeries(table: usize, entries: usize, count: u32, references: usize, after: i32): i32 {
  return resolveEntries(table, entries, count, references, after, false);
}

@inline
function resolveEntries(
  table: usize,
  entries: usize,
  count: u32,
  references: usize,
  after: i32,
  creates: bool,
): i32 {
  let record: usize = after >= 0 ? seriesRecord(table, after) : 0;
  let last = after;
  for (let i: u32 = 0; i < count; i++) {
    const entry = entries + (i << 4);
    const labels = load<usize>(entry);
    const size = load<u32>(entry, 4);
    let reference: i32 = -1;
    if (record != 0) {
      const next = load<u32>(record, SUCCESSOR);
      if (next != 0) {
        const candidate = recordAt(table, next - 1);
        if (
          load<u32>(candidate, LABELS_SIZE) == size &&
          sameBytes(load<usize>(candidate, LABELS), labels, size)
        ) {
          record = candidate;
          last = next - 1;
          store<i32>(references + (i << 2), last);
          continue;
        }
      }
    }
    reference = creates ? resolveLabels(table, labels, size, true) : findLabels(table, labels, size);
    store<i32>(references + (i << 2), !creates && reference < 0 ? UNRESOLVED : reference);
    if (reference < 0) {
      if (!creates) record = 0;
      continue;
    }
    if (record != 0) store<u32>(record, reference + 1, SUCCESSOR);
    record = recordAt(table, reference);
    last = reference;
  }
  return last;
}
