import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseLines, precisionNs, type LineError, type ParsedLines } from './line-protocol.ts';

const options = { unitNs: 1n, nowNs: 1_000n };

function parse(
  text: string,
  unitNs = 1n,
): { samples: string[]; errors: readonly LineError[]; textFields: number } {
  const parts: ParsedLines[] = [...parseLines(text, { ...options, unitNs })];
  const samples = parts.flatMap(({ series }) =>
    series.flatMap(({ labels, samples: points }) =>
      points.map(({ timeNs, value }) => {
        const [[, name] = ['', ''], ...tags] = labels;
        const shown = tags.map(([key, tag]) => `${key}=${JSON.stringify(tag)}`).join(',');
        return `${name}{${shown}} ${Object.is(value, -0) ? '-0' : value} @${timeNs}`;
      }),
    ),
  );
  return {
    samples,
    errors: parts.flatMap(({ errors }) => errors),
    textFields: parts.reduce((sum, { textFields }) => sum + textFields, 0),
  };
}

describe('a line that is right', () => {
  test.each<[string, string[]]>([
    ['cpu usage=1 5', ['cpu_usage{} 1 @5']],
    [
      'cpu,host=a,dc=b usage=0.5,idle=2e3 -5',
      ['cpu_usage{host="a",dc="b"} 0.5 @-5', 'cpu_idle{host="a",dc="b"} 2000 @-5'],
    ],
    ['cpu value=1', ['cpu_value{} 1 @1000']],
    ['  cpu   value=1   7  ', ['cpu_value{} 1 @7']],
    [
      'm i=-3i,u=18446744073709551615u,t=t,f=FALSE,n=-0,d=.5,e=5. 1',
      [
        'm_i{} -3 @1',
        'm_u{} 18446744073709552000 @1',
        'm_t{} 1 @1',
        'm_f{} 0 @1',
        'm_n{} -0 @1',
        'm_d{} 0.5 @1',
        'm_e{} 5 @1',
      ],
    ],
    [String.raw`a\,b\ c,t\=1=x\ y\,z\=w f\,g\ h\==1 1`, [String.raw`a_b_c_f_g_h_{t_1="x y,z=w"} 1 @1`]],
    [String.raw`disk,path=C:\ size=1 1`, []],
    [String.raw`disk,path=C:\dir size=1 1`, [String.raw`disk_size{path="C:\\dir"} 1 @1`]],
    ['m a="text",b=1 1', ['m_b{} 1 @1']],
    ['m a="one, two=2 \\" \\\\" 1', []],
    ['m a="over\nlines",b=2 1\nn c=3 1', ['m_b{} 2 @1', 'n_c{} 3 @1']],
    ['# a comment\n\nm a=1 1\r\nm a=2 2\r\n', ['m_a{} 1 @1', 'm_a{} 2 @2']],
    ['1m.x-y a.b=1 1', ['_1m_x_y_a_b{} 1 @1']],
    ['m,ä=ö ü=1 1', ['m__{_="ö"} 1 @1']],
    ['m,9=x a=1 1', ['m_a{_9="x"} 1 @1']],
    ['', []],
    ['#', []],
  ])('%j', (line, samples) => {
    const parsed = parse(line);
    expect(parsed.samples).toEqual(samples);
    if (!line.startsWith('disk,path=C:\\ ')) expect(parsed.errors).toEqual([]);
  });
});

