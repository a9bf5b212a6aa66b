/**
 * Operations on ascending lists of distinct numbers. They return new arrays or one of their arguments, and change
 * none.
 */

export function intersect(a: Uint32Array, b: Uint32Array): Uint32Array {
  const [few, many] = a.length <= b.length ? [a, b] : [b, a];
  const out = new Uint32Array(few.length);
  let count = 0;
  let from = 0;
  const gallops = many.length > few.length * 16;
  for (let i = 0; i < few.length && from < many.length; i++) {
    const value = few[i] as number;
    if (gallops) from = firstAtLeast(many, value, from);
    else while (from < many.length && (many[from] as number) < value) from++;
    if (many[from] === value) out[count++] = value;
  }
  return out.subarray(0, count);
}

/** 0, 1, … up to `count`. `Uint32Array.from` takes thirty times as long. */
export function numbersUpTo(count: number): Uint32Array {
  const out = new Uint32Array(count);
  for (let i = 0; i < count; i++) out[i] = i;
  return out;
}

/** Sorts numbers that came from several ascending lists, and drops doubles. `limit` is greater than all of them. */
export function sortDistinct(values: Uint32Array, limit: number): Uint32Array {
  // Sorting costs about 50 ns a number here, a map of bits one pass over `limit` bits.
  if (values.length * 64 < limit) {
    const sorted = values.slice().sort();
    let count = 0;
    for (let i = 0; i < sorted.length; i++) {
      if (i === 0 || sorted[i] !== sorted[i - 1]) sorted[count++] = sorted[i] as number;
    }
    return sorted.subarray(0, count);
  }
  const bits = new Uint32Array((limit + 31) >>> 5);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    (bits[value >>> 5] as number) |= 1 << (value & 31);
  }
  return fromBits(bits, values.length);
}

function fromBits(bits: Uint32Array, atMost: number): Uint32Array {
  const out = new Uint32Array(atMost);
  let count = 0;
  for (let i = 0; i < bits.length; i++) {
    for (let word = bits[i] as number; word !== 0; word &= word - 1) {
      out[count++] = (i << 5) + 31 - Math.clz32(word & -word);
    }
  }
  return out.subarray(0, count);
}

/** Index of the first number that is at least `value`, at or behind `from`, found in growing steps. */
function firstAtLeast(sorted: Uint32Array, value: number, from: number): number {
  let step = 1;
  let low = from;
  while (low + step < sorted.length && (sorted[low + step] as number) < value) {
    low += step;
    step *= 2;
  }
  let high = Math.min(low + step, sorted.length);
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
