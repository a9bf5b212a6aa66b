import { ByteReader } from './byte-reader.ts';
import { ByteWriter, varintSize } from './byte-writer.ts';
import { type IntegerMode, integersSize, readIntegers, writeIntegers } from './integer-column.ts';
import { KernelFault } from './kernel-fault.ts';

/**
 * The plain counterpart of `assembly/value-column.ts`: the values of one series in one block, every double bit
 * for bit. `docs/formats/sealed-block.md` draws the bytes.
 */
const BITS = 4;
const EXCEPTIONS = 8;
const MAX_EXPONENT = 18;
const MAX_DECIMAL = 2 ** 51;
const SAMPLES = 32;
const POWERS = Array.from({ length: MAX_EXPONENT + 1 }, (_, exponent) => Number(`1e${exponent}`));

const view = new DataView(new ArrayBuffer(8));

function toDouble(bits: bigint): number {
  view.setBigUint64(0, bits);
  return view.getFloat64(0);
}

function toBits(value: number): bigint {
  view.setFloat64(0, value);
  return view.getBigUint64(0);
}

/** Rounds to the nearest integer, halves to even; exact below 2^51. */
function nearest(value: number): number {
  const large = 3 * 2 ** 51;
  return value + large - large;
}

/** The integer d for which d / 10^exponent is the very double of these bits. */
function decimalOf(bits: bigint, exponent: number): bigint | undefined {
  const scale = POWERS[exponent] ?? 1;
  const scaled = toDouble(bits) * scale;
  if (!(Math.abs(scaled) < MAX_DECIMAL)) return undefined;
  const rounded = nearest(scaled);
  return toBits(rounded / scale) === bits && !Object.is(rounded, -0) ? BigInt(rounded) : undefined;
}

function exponentOf(bits: bigint): number {
  for (let exponent = 0; exponent <= MAX_EXPONENT; exponent++) {
    if (decimalOf(bits, exponent) !== undefined) return exponent;
  }
  return MAX_EXPONENT + 1;
}

function chooseExponent(values: BigUint64Array, stride: number): number {
  const needed = Array.from(values)
    .filter((_, i) => i % stride === 0)
    .map(exponentOf);
  const costs = POWERS.map(
    (_, exponent) => 33 * exponent * needed.length + 800 * needed.filter((other) => other > exponent).length,
  );
  return costs.indexOf(Math.min(...costs));
}

interface Decimals {
  readonly exponent: number;
  readonly numbers: bigint[];
  /** Places of the values that are not decimal. */
  readonly excepted: number[];
}

function toDecimals(values: BigUint64Array, exponent: number): Decimals {
  const found = Array.from(values, (bits) => decimalOf(bits, exponent));
  let previous = found.find((number) => number !== undefined) ?? 0n;
  const numbers = found.map((number) => (previous = number ?? previous));
  const excepted = found.flatMap((number, i) => (number === undefined ? [i] : []));
  return { exponent, numbers, excepted };
}

/** How many zero bits all numbers end with. */
function commonZeros(numbers: readonly bigint[]): bigint {
  const all = numbers.reduce((one, other) => one | other, 0n);
  if (all === 0n) return 0n;
  let zeros = 0n;
  while (((all >> zeros) & 1n) === 0n) zeros++;
  return zeros;
}

interface Candidate {
  readonly size: number;
  readonly mode: IntegerMode;
  readonly zeros: bigint;
  readonly numbers: readonly bigint[];
}

function bestOf(whole: readonly bigint[]): Candidate {
  const zeros = commonZeros(whole);
  const numbers = whole.map((number) => number >> zeros);
  const frame = integersSize(numbers, 'frame');
  const delta = integersSize(numbers, 'delta');
  return { size: Math.min(frame, delta), mode: delta < frame ? 'delta' : 'frame', zeros, numbers };
}