describe('a line that is wrong is told in words of Influx, and the others are taken', () => {
  test.each([
    ['cpu', 'missing fields'],
    ['cpu ', 'missing fields'],
    [',a=b f=1', 'missing measurement'],
    ['cpu,=b f=1', 'missing tag key'],
    ['cpu,a= f=1', 'missing tag value'],
    ['cpu,a f=1', 'missing tag value'],
    ['cpu,a=b=c f=1', 'missing tag value'],
    ['cpu,a=1,a=2 f=1', 'duplicate tags'],
    ['cpu,a.b=1,a-b=2 f=1', 'duplicate tags'],
    ['cpu,__name__=x f=1', 'a tag must not be called __name__'],
    ['cpu f', 'missing field value'],
    ['cpu f=', 'missing field value'],
    ['cpu =1', 'missing field key'],
    ['cpu f=1,', 'missing field key'],
    ['cpu f=abc', 'invalid boolean or number'],
    ['cpu f=1e999', 'invalid number'],
    ['cpu f=9223372036854775808i', 'invalid number'],
    ['cpu f=-1u', 'invalid number'],
    ['cpu f=NaN', 'invalid boolean or number'],
    ['cpu f=0x10', 'invalid boolean or number'],
    ['cpu f="a', 'unbalanced quotes'],
    ['cpu f="a"b', 'invalid field format'],
    ['cpu f=1 abc', 'bad timestamp'],
    ['cpu f=1 1 2', 'bad timestamp'],
    ['cpu f=1 1.5', 'bad timestamp'],
    ['cpu f=1 9223372036854775808', 'time outside range'],
  ])('%j: %s', (line, reason) => {
    const { samples, errors } = parse(`good a=1 1\n${line}\ngood a=2 2`);
    const told = errors[0]?.reason ?? '';
    expect([errors.length, errors[0]?.line, told]).toEqual([1, 2, `unable to parse '${line}': ${reason}`]);
    // A quote that is not closed may have taken the next line with it only in the search for its end.
    expect(samples).toEqual(['good_a{} 1 @1', 'good_a{} 2 @2']);
  });
});

test('timestamps are in the unit that the request names', () => {
  const units = ['n', 'ns', 'u', 'us', 'µ', 'ms', 's', 'm', 'h', 'd', ''].map(precisionNs);
  expect(units).toEqual([
    1n,
    1n,
    1000n,
    1000n,
    1000n,
    10n ** 6n,
    10n ** 9n,
    60n * 10n ** 9n,
    3600n * 10n ** 9n,
    undefined,
    undefined,
  ]);
  expect(parse('m a=1 2', 10n ** 9n).samples).toEqual(['m_a{} 1 @2000000000']);
});

test('points of one series come together, and lines are counted over several parts', () => {
  const lines = Array.from({ length: 30_000 }, (_, i) => `cpu,host=h${i % 3} v=${i} ${i}`);
  lines.push('bad');
  const parts = [...parseLines(lines.join('\n'), options)];
  expect(parts.length).toBeGreaterThan(1);
  expect(parts[0]?.series).toHaveLength(3);
  expect(parts.reduce((sum, { samples }) => sum + samples, 0)).toBe(30_000);
  expect(parts.flatMap(({ errors }) => errors.map(({ line }) => line))).toEqual([30_001]);
});

test('whatever the text, it is read to its end', () => {
  const text = fc.string({
    unit: fc.constantFrom('a', ',', '=', ' ', '\\', '"', '\n', '\r', '#', '1', 'i', '.', 'ä'),
  });
  fc.assert(
    fc.property(text, (input) => {
      const parsed = [...parseLines(input, options)];
      const lines = input.split('\n').length;
      for (const { errors } of parsed) for (const { line } of errors) expect(line).toBeLessThanOrEqual(lines);
    }),
    { numRuns: 2000 },
  );
});

test('what was written with escapes comes back', () => {
  const word = fc.string({ unit: fc.constantFrom('a', ',', '=', ' ', 'ä', '"'), minLength: 1 });
  const escape = (value: string): string => value.replaceAll(/[,= ]/g, String.raw`\$&`);
  fc.assert(
    fc.property(word, fc.integer(), (value, ns) => {
      const line = `m,tag=${escape(value)} f=1 ${ns}`;
      expect(parse(line).samples).toEqual([`m_f{tag=${JSON.stringify(value)}} 1 @${ns}`]);
    }),
  );
});
