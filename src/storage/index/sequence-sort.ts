const INSERTION_LIMIT = 12;

/** Element `depth` of the sequence of an item, or -1 behind its end. */
export type ElementAt = (item: number, depth: number) => number;

/**
 * Sorts items in place by their sequences of numbers; a sequence comes before those that it begins. Items with
 * equal sequences end up beside each other.
 *
 * Three-way radix quicksort (Bentley and Sedgewick, "Fast algorithms for sorting and searching strings", 1997):
 * what many sequences share is looked at once for all of them, not in every comparison. Pivots are taken from
 * scattered places: the items are often several sorted runs behind each other, for which the first, the middle and
 * the last item are the worst choice.
 */
export function sortBySequence(items: Uint32Array, elementAt: ElementAt): void {
  // Ranges to sort, as start, stop, depth: a stack of our own, because depth follows the data.
  const open = [0, items.length, 0];
  while (open.length > 0) {
    const depth = open.pop() as number;
    const stop = open.pop() as number;
    const start = open.pop() as number;
    if (stop - start <= INSERTION_LIMIT) {
      insertionSort(items.subarray(start, stop), depth, elementAt);
      continue;
    }
    const pivot = medianOfThree(items.subarray(start, stop), depth, elementAt);
    let less = start;
    let more = stop;
    for (let i = start; i < more;) {
      const item = items[i] as number;
      const element = elementAt(item, depth);
      if (element === pivot) {
        i++;
      } else if (element < pivot) {
        items[i++] = items[less] as number;
        items[less++] = item;
      } else {
        items[i] = items[--more] as number;
        items[more] = item;
      }
    }
    if (less - start > 1) open.push(start, less, depth);
    if (stop - more > 1) open.push(more, stop, depth);
    if (pivot >= 0 && more - less > 1) open.push(less, more, depth + 1);
  }
}

function medianOfThree(items: Uint32Array, depth: number, elementAt: ElementAt): number {
  // The low bits of a product with an odd number are spread over all places, and are the same in every run.
  const spread = Math.imul(items.length, 0x9e3779b1) >>> 0;
  const a = elementAt(items[spread % items.length] as number, depth);
  const b = elementAt(items[(spread >>> 7) % items.length] as number, depth);
  const c = elementAt(items[(spread >>> 14) % items.length] as number, depth);
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}

function insertionSort(items: Uint32Array, depth: number, elementAt: ElementAt): void {
  for (let i = 1; i < items.length; i++) {
    const item = items[i] as number;
    let to = i;
    while (to > 0 && comesBefore(item, items[to - 1] as number, depth, elementAt)) {
      items[to] = items[to - 1] as number;
      to--;
    }
    items[to] = item;
  }
}

function comesBefore(a: number, b: number, from: number, elementAt: ElementAt): boolean {
  for (let depth = from; ; depth++) {
    const difference = elementAt(a, depth) - elementAt(b, depth);
    if (difference !== 0) return difference < 0;
    if (elementAt(a, depth) < 0) return false;
  }
}
