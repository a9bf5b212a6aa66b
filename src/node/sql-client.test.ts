import { describe, expect, test } from 'vitest';
import { VarveError } from '../core/errors.ts';
import { resultLines, sqlErrorLines } from './sql-client.ts';
import { splitScript } from './sql-split.ts';

describe('a script is split', () => {
  test.each<[string, string, string[], string?]>([
    ['at semicolons', 'select 1; select 2;', ['select 1', 'select 2']],
    ['without empty statements', ';; select 1 ;; -- nothing\n;', ['select 1']],
    ['and the rest is kept', 'select 1; select', ['select 1'], 'select'],
    ['but a comment is no rest', 'select 1; -- done', ['select 1']],
    ['not in a string', "select ';', 'it''s;'; select 2", ["select ';', 'it''s;'"], 'select 2'],
    [
      'not in a string with escapes',
      String.raw`select e'\';'; select 2;`,
      [String.raw`select e'\';'`, 'select 2'],
    ],
    ['not in a name', 'select 1 as "a;b"; select 2;', ['select 1 as "a;b"', 'select 2']],
    [
      'not in dollar quotes',
      'do $$ begin; end $$; do $a$ $b$;$a$;',
      ['do $$ begin; end $$', 'do $a$ $b$;$a$'],
    ],
    [
      'not in comments',
      'select 1 /* ; /* ; */ ; */ + 1; select 2 -- ;\n;',
      ['select 1 /* ; /* ; */ ; */ + 1', 'select 2 -- ;'],
    ],
    [
      'not in parentheses',
      'create rule r as on insert to t do also (select 1; select 2); select 3;',
      ['create rule r as on insert to t do also (select 1; select 2)', 'select 3'],
    ],
    [
      'not in the body of a routine',
      'create or replace function f() returns int begin atomic select case when true then 1 end; end; select 2;',
      [
        'create or replace function f() returns int begin atomic select case when true then 1 end; end',
        'select 2',
      ],
    ],
    ['after begin, which is a transaction', 'begin; select 1; end;', ['begin', 'select 1', 'end']],
    [
      'parameters are no dollar quotes',
      'prepare p as select $1; select 2;',
      ['prepare p as select $1', 'select 2'],
    ],
    ['an open quote takes the rest', "select 'a; select 2;", [], "select 'a; select 2;"],
    ['an open dollar quote takes the rest', 'do $x$ a; b', [], 'do $x$ a; b'],
  ])('%s', (_, script, statements, rest = '') => {
    expect(splitScript(script)).toEqual({ statements, rest });
  });
});

test('a result is shown as a table with its count, figures to the right', () => {
  const rows = [
    ['1', 'a'],
    ['10', null],
  ];
  expect(resultLines({ columns: ['n', 'name'], rows, rowCount: 2, command: 'SELECT' })).toEqual([
    ' n  | name',
    '----+------',
    '  1 | a',
    ' 10 |',
    '(2 rows)',
    '',
  ]);
  expect(resultLines({ columns: ['n'], rows: [], rowCount: 0, command: 'SELECT' }).at(-2)).toBe('(0 rows)');
});

test.each([
  ['INSERT', 3, ['INSERT 3']],
  ['CREATE', 0, ['CREATE']],
  ['', 0, []],
])('a statement without rows shows its command: %s', (command, rowCount, lines) => {
  expect(resultLines({ columns: [], rows: [], rowCount, command })).toEqual(lines);
});

test('an error shows SQLSTATE, detail and hint', () => {
  const error = new VarveError('QUERY_FAILED', 'no', { sqlstate: 'TS174', detail: 'because', hint: 'do' });
  expect(sqlErrorLines(error)).toEqual(['ERROR TS174: no', 'DETAIL: because', 'HINT: do']);
});
