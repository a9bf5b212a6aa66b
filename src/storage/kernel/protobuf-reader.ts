import { ByteReader } from './byte-reader.ts';
import { KernelFault } from './kernel-fault.ts';

export const VARINT = 0;
export const FIXED64 = 1;
export const BYTES = 2;
const FIXED32 = 5;

export interface Field {
  readonly number: number;
  readonly wireType: number;
  /** All of it, with its tag. */
  readonly whole: Uint8Array;
  /** Of a varint. */
  readonly integer: bigint;
  /** Of anything else. */
  readonly content: Uint8Array;
}

/**
 * The fields of a protobuf message, in order; `expected` has the wire types of known ones.
 * @throws KernelFault while going through them
 */
export function* fieldsOf(message: Uint8Array, expected: Readonly<Record<number, number>>): Generator<Field> {
  const reader = new ByteReader(message);
  while (reader.left > 0) {
    const start = reader.at;
    const tag = reader.varint();
    const number = Number(tag >> 3n);
    if (number === 0 || number >= 2 ** 29) throw new KernelFault('BAD_TAG');
    const wireType = Number(tag & 7n);
    if (wireType > BYTES && wireType !== FIXED32) throw new KernelFault('BAD_TAG');
    if ((expected[number] ?? wireType) !== wireType) throw new KernelFault('BAD_WIRE_TYPE');
    let integer = 0n;
    let content = new Uint8Array();
    if (wireType === VARINT) integer = reader.varint();
    else if (wireType === FIXED64) content = Uint8Array.from(reader.take(8));
    else if (wireType === FIXED32) content = Uint8Array.from(reader.take(4));
    else content = Uint8Array.from(reader.take(Number(reader.varint())));
    yield { number, wireType, integer, content, whole: message.subarray(start, reader.at) };
  }
}
