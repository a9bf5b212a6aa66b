import fc from 'fast-check';
import { RE2JS } from 're2js';
import { expect, test, vi } from 'vitest';
import { compilePattern, MAX_PATTERN_LENGTH } from './pattern.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

test.each([
  // pattern, what matches, what does not
  ['', [''], ['a']],
  ['a', ['a'], ['', 'aa', 'ba', 'A']],
  ['a|ab', ['a', 'ab'], ['abc', 'b', '']],
  ['a|', ['a', ''], ['b']],
  ['a.c', ['abc', 'a\nc', 'a😀c'], ['ac', 'xabc', 'abcx']],
  ['.*', ['', 'a', '\n'], []],
  ['.+', ['a', '\n'], ['']],
  ['web-.*', ['web-', 'web-1\n2'], ['web', 'a web-1']],
  ['web-.+', ['web-1'], ['web-', 'web']],
  ['.*-1', ['a-1', '-1', '\n-1'], ['a-12', '-']],
  ['.*-1.*', ['a-1', '-1', 'x-12'], ['a-', '']],
  ['.*-1+', ['a-11'], ['a-12', '-']],
  ['.*a|b', ['xa', 'b'], ['xb']],
  ['.*\\.a.*', ['x.ab'], ['xa']],
  ['.*?', ['', 'a'], []],
  ['web-(1|2).*', ['web-1', 'web-2x'], ['web-3', 'web-']],
  ['a|b.*', ['a', 'b', 'bx'], ['ax']],
  ['(a|b)(c|d)', ['ac', 'bd'], ['a', 'abcd']],
  ['(?:a|(b|c))\\.d', ['a.d', 'c.d'], ['axd']],
  ['(?i)get', ['GET', 'gEt'], ['post']],
  ['ab*', ['a', 'abbb'], ['ba']],
  ['ab?c', ['ac', 'abc'], ['abbc']],
  ['(a|b)+', ['abab'], ['', 'c']],
  ['a{2}', ['aa'], ['a', 'a{2}']],
  ['[ab]', ['a', 'b'], ['c']],
  ['\\d+', ['12'], ['x', '']],
  ['^a$', ['a'], ['^a$']],
  ['\\^a\\$', ['^a$'], ['a']],
  ['\\Qa.b\\E', ['a.b'], ['axb']],
  ['é+', ['éé'], ['e']],
  ['😀?', ['😀', ''], ['\ud83d']],
  ['(?-s)a.', ['ab'], ['a\n']],
] as const)('%j matches whole values only', (source, matching, others) => {
  const pattern = compilePattern(source);
  for (const value of matching) {
    expect(pattern.test(value), value).toBe(true);
    expect(value.startsWith(pattern.prefix)).toBe(true);
  }
  for (const value of others) expect(pattern.test(value), value).toBe(false);
});

test.each([
  ['a|b', ['a', 'b'], ''],
  ['a', ['a'], 'a'],
  ['(eu|us)-(1|2)', ['eu-1', 'eu-2', 'us-1', 'us-2'], ''],
  ['a\\.b', ['a.b'], 'a.b'],
  ['web-.*', undefined, 'web-'],
  ['web-[0-9]+', undefined, 'web-'],
  ['webs?', undefined, 'web'],
  ['web|x.*', undefined, ''],
  ['(?i)web', undefined, ''],
] as const)('%j is seen as literals %j with the prefix %j', (source, literals, prefix) => {
  expect(compilePattern(source)).toMatchObject({ literals, prefix });
});

test.each([
  ['(a', 'missing closing )'],
  ['a)|(b', 'unexpected )'],
  ['*', 'missing argument to repetition operator'],
  ['a**', 'invalid nested repetition operator'],
  ['[z-a]', 'invalid character class range'],
  ['(?=a)', 'invalid or unsupported Perl syntax'],
  ['(?<!a)b', 'invalid'],
  ['(a)\\1', 'invalid escape sequence'],
  ['((a{100}){100}){100}', 'invalid repeat count'],
])('%j is refused as RE2 refuses it', (source, reason) => {
  expect(() => compilePattern(source)).toThrow(
    expect.objectContaining({ code: 'SELECTOR_INVALID', detail: expect.stringContaining(reason) as string }),
  );
});

test('a pattern that nests too deeply is refused', () => {
  expect(() => compilePattern('('.repeat(5_000) + ')'.repeat(5_000))).toThrow(
    expect.objectContaining({ detail: expect.stringContaining('nests too deeply') as string }),
  );
});

test('a list of words may be of any length, another pattern may not', () => {
  const words = Array.from({ length: 20_000 }, (_, index) => `host-${index}`);
  expect(compilePattern(words.join('|')).literals).toHaveLength(20_000);
  const long = '[ab]'.repeat(MAX_PATTERN_LENGTH / 4 + 1);
  expect(() => compilePattern(long)).toThrow(/65540 characters is longer than 65536/);
});

test('a pattern that makes other engines try for ever is decided at once', () => {
  expect(compilePattern('(x+x+)+y').test('x'.repeat(10_000))).toBe(false);
});

test('the shortcuts agree with the engine on every pattern and value', () => {
  const atom: fc.Arbitrary<string> = fc.constantFrom(
    'a',
    'b',
    '\\.',
    '.',
    '[ab]',
    'é',
    '😀',
    '',
    '\\d',
    '^',
    '$',
  );
  const { pattern } = fc.letrec<{ pattern: string; part: string }>((tie) => ({
    part: fc
      .tuple(
        fc.oneof(
          { maxDepth: 3 },
          atom,
          tie('pattern').map((inner) => `(${inner})`),
          tie('pattern').map((i) => `(?:${i})`),
        ),
        fc.constantFrom('', '', '', '*', '+', '?', '{2}'),
      )
      .map(([one, quantifier]) => (one === '' ? '' : one + quantifier)),
    pattern: fc
      .array(
        fc.array(tie('part'), { maxLength: 4 }).map((parts) => parts.join('')),
        { minLength: 1, maxLength: 3 },
      )
      .map((alternatives) => alternatives.join('|')),
  }));
  const value = fc
    .array(fc.constantFrom('a', 'b', '.', 'é', '😀', '1', '\n'), { maxLength: 5 })
    .map((c) => c.join(''));
  fc.assert(
    fc.property(pattern, fc.array(value, { minLength: 20, maxLength: 20 }), (source, values) => {
      let engine: RE2JS;
      try {
        engine = RE2JS.compile(source, RE2JS.DOTALL);
      } catch {
        expect(() => compilePattern(source)).toThrow();
        return;
      }
      const compiled = compilePattern(source);
      for (const candidate of [...values, ...(compiled.literals ?? [])]) {
        expect(compiled.test(candidate), candidate).toBe(engine.matches(candidate));
        if (engine.matches(candidate)) expect(candidate.startsWith(compiled.prefix)).toBe(true);
      }
    }),
    { numRuns: 200 },
  );
});
