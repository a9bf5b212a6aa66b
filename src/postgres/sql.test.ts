import { describe, expect, it } from 'vitest';
import { VarveError } from '../core/errors.ts';
import { quoteIdent, quoteLiteral, quoteQualified } from './sql.ts';
import { SqlState, sqlStateOf } from './sqlstate.ts';

describe('quoteIdent', () => {
  it.each([
    ['plain', '"plain"'],
    ['Mixed Case', '"Mixed Case"'],
    ['a"b""c', '"a""b""""c"'],
    ["o'hara; drop table x --", '"o\'hara; drop table x --"'],
    ['back\\slash', '"back\\slash"'],
  ])('delimits %j', (name, quoted) => expect(quoteIdent(name)).toBe(quoted));

  it.each(['', 'nul\0'])('refuses %j', (name) =>
    expect(() => quoteIdent(name)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' })),
  );

  it('quotes both parts of a qualified name', () => expect(quoteQualified('s.x', 't')).toBe('"s.x"."t"'));
});

describe('quoteLiteral', () => {
  it.each([
    ['', "''"],
    ["it's", "'it''s'"],
    ['\\', "E'\\\\'"],
    ["\\'", "E'\\\\'''"],
    ['$1 "x"', `'$1 "x"'`],
  ])('quotes %j', (value, quoted) => expect(quoteLiteral(value)).toBe(quoted));

  it('refuses a NUL', () => expect(() => quoteLiteral('a\0b')).toThrow(VarveError));
});

describe('sqlStateOf', () => {
  it.each([
    ['a VarveError', new VarveError('INVALID_ARGUMENT', 'x'), '22023'],
    [
      'a VarveError with a server’s state',
      new VarveError('INVALID_ARGUMENT', 'x', { sqlstate: '3D000' }),
      '3D000',
    ],
    ['a server’s error', Object.assign(new Error('x'), { severity: 'ERROR', code: '42P04' }), '42P04'],
    ['a socket error of five letters', Object.assign(new Error('x'), { code: 'EPIPE' }), undefined],
    ['a string', '42P04', undefined],
    ['nothing', undefined, undefined],
  ])('of %s', (_what, error, state) => expect(sqlStateOf(error)).toBe(state));

  it('names each state once', () => {
    const states = Object.values(SqlState);
    expect(new Set(states).size).toBe(states.length);
    expect(states.every((state) => /^[0-9A-Z]{5}$/.test(state))).toBe(true);
  });
});
