import { LabelCursor } from '../index/labels.ts';

const left = new LabelCursor();
const right = new LabelCursor();

/**
 * The order in which ordered reads give series, of canonical label bytes: label by label, first by name, then by value,
 * by their bytes; of two that begin alike the shorter first.
 */
export function compareLabelBytes(a: Uint8Array, b: Uint8Array): number {
  left.reset(a, 0, a.length);
  right.reset(b, 0, b.length);
  for (;;) {
    const more = left.next();
    if (!right.next()) return more ? 1 : 0;
    if (!more) return -1;
    const order = compareParts(a, b);
    if (order !== 0) return order;
  }
}

function compareParts(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(left.stop - left.start, right.stop - right.start);
  for (let i = 0; i < length; i++) {
    const difference = (a[left.start + i] as number) - (b[right.start + i] as number);
    if (difference !== 0) return difference;
  }
  return left.stop - left.start - (right.stop - right.start);
}
