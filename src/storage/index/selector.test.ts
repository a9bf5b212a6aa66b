import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { formatSelector, labelMatcher, requireSelective, type MatchOperator } from './matcher.ts';
import { MAX_SELECTOR_LENGTH, parseSelector } from './selector.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const parsed = (text: string): string[][] =>
  parseSelector(text).map(({ name, operator, value }) => [name, operator, value]);

test.each([
  ['up', [['__name__', '=', 'up']]],
  ['  up\t{ } # the end', [['__name__', '=', 'up']]],
  [
    'job:rate:5m{a="b"}',
    [
      ['__name__', '=', 'job:rate:5m'],
      ['a', '=', 'b'],
    ],
  ],
  [
    'sum{a="b"}',
    [
      ['__name__', '=', 'sum'],
      ['a', '=', 'b'],
    ],
  ],
  [
    '{a="b",c=~"d",e!="f",g!~"h"}',
    [
      ['a', '=', 'b'],
      ['c', '=~', 'd'],
      ['e', '!=', 'f'],
      ['g', '!~', 'h'],
    ],
  ],
  ['{a="b",}', [['a', '=', 'b']]],
  ['{ # comment }\n a = "b" }', [['a', '=', 'b']]],
  [
    '{__name__="x",__name__!="y"}',
    [
      ['__name__', '=', 'x'],
      ['__name__', '!=', 'y'],
    ],
  ],
  ['{"http.requests"}', [['__name__', '=', 'http.requests']]],
  [
    '{"http.requests","service.name"="api"}',
    [
      ['__name__', '=', 'http.requests'],
      ['service.name', '=', 'api'],
    ],
  ],
  [
    '{a="b","Größe 😀"}',
    [
      ['__name__', '=', 'Größe 😀'],
      ['a', '=', 'b'],
    ],
  ],
  ['{"a"="b"}', [['a', '=', 'b']]],
  ["{a='it\\'s \"so\"'}", [['a', '=', 'it\'s "so"']]],
  ['{a=`raw \\n "x"\n`}', [['a', '=', 'raw \\n "x"\n']]],
  ['{a="\\a\\b\\f\\n\\r\\t\\v\\\\\\""}', [['a', '=', '\u0007\b\f\n\r\t\v\\"']]],
  ['{a="\\x41\\101\\u00e9\\U0001F600"}', [['a', '=', 'AAé😀']]],
  ['{a="\\xe2\\x82\\xac"}', [['a', '=', '€']]],
  [
    '{a="ß",b=""}',
    [
      ['a', '=', 'ß'],
      ['b', '=', ''],
    ],
  ],
])('%j is read', (text, matchers) => {
  expect(parsed(text)).toEqual(matchers);
});

