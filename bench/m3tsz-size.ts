/**
 * How many bytes M3TSZ (M3's encoding/m3tsz, integer optimisation on) or TSZ would take for samples at whole
 * milliseconds. Only the bits are counted; it is the yardstick for how hard a data set is.
 */
const MAX_MULTIPLIER = 6;
const MAX_INTEGER = 1e13;

const view = new DataView(new ArrayBuffer(8));

function bitsOf(value: number): bigint {
  view.setFloat64(0, value);
  return view.getBigUint64(0);
}

function neighbour(value: number, towards: number): number {
  if (value === towards) return value;
  const bits = bitsOf(value);
  view.setBigUint64(0, value < towards === value > 0 ? bits + 1n : bits - 1n);
  return view.getFloat64(0);
}

function toInteger(value: number, from: number): { integer: number; multiplier: number } | undefined {
  if (from === 0 && value < MAX_INTEGER && Number.isInteger(value)) return { integer: value, multiplier: 0 };
  const sign = value < 0 ? -1 : 1;
  let scaled = Math.abs(value) * 10 ** from;
  for (let multiplier = from; multiplier <= MAX_MULTIPLIER && scaled < MAX_INTEGER; multiplier++) {
    const whole = Math.trunc(scaled);
    const rest = scaled - whole;
    if (rest === 0 || (rest < 0.1 && neighbour(scaled, 0) <= whole))
      return { integer: sign * whole, multiplier };
    if (rest > 0.9 && neighbour(scaled, whole + 1) >= whole + 1)
      return { integer: sign * (whole + 1), multiplier };
    scaled *= 10;
  }
  return undefined;
}

function lengthOf(magnitude: number): number {
  return magnitude === 0 ? 0 : Math.floor(Math.log2(magnitude)) + 1;
}

class Xor {
  #previous = 0n;
  #leading = 0;
  #trailing = 64;

  set(bits: bigint): number {
    this.#previous = bits;
    this.#leading = 0;
    this.#trailing = 0;
    return 64;
  }

  next(bits: bigint): number {
    const xor = bits ^ this.#previous;
    this.#previous = bits;
    if (xor === 0n) return 1;
    const leading = 64 - xor.toString(2).length;
    const trailing = xor.toString(2).length - xor.toString(2).replace(/0+$/, '').length;
    const contained = leading >= this.#leading && trailing >= this.#trailing;
    const size = contained ? 2 + 64 - this.#leading - this.#trailing : 14 + 64 - leading - trailing;
    this.#leading = leading;
    this.#trailing = trailing;
    return size;
  }
}

function timeBits(times: Float64Array): number {
  let bits = 64;
  let delta = 0;
  for (let i = 1; i < times.length; i++) {
    const next = (times[i] ?? 0) - (times[i - 1] ?? 0);
    const dod = next - delta;
    delta = next;
    bits +=
      dod === 0 ? 1 : Math.abs(dod) < 64 ? 9 : Math.abs(dod) < 256 ? 12 : Math.abs(dod) < 2048 ? 16 : 36;
  }
  return bits + 1 + 19 + 64;
}

function integerBits(values: Float64Array): number {
  const xor = new Xor();
  let bits = 1;
  let isFloat = false;
  let previous = 0;
  let multiplier = 0;
  let significant = 0;
  let lower = 0;
  let highestLower = 0;
  const track = (size: number): number => {
    if (size > significant) return size;
    if (significant - size < 3) {
      lower = 0;
      return significant;
    }
    highestLower = lower === 0 ? size : Math.max(highestLower, size);
    if (++lower < 5) return significant;
    lower = 0;
    return highestLower;
  };
  for (const [i, value] of values.entries()) {
    const found = toInteger(value, multiplier);
    if (found === undefined) {
      if (i === 0 || !isFloat) bits += (i === 0 ? 0 : 3) + xor.set(bitsOf(value));
      else if (value === values[i - 1]) bits += 2;
      else bits += 1 + xor.next(bitsOf(value));
      isFloat = true;
      continue;
    }
    const before =
      found.multiplier > multiplier ? previous * 10 ** (found.multiplier - multiplier) : previous;
    const difference = isFloat || i === 0 ? found.integer : Math.abs(found.integer - before);
    if (i > 0 && difference === 0 && !isFloat && found.multiplier === multiplier) {
      bits += 2;
      continue;
    }
    const size = track(lengthOf(Math.abs(difference)));
    if (i === 0 || isFloat || found.multiplier > multiplier || size !== significant) {
      bits += (i === 0 ? 0 : 3) + (size === significant ? 1 : size === 0 ? 2 : 8);
      bits += found.multiplier > multiplier ? 4 : 1;
    } else bits += 1;
    significant = size;
    multiplier = Math.max(multiplier, found.multiplier);
    bits += 1 + size;
    previous = found.integer;
    isFloat = false;
  }
  return bits;
}

function floatBits(values: Float64Array): number {
  const xor = new Xor();
  let bits = 0;
  for (const [i, value] of values.entries())
    bits += i === 0 ? xor.set(bitsOf(value)) : xor.next(bitsOf(value));
  return bits;
}

export function m3tszBytes(times: Float64Array, values: Float64Array): number {
  return Math.ceil((timeBits(times) + integerBits(values) + 11) / 8);
}

export function tszBytes(times: Float64Array, values: Float64Array): number {
  return Math.ceil((timeBits(times) + floatBits(values) + 11) / 8);
}
