import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';

/**
 * The plain counterpart of `assembly/snappy.ts`: the block format of Snappy (google/snappy,
 * format_description.txt).
 */
const BLOCK = 65_536;
const TABLE_BITS = 14;

/** Decodes a block of at most `capacity` bytes. @throws KernelFault */
export function decodeSnappy(bytes: Uint8Array, capacity: number): Uint8Array {
  const reader = new ByteReader(bytes);
  const size = reader.varint();
  if (size > 0x7fff_ffffn || size > capacity) throw new KernelFault('TOO_LARGE');
  const out = new Uint8Array(Number(size));
  let at = 0;
  while (reader.left > 0) {
    const { literal, count, distance } = readElement(reader);
    if (literal !== undefined) {
      if (count > out.length - at) throw new KernelFault('TRAILING_BYTES');
      out.set(literal, at);
    } else {
      if (distance === 0 || distance > at) throw new KernelFault('BAD_OFFSET');
      if (count > out.length - at) throw new KernelFault('TRAILING_BYTES');
      for (let i = at; i < at + count; i++) out[i] = out[i - distance] ?? 0;
    }
    at += count;
  }
  if (at < out.length) throw new KernelFault('TRUNCATED');
  return out;
}

interface Element {
  readonly literal?: Uint8Array;
  readonly count: number;
  readonly distance: number;
}

function readElement(reader: ByteReader): Element {
  const tag = reader.byte();
  const upper = tag >> 2;
  switch (tag & 3) {
    case 0: {
      const count = (upper < 60 ? upper : littleEndian(reader, upper - 59)) + 1;
      return { literal: reader.take(count), count, distance: 0 };
    }
    case 1:
      return { count: (upper & 7) + 4, distance: (tag >> 5) * 256 + reader.byte() };
    case 2:
      return { count: upper + 1, distance: littleEndian(reader, 2) };
    default:
      return { count: upper + 1, distance: littleEndian(reader, 4) };
  }
}

function littleEndian(reader: ByteReader, size: number): number {
  return reader.take(size).reduceRight((sum, byte) => sum * 256 + byte, 0);
}

export function encodeSnappy(bytes: Uint8Array): Uint8Array {
  const writer = new ByteWriter();
  writer.varint(bytes.length);
  for (let from = 0; from < bytes.length; from += BLOCK) {
    encodeBlock(bytes.subarray(from, from + BLOCK), writer);
  }
  return writer.toBytes();
}

function encodeBlock(block: Uint8Array, writer: ByteWriter): void {
  const view = new DataView(block.buffer, block.byteOffset, block.length);
  const table = new Uint16Array(1 << TABLE_BITS);
  let literal = 0;
  let misses = 32;
  for (let at = 1; at + 4 <= block.length;) {
    const four = view.getUint32(at, true);
    const slot = Math.imul(four, 0x1e35a7bd) >>> (32 - TABLE_BITS);
    const seen = table[slot] ?? 0;
    table[slot] = at;
    if (view.getUint32(seen, true) !== four) {
      at += misses++ >> 5;
      continue;
    }
    misses = 32;
    writeLiteral(block.subarray(literal, at), writer);
    let matched = 4;
    while (at + matched < block.length && block[seen + matched] === block[at + matched]) matched++;
    writeCopy(at - seen, matched, writer);
    at += matched;
    literal = at;
  }
  writeLiteral(block.subarray(literal), writer);
}

function writeLiteral(literal: Uint8Array, writer: ByteWriter): void {
  const less = literal.length - 1;
  if (less < 0) return;
  if (less < 60) writer.byte(less << 2);
  else if (less < 256) writer.append([60 << 2, less]);
  else writer.append([61 << 2, less & 255, less >> 8]);
  writer.append(literal);
}

function writeCopy(distance: number, matched: number, writer: ByteWriter): void {
  let count = matched;
  while (count > 64) {
    const some = count >= 68 ? 64 : 60;
    writer.append([((some - 1) << 2) | 2, distance & 255, distance >> 8]);
    count -= some;
  }
  if (count <= 11 && distance < 2048) {
    writer.append([((distance >> 8) << 5) | ((count - 4) << 2) | 1, distance & 255]);
  } else writer.append([((count - 1) << 2) | 2, distance & 255, distance >> 8]);
}
