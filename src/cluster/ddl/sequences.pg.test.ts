import { expect, test } from 'vitest';
import { testGroup } from './group-of-three.suite.ts';

test('no value of a sequence comes twice after a fail-over', async () => {
  await using group = await testGroup(18, ['n1', 'n2', 'n3']);
  const { connection } = group.master;
  await connection.query(`create table s (id serial primary key, big bigint generated always as identity, v text);
    create table down (id int primary key, n int); create sequence down_seq increment -1 minvalue -1000000 maxvalue -1 owned by down.id;
    alter table down alter id set default nextval('down_seq');
    create sequence free_standing increment 5; create sequence never; create sequence around maxvalue 10 cycle;
    create table shared (id bigint default nextval('free_standing'), k text)`);
  await connection.query(`insert into s (v) select 'x' from generate_series(1, 5000)`);
  await connection.query(`insert into down (n) select 1 from generate_series(1, 100)`);
  await connection.query(`select nextval('free_standing') from generate_series(1, 300)`);
  await group.caughtUp();
  const [, n2, n3] = group.members;
  const carry = async (): Promise<void> => {
    const { v } = await connection.one<{ v: object }>('select varve_group.sequence_values() as v');
    await n2?.connection.query('select varve_group.take_sequence_values($1)', [JSON.stringify(v)]);
  };
  await carry();
  // Behind the last look: what only rows know, and what nobody but its client knows.
  await connection.query(`insert into s (v) select 'y' from generate_series(1, 700)`);
  const { highest } = await connection.one<{ highest: string }>(
    `select max(v)::text as highest from (select nextval('free_standing') as v from generate_series(1, 200)) d`,
  );
  await group.caughtUp();
  for (const { connection: member } of group.members) {
    await member.query(`select varve_group.set_write_master('n2')`);
  }
  await n2?.connection.query(`insert into s (v) select 'z' from generate_series(1, 100)`);
  await n2?.connection.query(`insert into down (n) select 2 from generate_series(1, 10)`);
  expect(
    await n2?.connection.one(
      `select count(*)::int as rows, count(distinct id)::int as ids, count(distinct big)::int as bigs from s`,
    ),
  ).toEqual({ rows: 5800, ids: 5800, bigs: 5800 });
  const { next } = (await n2?.connection.one<{ next: string }>(
    `select nextval('free_standing')::text as next`,
  )) ?? { next: '0' };
  expect(Number(next)).toBeGreaterThan(Number(highest));
  expect(await n2?.connection.one(`select nextval('never')::int as first`)).toEqual({ first: 1 });
  // One that has not looked for long: the rows tell it.
  for (const { connection: member } of group.members) {
    await member.query(`select varve_group.set_write_master('n3')`);
  }
  await expect.poll(() => n3?.connection.one('select count(*)::int as n from s')).toEqual({ n: 5800 });
  await n3?.connection.query(`select varve_group.advance_sequences()`);
  await n3?.connection.query(`insert into s (v) select 'z' from generate_series(1, 100)`);
  expect(
    await n3?.connection.one('select count(*)::int as rows, count(distinct id)::int as ids from s'),
  ).toEqual({
    rows: 5900,
    ids: 5900,
  });
});
