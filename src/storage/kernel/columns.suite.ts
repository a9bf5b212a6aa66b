import fc from 'fast-check';

const view = new DataView(new ArrayBuffer(8));

export function bitsOf(value: number): bigint {
  view.setFloat64(0, value);
  return view.getBigUint64(0);
}

const SPECIAL = [
  0n,
  bitsOf(-0),
  bitsOf(Number.POSITIVE_INFINITY),
  bitsOf(Number.NEGATIVE_INFINITY),
  0x7ff8_0000_0000_0000n,
  0x7ff0_0000_0000_0002n, // Prometheus' mark of a stale series: a signalling NaN.
  0xffff_ffff_ffff_ffffn,
  1n, // The least subnormal.
  bitsOf(Number.MAX_VALUE),
  bitsOf(2 ** 51),
  bitsOf(2 ** 53 + 2),
  bitsOf(0.1 + 0.2),
];

const anyBits = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });

/** A walk of integers, scaled down by a power of ten and up by one of two: most of what is measured. */
const walk = fc
  .record({
    start: fc.integer({ min: -1e9, max: 2 ** 48 }),
    steps: fc.array(fc.integer({ min: -100, max: 1e5 }), { minLength: 1, maxLength: 300 }),
    stride: fc.constantFrom(0, 1, 1000, 2 ** 26, 2 ** 34),
    exponent: fc.integer({ min: 0, max: 6 }),
    shift: fc.constantFrom(0, 0, 4, 12),
  })
  .map(({ start, steps, stride, exponent, shift }) => {
    let sum = start;
    return steps.map((step) => {
      sum += step * Math.max(1, stride);
      return bitsOf((sum * 2 ** shift) / 10 ** exponent);
    });
  });

/** Columns of doubles as bits: decimals, arbitrary bits, constants, and any of them with special values between. */
export const valueColumn: fc.Arbitrary<BigUint64Array> = fc
  .oneof(
    walk,
    fc.array(anyBits, { minLength: 1, maxLength: 300 }),
    fc.array(fc.double({ min: 1, max: 2, noNaN: true }).map(bitsOf), { minLength: 1, maxLength: 300 }),
    fc
      .record({ bits: anyBits, count: fc.integer({ min: 1, max: 300 }) })
      .map(({ bits, count }) => Array.from({ length: count }, () => bits)),
  )
  .chain((column) =>
    fc
      .array(fc.tuple(fc.nat(column.length - 1), fc.constantFrom(...SPECIAL)), { maxLength: 20 })
      .map((specials) => {
        const values = BigUint64Array.from(column);
        for (const [place, bits] of specials) values[place] = bits;
        return values;
      }),
  );

/** Ascending timestamps: regular, with jitter, with gaps, or wild. */
export const timeColumn: fc.Arbitrary<BigInt64Array> = fc
  .record({
    start: fc.bigInt({ min: -(1n << 61n), max: 1n << 61n }),
    unit: fc.constantFrom(1n, 1000n, 1_000_000n, 15_000_000_000n),
    step: fc.integer({ min: 20, max: 100_000 }),
    moves: fc.array(
      fc.oneof(
        { weight: 10, arbitrary: fc.constant(0) },
        { weight: 3, arbitrary: fc.integer({ min: -19, max: 19 }) },
        { weight: 1, arbitrary: fc.integer({ min: 0, max: 2 ** 40 }) },
      ),
      { minLength: 1, maxLength: 300 },
    ),
  })
  .map(({ start, unit, step, moves }) => {
    let time = start;
    return moves.map((move) => (time += unit * BigInt(step + move)));
  })
  .filter((times) => (times.at(-1) ?? 0n) < 1n << 63n && (times.at(-1) ?? 0n) - (times[0] ?? 0n) <= 1n << 62n)
  .map((times) => BigInt64Array.from(times));

/** Changes to make to bytes: cut, lengthen, or set some. */
export const damage = fc.record({
  cut: fc.oneof(fc.constant(0), fc.nat(40)),
  more: fc.oneof(fc.constant(0), fc.nat(3)),
  changes: fc.array(fc.tuple(fc.oneof(fc.nat(8), fc.nat(4000)), fc.nat(255)), { maxLength: 4 }),
});

export function damaged(
  bytes: Uint8Array,
  { cut, more, changes }: { cut: number; more: number; changes: [number, number][] },
): Uint8Array {
  const kept = Math.max(0, bytes.length - cut);
  const result = new Uint8Array(kept + more);
  result.set(bytes.subarray(0, kept));
  for (const [place, value] of changes) if (result.length > 0) result[place % result.length] = value;
  return result;
}
