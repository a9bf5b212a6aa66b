import { describe, expect, test } from 'vitest';
import { compactable, type QueuedStatement } from './compaction.ts';

type Row = readonly [tag: string, statement: string, touched?: string[], dropped?: string[]];

const LAST: Row = ['CREATE TABLE', 'create table the_last (id int)', ['public.the_last']];

/** Which statements of these are left, with one more behind them. */
function left(...rows: readonly Row[]): string[] {
  const queue = [...rows, LAST].map(([tag, statement, touched = [], dropped = []], at): QueuedStatement => {
    const type = tag.startsWith('DROP ') && tag !== 'DROP SCHEMA' ? tag.slice(5).toLowerCase() : 'table';
    return {
      id: String(at),
      role: 'alice',
      tag,
      statement,
      touched,
      dropped: dropped.map((identity) => ({ type, identity })),
    };
  });
  const gone = new Set(compactable(queue));
  return queue.slice(0, -1).flatMap(({ id, statement }) => (gone.has(id) ? [] : [statement]));
}

const create = (name: string): Row => ['CREATE TABLE', `create table ${name} (id int)`, [`public.${name}`]];
const drop = (name: string): Row => ['DROP TABLE', `drop table if exists ${name}`, [], [`public.${name}`]];

describe('of a queue of DDL', () => {
  const rows: [string, readonly Row[], string[]][] = [
    ['what is there stays', [create('a')], ['create table a (id int)']],
    ['a life that is over goes', [create('a'), drop('a')], []],
    [
      'with all that concerned nothing else',
      [
        create('a'),
        ['ALTER TABLE', 'alter table a add column x int', ['public.a']],
        ['CREATE INDEX', 'create index on a (x)', ['public.a']],
        ['GRANT', 'grant select, insert on a to bob, carol', []],
        ['COMMENT', "comment on table a is 'b'", ['public.a']],
        drop('a'),
      ],
      [],
    ],
    [
      'a sequence goes with its table',
      [
        ['CREATE TABLE', 'create table a (id serial)', ['public.a', 'public.a_id_seq']],
        ['DROP TABLE', 'drop table if exists a', [], ['public.a', 'public.a_id_seq']],
      ],
      [],
    ],
    [
      'one life after the other',
      [create('a'), drop('a'), create('a'), drop('a'), create('a')],
      ['create table a (id int)'],
    ],
    [
      'what a statement that stays mentions stays',
      [create('a'), ['CREATE TABLE', 'create table b (like a)', ['public.b']], drop('a')],
      ['create table a (id int)', 'create table b (like a)', 'drop table if exists a'],
    ],
    [
      'and what that one needs',
      [
        create('a'),
        ['CREATE TABLE', 'create table b (like a)', ['public.b']],
        ['CREATE TABLE', 'create table c (like b)', ['public.c']],
        drop('b'),
        drop('a'),
      ],
      [
        'create table a (id int)',
        'create table b (like a)',
        'create table c (like b)',
        'drop table if exists b',
        'drop table if exists a',
      ],
    ],
    [
      'lives that need only each other go together',
      [
        create('a'),
        ['CREATE VIEW', 'create view v as table a', ['public.v']],
        ['DROP VIEW', 'drop view if exists v', [], ['public.v']],
        drop('a'),
      ],
      [],
    ],
    [
      'a mention behind the end is of something else',
      [create('a'), drop('a'), ['CREATE FUNCTION', 'create function f() … from a', ['public.f()']]],
      ['create function f() … from a'],
    ],
    [
      'a name within a name is no mention',
      [create('a'), ['CREATE TABLE', 'create table b (data int)', ['public.b']], drop('a')],
      ['create table b (data int)'],
    ],
    [
      'nothing that was renamed goes',
      [create('a'), ['ALTER TABLE', 'alter table a rename to b', ['public.b']], create('a'), drop('a')],
      [
        'create table a (id int)',
        'alter table a rename to b',
        'create table a (id int)',
        'drop table if exists a',
      ],
    ],
    [
      'nor what may be another thing since its schema was renamed',
      [
        ['CREATE TABLE', 'create table s.a (id int)', ['s.a']],
        ['ALTER SCHEMA', 'alter schema s rename to t', []],
        ['DROP TABLE', 'drop table if exists s.a', [], ['s.a']],
      ],
      ['create table s.a (id int)', 'alter schema s rename to t', 'drop table if exists s.a'],
    ],
    [
      'nor what was dropped together with what stays in the history',
      [create('a'), ['DROP TABLE', 'drop table if exists a, b', [], ['public.a', 'public.b']]],
      ['create table a (id int)', 'drop table if exists a, b'],
    ],
    [
      'nor what went with its schema',
      [create('a'), ['DROP SCHEMA', 'drop schema if exists public cascade', [], ['public.a']]],
      ['create table a (id int)', 'drop schema if exists public cascade'],
    ],
    [
      'a grant that could mean two tables stays, and what it mentions',
      [
        create('a'),
        ['CREATE TABLE', 'create table s.a (id int)', ['s.a']],
        ['GRANT', 'grant select on a to bob', []],
        drop('a'),
      ],
      [
        'create table a (id int)',
        'create table s.a (id int)',
        'grant select on a to bob',
        'drop table if exists a',
      ],
    ],
    [
      'a partition that came and went leaves its table as it was',
      [
        ['CREATE TABLE', 'create table parts (id int) partition by list (id)', ['public.parts']],
        ['CREATE TABLE', 'create table p1 partition of parts for values in (1)', ['public.p1']],
        ['ALTER TABLE', 'alter table parts detach partition p1', ['public.parts']],
        drop('p1'),
      ],
      ['create table parts (id int) partition by list (id)'],
    ],
    [
      'of refreshes the first and the last stay',
      [
        ['CREATE MATERIALIZED VIEW', 'create materialized view m as select 1', ['public.m']],
        ...Array.from({ length: 5 }, (): Row => ['REFRESH MATERIALIZED VIEW', 'refresh m', ['public.m']]),
      ],
      ['create materialized view m as select 1', 'refresh m', 'refresh m'],
    ],
    [
      'of each run of them',
      [
        ...Array.from({ length: 3 }, (): Row => ['REFRESH MATERIALIZED VIEW', 'refresh m', ['public.m']]),
        ['ALTER MATERIALIZED VIEW', 'alter materialized view m …', ['public.m']],
        ...Array.from({ length: 3 }, (): Row => ['REFRESH MATERIALIZED VIEW', 'refresh m', ['public.m']]),
      ],
      ['refresh m', 'refresh m', 'alter materialized view m …', 'refresh m', 'refresh m'],
    ],
  ];
  test.each(rows)('%s', (_name, queue, expected) => {
    expect(left(...queue)).toEqual(expected);
  });

  test('the last statement stays, and what it ends', () => {
    const queue = [create('a'), drop('a')].map(
      ([tag, statement, touched = [], dropped = []], at): QueuedStatement => ({
        id: String(at),
        role: 'alice',
        tag,
        statement,
        touched,
        dropped: dropped.map((identity) => ({ type: 'table', identity })),
      }),
    );
    expect(compactable(queue)).toEqual([]);
  });

  test('what was dropped before drops were recorded stays', () => {
    const queue: QueuedStatement[] = [create('a'), drop('a'), LAST].map(
      ([tag, statement, touched = []], at) => ({
        id: String(at),
        role: 'alice',
        tag,
        statement,
        touched,
        dropped: undefined,
      }),
    );
    expect(compactable(queue)).toEqual([]);
  });
});