/** Encodes the bits of one or more doubles. */
export function encodeValues(values: BigUint64Array): Uint8Array {
  if (values.length === 0) throw new KernelFault('BAD_COUNT');
  const writer = new ByteWriter();
  const first = values[0] ?? 0n;
  if (values.every((bits) => bits === first)) {
    writer.byte(0);
    writer.varint(byteSwapped(first));
    return writer.toBytes();
  }
  const decimals = decimalsOf(values);
  const { excepted } = decimals;
  const decimal = excepted.length < values.length ? bestOf(decimals.numbers) : undefined;
  const size = decimal === undefined ? Number.POSITIVE_INFINITY : decimal.size + exceptionsSize(excepted);
  const bits =
    excepted.length * 8 > values.length
      ? bestOf(Array.from(values, (value) => BigInt.asIntN(64, value)))
      : undefined;
  const chosen = bits !== undefined && bits.size <= size ? bits : decimal;
  if (chosen === undefined) throw new Error('assertion failed: a column has no encoding');
  const flags = chosen === bits ? BITS : excepted.length > 0 ? EXCEPTIONS : 0;
  writer.byte((chosen.mode === 'delta' ? 2 : 1) | flags);
  writer.byte(chosen === bits ? 0 : decimals.exponent);
  writer.byte(Number(chosen.zeros));
  writeIntegers(writer, chosen.numbers, chosen.mode);
  if (flags === EXCEPTIONS) writeExceptions(writer, values, excepted);
  return writer.toBytes();
}

function decimalsOf(values: BigUint64Array): Decimals {
  const stride = Math.max(1, Math.floor(values.length / SAMPLES));
  const decimals = toDecimals(values, chooseExponent(values, stride));
  const share = decimals.excepted.length / values.length;
  return share > 1 / 16 && share < 1 / 2 ? toDecimals(values, chooseExponent(values, 1)) : decimals;
}

function byteSwapped(bits: bigint): bigint {
  view.setBigUint64(0, bits);
  return view.getBigUint64(0, true);
}

function exceptionsSize(excepted: readonly number[]): number {
  if (excepted.length === 0) return 0;
  const places = excepted.map((place, i) => varintSize(BigInt(place - (excepted[i - 1] ?? 0))));
  return varintSize(BigInt(excepted.length)) + places.reduce((one, other) => one + other + 8, 0);
}

function writeExceptions(writer: ByteWriter, values: BigUint64Array, excepted: readonly number[]): void {
  writer.varint(excepted.length);
  for (const [i, place] of excepted.entries()) {
    writer.varint(place - (excepted[i - 1] ?? 0));
    writer.littleEndian64(values[place] ?? 0n);
  }
}

/**
 * Decodes `count` doubles to their bits.
 * @throws KernelFault
 */
export function decodeValues(bytes: Uint8Array, count: number): BigUint64Array {
  if (count === 0) throw new KernelFault('BAD_COUNT');
  const reader = new ByteReader(bytes);
  const flags = reader.byte();
  if (flags === 0) {
    const values = new BigUint64Array(count).fill(byteSwapped(reader.varint()));
    reader.end();
    return values;
  }
  const mode = flags & 3;
  if ((mode !== 1 && mode !== 2) || flags >= (BITS | EXCEPTIONS)) throw new KernelFault('BAD_HEADER');
  const exponent = reader.byte();
  const zeros = reader.byte();
  const isBits = (flags & BITS) !== 0;
  if (zeros > 63 || exponent > (isBits ? 0 : MAX_EXPONENT)) throw new KernelFault('BAD_HEADER');
  const numbers = readIntegers(reader, count, mode === 1 ? 'frame' : 'delta', isBits ? 64 : 54);
  const values = new BigUint64Array(count);
  for (const [i, number] of numbers.entries()) {
    const whole = number << BigInt(zeros);
    values[i] = isBits ? BigInt.asUintN(64, whole) : toBits(Number(whole) / (POWERS[exponent] ?? 1));
  }
  if ((flags & EXCEPTIONS) !== 0) readExceptions(reader, values);
  reader.end();
  return values;
}

function readExceptions(reader: ByteReader, values: BigUint64Array): void {
  const excepted = reader.varint();
  if (excepted > values.length || excepted === 0n) throw new KernelFault('BAD_COUNT');
  let place = 0n;
  for (let i = 0n; i < excepted; i++) {
    const step = reader.varint();
    place += step;
    if (step >= values.length || (i > 0n && step === 0n) || place >= values.length) {
      throw new KernelFault('BAD_OFFSET');
    }
    values[Number(place)] = reader.littleEndian64();
  }
}
