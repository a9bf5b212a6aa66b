import type { SeededRandom } from '../../../test/seeded-random.ts';

/** Numbers at which lengths and offsets go wrong. */
const EDGES: readonly (readonly number[])[] = [
  [0x00],
  [0x7f],
  [0xff],
  [0xff, 0xff, 0xff, 0xff, 0x07],
  [0xff, 0xff, 0xff, 0xff, 0x0f],
  [0x80, 0x80, 0x80, 0x80, 0x10],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
  [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
];

/** Bytes that are not quite what a decoder expects: of a valid text, some of another one, changed in a few places. */
export function mutate(valid: Uint8Array, other: Uint8Array, random: SeededRandom): Buffer {
  let bytes = Buffer.from(valid);
  for (let count = 1 + random.below(3); count > 0; count--) bytes = change(bytes, other, random);
  return bytes;
}

function change(bytes: Buffer, other: Uint8Array, random: SeededRandom): Buffer<ArrayBuffer> {
  const at = random.below(bytes.length + 1);
  const end = Math.min(bytes.length, at + 1 + random.below(random.chance(0.8) ? 4 : bytes.length + 1));
  const [before, behind] = [bytes.subarray(0, at), bytes.subarray(end)];
  const from = random.below(other.length + 1);
  switch (random.below(7)) {
    case 0:
      return Buffer.concat([before, behind]);
    case 1:
      return Buffer.from(before);
    case 2:
      return Buffer.concat([before, Buffer.from(random.pick([EDGES[0] ?? [], ...EDGES])), behind]);
    case 3:
      return Buffer.concat([before, bytes.subarray(at, end), bytes.subarray(at)]);
    case 4:
      return Buffer.concat([before, other.subarray(from, from + random.below(40)), behind]);
    case 5:
      return Buffer.concat([before, random.bytes(end - at), behind]);
    default: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
      return copy;
    }
  }
}
