import fc from 'fast-check';
import { expect, test } from 'vitest';
import { JsonLineEncoder, parseJsonSeries } from './json-lines.ts';
import { MAX_NS, MIN_NS } from './time-text.ts';

const labels = [
  ['__name__', 'up'],
  ['job', 'a"b\nc'],
] as const;

function line(times: readonly bigint[], bits: readonly bigint[]): string {
  const patterns = BigUint64Array.from(bits);
  const encoder = new JsonLineEncoder();
  encoder.begin(labels);
  return encoder.line({
    times: BigInt64Array.from(times),
    bits: patterns,
    values: new Float64Array(patterns.buffer),
  });
}

const bitsOf = (value: number): bigint => new BigUint64Array(Float64Array.of(value).buffer)[0] ?? 0n;

test('a series is a line of labels, values and milliseconds', () => {
  expect(line([1_000_000n, 2_000_000n], [bitsOf(1.5), bitsOf(-0)])).toBe(
    '{"metric":{"__name__":"up","job":"a\\"b\\nc"},"values":[1.5,-0],"timestamps":[1,2]}\n',
  );
  expect(line([1n], [bitsOf(1)])).toContain('"values":[1],"timestampsNs":["1"]}');
  expect(line([0n, 0n, 0n], [0x7ff8000000000001n, 0x7ff0000000000002n, bitsOf(-Infinity)])).toContain(
    '"values":["NaN","NaN:7ff0000000000002","-Inf"]',
  );
});

test('what is exported can be imported, every double and every nanosecond', () => {
  const time = fc.oneof(
    fc.bigInt(MIN_NS, MAX_NS),
    fc.bigInt(-9_000_000_000_000n, 9_000_000_000_000n).map((ms) => ms * 1_000_000n),
  );
  const bits = fc.oneof(fc.bigInt(0n, (1n << 64n) - 1n), fc.double().map(bitsOf));
  fc.assert(
    fc.property(fc.array(fc.tuple(time, bits), { minLength: 1 }), (samples) => {
      const text = line(
        samples.map(([at]) => at),
        samples.map(([, pattern]) => pattern),
      );
      const parsed = parseJsonSeries(text);
      expect(parsed.labels).toEqual(labels);
      expect(parsed.samples.map(({ timeNs }) => timeNs)).toEqual(samples.map(([at]) => at));
      parsed.samples.forEach(({ value }, i) => {
        const pattern = samples[i]?.[1] ?? 0n;
        const wanted = new Float64Array(BigUint64Array.of(pattern).buffer)[0] ?? 0;
        expect(value).toBe(wanted);
      });
    }),
  );
});

test.each([
  ['x', 'not JSON'],
  ['[]', 'no object'],
  ['null', 'no object'],
  ['{}', '"metric"'],
  ['{"metric":[],"values":[],"timestamps":[]}', '"metric"'],
  ['{"metric":{"a":1},"values":[],"timestamps":[]}', 'label "a" is not a text'],
  ['{"metric":{},"timestamps":[]}', '"values" is not an array'],
  ['{"metric":{},"values":[1]}', 'one of "timestamps"'],
  ['{"metric":{},"values":[1],"timestamps":[1],"timestampsNs":["1"]}', 'one of "timestamps"'],
  ['{"metric":{},"values":[1],"timestamps":[]}', '1 values and 0 timestamps'],
  ['{"metric":{},"values":[1],"timestamps":[1.5]}', 'no whole millisecond'],
  ['{"metric":{},"values":[1],"timestamps":["1"]}', 'no whole millisecond'],
  ['{"metric":{},"values":[1],"timestamps":[9007199254740991]}', 'outside of 64 bits'],
  ['{"metric":{},"values":[1],"timestampsNs":[1]}', 'no text of nanoseconds'],
  ['{"metric":{},"values":[1],"timestampsNs":["9223372036854775808"]}', 'outside of 64 bits'],
  ['{"metric":{},"values":[null],"timestamps":[1]}', 'value null is no number'],
  ['{"metric":{},"values":["nan"],"timestamps":[1]}', 'value "nan" is no number'],
  ['{"metric":{},"values":["NaN:3ff0000000000000"],"timestamps":[1]}', 'is no number'],
])('%s is refused: %s', (text, why) => {
  expect(() => parseJsonSeries(text)).toThrow(why);
});
