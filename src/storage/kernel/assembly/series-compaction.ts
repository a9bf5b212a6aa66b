// Forgetting series that have no samples any more: those that do move to a new table, in their order, and their lines
// to the places of their new references. All of it takes pages that the caller has seen to be there.
import { PAGE_BYTES, givePage, takePage } from './allocator';
import { CLOSED_COUNT, COUNT, DUE_COUNT, LATE, LINES_PER_PAGE, LINE_PAGES, MAX_LINE_PAGES, PAGES, PIECE, lineAt } from './chunk-layout';
import { OUT_OF_MEMORY } from './fault';
import { emptySeriesTable, recordOf, resolveLabels } from './series-table';

const LINE_BYTES: usize = 32;

/** Sets a byte for each of `count` series that has samples in the set. */
export function markSeries(chunks: usize, marks: usize, count: u32): void {
  for (let reference: u32 = 0; reference < count; reference++) {
    const line = lineAt(chunks, reference);
    if (line == 0 || load<usize>(line, PIECE) == 0) continue;
    const piece = load<usize>(line, PIECE);
    if (load<u32>(line, COUNT) + load<u32>(piece, CLOSED_COUNT) > 0 || load<usize>(piece, LATE) != 0) {
      store<u8>(marks + reference, 1);
    }
  }
}

/** Adds the marked series to a fresh table; `map` gets their references + 1, and 0 for the others. Returns how many. */
export function moveSeries(table: usize, fresh: usize, marks: usize, map: usize, count: u32): i32 {
  let moved = 0;
  for (let reference: u32 = 0; reference < count; reference++) {
    const place = map + (<usize>reference << 2);
    store<u32>(place, 0);
    if (load<u8>(marks + reference) == 0) continue;
    const record = recordOf(table, reference);
    const next = resolveLabels(fresh, load<usize>(record), load<u32>(record, 4), true);
    if (next < 0) return next;
    store<u32>(place, next + 1);
    moved++;
  }
  return moved;
}

/** Moves the lines of a set to the references of `map`; returns 0, or a fault, and then nothing has changed. */
export function moveLines(chunks: usize, map: usize, count: u32): i32 {
  const pages = takePage();
  if (pages == 0) return OUT_OF_MEMORY;
  let taken: u32 = 0;
  for (let reference: u32 = 0; reference < count; reference++) {
    const next = load<u32>(map + (<usize>reference << 2));
    const line = lineAt(chunks, reference);
    if (next == 0 || line == 0) continue;
    const place = pages + (((next - 1) / LINES_PER_PAGE) << 2);
    if (load<usize>(place) == 0) {
      store<usize>(place, takePage());
      if (load<usize>(place) == 0) {
        giveAll(pages);
        givePage(pages);
        return OUT_OF_MEMORY;
      }
      taken++;
    }
    memory.copy(load<usize>(place) + <usize>((next - 1) % LINES_PER_PAGE) * LINE_BYTES, line, LINE_BYTES);
  }
  const given = giveAll(chunks + LINE_PAGES);
  memory.copy(chunks + LINE_PAGES, pages, MAX_LINE_PAGES << 2);
  store<u32>(chunks, load<u32>(chunks, PAGES) + taken - given, PAGES);
  store<u32>(chunks, 0, DUE_COUNT);
  givePage(pages);
  return 0;
}

function giveAll(pages: usize): u32 {
  let given: u32 = 0;
  for (let i: u32 = 0; i < MAX_LINE_PAGES; i++) {
    const page = load<usize>(pages + (<usize>i << 2));
    if (page == 0) continue;
    givePage(page);
    given++;
  }
  return given;
}

/** Puts a fresh table in the place of another, so that its address stays. */
export function replaceTable(table: usize, fresh: usize): void {
  emptySeriesTable(table);
  memory.copy(table, fresh, PAGE_BYTES);
  givePage(fresh);
}