test.each([
  ['', 1, 'unexpected the end, wanted a metric name or "{"'],
  ['{', 2, 'unexpected the end, wanted a label name or "}"'],
  ['{a', 3, 'unexpected the end, wanted one of = != =~ !~'],
  ['{a="b"', 7, 'unexpected the end, wanted "," or "}"'],
  ['{a="b" c="d"}', 8, 'unexpected "c", wanted "," or "}"'],
  ['{,}', 2, 'unexpected ",", wanted a label name or "}"'],
  ['{a="b",,}', 8, 'unexpected ",", wanted a label name or "}"'],
  ['{a=b}', 4, 'unexpected "b", wanted a quoted value'],
  ['{a=="b"}', 4, 'unexpected "=", wanted a quoted value'],
  ['{a:b="c"}', 3, 'unexpected character ":"'],
  ['{1a="b"}', 2, 'unexpected character "1"'],
  ['{a="b"}x', 8, 'unexpected "x", wanted the end of the selector'],
  ['up[5m]', 3, 'unexpected character "["'],
  ['up offset 5m', 4, 'unexpected "offset", wanted the end of the selector'],
  ['"up"', 1, 'unexpected "up", wanted a metric name or "{"'],
  ['up{"down"}', 4, 'the metric name is set twice: "up"'],
  ['{"up","down"}', 7, 'the metric name is set twice: "up"'],
  ['up{__name__=~"d.*"}', 4, 'the metric name is set twice: "up"'],
  ['{"up",__name__="up"}', 7, 'the metric name is set twice: "up"'],
  ['{a="b}', 4, 'the quoted text has no end'],
  ['{a="b\n"}', 4, 'the quoted text has no end'],
  ['{a="\\', 5, 'unknown escape \\'],
  ['{a="\\q"}', 5, 'unknown escape \\q'],
  ['{a="\\\'"}', 5, "unknown escape \\'"],
  ['{a="\\400"}', 5, 'unknown escape \\4'],
  ['{a="\\x4"}', 5, '\\x is not followed by the digits'],
  ['{a="\\ud800"}', 5, '\\u is not followed by the digits'],
  ['{a="\\U00110000"}', 5, '\\U is not followed by the digits'],
  ['{a="\\xff"}', 4, 'the quoted text is not UTF-8'],
  ['{""="b"}', 2, 'names no label'],
  ['{a=~"("}', 5, 'the regular expression "(" is not valid'],
])('%j is refused at character %d', (text, character, reason) => {
  expect(() => parseSelector(text)).toThrow(
    expect.objectContaining({
      code: 'SELECTOR_INVALID',
      message: expect.stringMatching(new RegExp(`at character ${character}: .*`)) as string,
    }),
  );
  expect(() => parseSelector(text)).toThrow(reason);
});

test.each(['{}', '{a=""}', '{a!="b"}', '{a=~".*"}', '{a=~"b|"}', '{a!~"b"}', '{a=~"(?i)x*"}', '{"a"!=`b`}'])(
  '%s selects everything and is refused',
  (text) => {
    expect(() => parseSelector(text)).toThrow(/has no matcher that requires a label/);
  },
);

test.each(['{a="b"}', '{a!=""}', '{a=~".+"}', '{a!~".*"}', '{a!~"b|"}', '{a=~".*",b="c"}'])(
  '%s requires a label',
  (text) => {
    expect(parseSelector(text).some(({ matchesEmpty }) => !matchesEmpty)).toBe(true);
  },
);

test('a selector of more than a mebibyte is refused before it is read', () => {
  expect(() => parseSelector(`{a="${'x'.repeat(MAX_SELECTOR_LENGTH)}"}`)).toThrow(/is longer than 1048576/);
});

test('what is formatted is read back', () => {
  const text = fc
    .array(fc.constantFrom('a', '"', '\\', '\n', '\u0000', '\u007f', '\u2028', 'é', '😀', '{', '#'), {
      maxLength: 5,
    })
    .map((some) => some.join(''));
  const matcher = fc.record({
    name: fc.oneof(
      text.filter((some) => some !== ''),
      fc.constantFrom('a', '__name__', 'b_1'),
    ),
    operator: fc.constantFrom<MatchOperator>('=', '!='),
    value: text,
  });
  fc.assert(
    fc.property(fc.array(matcher, { minLength: 1, maxLength: 4 }), (some) => {
      const matchers = some.map(({ name, operator, value }) => labelMatcher(name, operator, value));
      fc.pre(matchers.some(({ matchesEmpty }) => !matchesEmpty));
      expect(() => requireSelective(matchers)).not.toThrow();
      expect(parsed(formatSelector(matchers))).toEqual(
        some.map(({ name, operator, value }) => [name, operator, value]),
      );
    }),
  );
});

test('no text makes the parser do anything but parse or refuse', () => {
  const piece = fc.constantFrom(
    '{',
    '}',
    '"',
    "'",
    '`',
    'a',
    '=',
    '!',
    '~',
    ',',
    '\\',
    '\n',
    '#',
    ' ',
    'x',
    '1',
    '😀',
    ':',
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 20 }), (pieces) => {
      try {
        parseSelector(pieces.join(''));
      } catch (error) {
        expect(error).toMatchObject({ code: 'SELECTOR_INVALID' });
      }
    }),
    { numRuns: 500 },
  );
});
