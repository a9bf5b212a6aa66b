// Lists of the pages that something holds, for an image of the memory: of each its address and 0, or, when nothing
// writes to it any more until it is given back, its address + 1 and the serial that stands in its bytes 4 to 8.

const SERIAL: usize = 4;

@inline
function put(out: usize, count: u32, address: usize, serial: u32): u32 {
  if (out != 0) {
    store<usize>(out + (<usize>count << 3), address);
    store<u32>(out + (<usize>count << 3), serial, 4);
  }
  return count + 1;
}

export function listPage(out: usize, count: u32, page: usize): u32 {
  return put(out, count, page, 0);
}

/** The pages whose addresses stand at `pages`, those that are not 0. */
export function listTree(out: usize, from: u32, pages: usize, length: u32): u32 {
  let count = from;
  for (let i: u32 = 0; i < length; i++) {
    const page = load<usize>(pages + (<usize>i << 2));
    if (page != 0) count = put(out, count, page, 0);
  }
  return count;
}

/** A chain of pages that are filled one after the other: only the newest is still written. */
export function listChain(out: usize, from: u32, newest: usize): u32 {
  if (newest == 0) return from;
  let count = put(out, from, newest, 0);
  for (let page = load<usize>(newest); page != 0; page = load<usize>(page)) {
    count = put(out, count, page + 1, load<u32>(page, SERIAL));
  }
  return count;
}
