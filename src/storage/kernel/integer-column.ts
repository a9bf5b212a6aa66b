import { type ByteReader } from './byte-reader.ts';
import { type ByteWriter, varintSize, zigzag } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';

/**
 * The plain counterpart of `assembly/integer-column.ts` and `assembly/mini-block.ts`: runs of 64-bit integers
 * in mini-blocks of 128, each over its least number.
 */
export type IntegerMode = 'frame' | 'delta';

export const MINI_BLOCK = 128;

interface MiniBlock {
  readonly least: bigint;
  readonly width: number;
  readonly numbers: readonly bigint[];
}

function differences(numbers: readonly bigint[]): bigint[] {
  return numbers.slice(1).map((number, i) => BigInt.asIntN(64, number - (numbers[i] ?? 0n)));
}

function miniBlocks(numbers: readonly bigint[], mode: IntegerMode): MiniBlock[] {
  const all = mode === 'delta' ? differences(numbers) : numbers;
  const blocks: MiniBlock[] = [];
  for (let from = 0; from < all.length; from += MINI_BLOCK) {
    const some = all.slice(from, from + MINI_BLOCK);
    const least = some.reduce((one, other) => (other < one ? other : one));
    const most = some.reduce((one, other) => (other > one ? other : one));
    blocks.push({ least, width: bitLength(most - least), numbers: some.map((number) => number - least) });
  }
  return blocks;
}

function bitLength(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}

export function packedBytes(count: number, width: number): number {
  const rows = Math.ceil(count / 4);
  const plane = (bits: number): number => Math.ceil((rows * bits) / 32) * 16;
  return width <= 32 ? plane(width) : plane(32) + plane(width - 32);
}

export function integersSize(numbers: readonly bigint[], mode: IntegerMode): number {
  let size = mode === 'delta' ? varintSize(zigzag(numbers[0] ?? 0n)) : 0;
  let previous = 0n;
  for (const { least, width, numbers: some } of miniBlocks(numbers, mode)) {
    size += 1 + varintSize(zigzag(least - previous)) + packedBytes(some.length, width);
    previous = least;
  }
  return size;
}

export function writeIntegers(writer: ByteWriter, numbers: readonly bigint[], mode: IntegerMode): void {
  if (mode === 'delta') writer.zigzag(numbers[0] ?? 0n);
  let previous = 0n;
  for (const { least, width, numbers: some } of miniBlocks(numbers, mode)) {
    writer.varint(width);
    writer.zigzag(least - previous);
    previous = least;
    writePlane(writer, some, Math.min(width, 32));
    if (width > 32) {
      writePlane(
        writer,
        some.map((number) => number >> 32n),
        width - 32,
      );
    }
  }
}

function writePlane(writer: ByteWriter, numbers: readonly bigint[], width: number): void {
  const words = packedBytes(numbers.length, width) / 16;
  const lanes = [0, 1, 2, 3].map((lane) =>
    numbers
      .filter((_, i) => i % 4 === lane)
      .reduce((bits, number, row) => bits | (BigInt.asUintN(width, number) << BigInt(row * width)), 0n),
  );
  for (let word = 0; word < words; word++) {
    for (const lane of lanes) {
      const bits = Number(BigInt.asUintN(32, lane >> BigInt(word * 32)));
      writer.append([bits & 255, (bits >> 8) & 255, (bits >> 16) & 255, bits >>> 24]);
    }
  }
}

export function readIntegers(reader: ByteReader, count: number, mode: IntegerMode, maxWidth = 64): bigint[] {
  const numbers: bigint[] = mode === 'delta' ? [reader.zigzag()] : [];
  let least = 0n;
  while (numbers.length < count) {
    const some = Math.min(MINI_BLOCK, count - numbers.length);
    const width = Number(reader.varint());
    least = BigInt.asIntN(64, least + reader.zigzag());
    if (width > 64) throw new KernelFault('BAD_WIDTH');
    if (packedBytes(some, width) > reader.left) throw new KernelFault('TRUNCATED');
    if (width > maxWidth) throw new KernelFault('BAD_WIDTH');
    const low = readPlane(reader, some, Math.min(width, 32));
    const high = width > 32 ? readPlane(reader, some, width - 32) : [];
    for (let i = 0; i < some; i++) {
      const number = least + (low[i] ?? 0n) + ((high[i] ?? 0n) << 32n);
      const before = mode === 'delta' ? (numbers.at(-1) ?? 0n) : 0n;
      numbers.push(BigInt.asIntN(64, before + number));
    }
  }
  return numbers;
}

function readPlane(reader: ByteReader, count: number, width: number): bigint[] {
  const bytes = reader.take(packedBytes(count, width));
  const lanes = [0n, 0n, 0n, 0n];
  for (let i = bytes.length - 1; i >= 0; i--) {
    const lane = (i >> 2) & 3;
    lanes[lane] = ((lanes[lane] ?? 0n) << 8n) | BigInt(bytes[i] ?? 0);
  }
  return Array.from({ length: count }, (_, i) =>
    BigInt.asUintN(width, (lanes[i & 3] ?? 0n) >> BigInt((i >> 2) * width)),
  );
}
