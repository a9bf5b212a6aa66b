import { expect, test } from 'vitest';
import { ByteArena } from './byte-arena.ts';

test.each([
  ['nothing', []],
  ['small pieces', [10, 2000, 3]],
  ['pieces that fill pages', [65_536, 65_536]],
  ['a piece that does not fit into a first page that is small', [10, 65_536, 7]],
  ['a piece that leaves the end of a page empty', [40_000, 40_000, 40_000]],
])('%s, made again of its parts: the same bytes at the same addresses', (_what, sizes) => {
  const arena = new ByteArena();
  const fill = (into: ByteArena, sizeBytes: number, value: number): number => {
    const address = into.allocate(sizeBytes);
    const at = ByteArena.inPage(address);
    into.page(address).fill(value, at, at + sizeBytes);
    return address;
  };
  const addresses = sizes.map((sizeBytes, i) => fill(arena, sizeBytes, i + 1));
  const again = ByteArena.from(Buffer.concat(arena.parts()));
  for (const [i, address] of addresses.entries()) {
    const at = ByteArena.inPage(address);
    const piece = again.page(address).subarray(at, at + (sizes[i] ?? 0));
    expect(piece).toHaveLength(sizes[i] ?? 0);
    expect(piece.every((byte) => byte === i + 1)).toBe(true);
  }
  expect(fill(again, 100, 9)).toBe(fill(arena, 100, 9));
});
