import { expect, test } from 'vitest';
import { serverEndpoint } from '../../test/database.ts';
import { SqlClient } from './sql-client.ts';

test('results are shown as the server writes them, repeated names and empty results included', async () => {
  const notices: string[] = [];
  await using client = await SqlClient.open([serverEndpoint()], (lines) => notices.push(...lines));
  const lines = await client.run(`
    select 1 as a, '2026-01-02 03:04:05+00'::timestamptz at time zone 'UTC' as a, null as b, '{"k": 1}'::jsonb as c;
    select 'x' as only where false;
    do $$ begin raise notice 'hello' using detail = 'd', hint = 'h'; end $$;
    create temporary table t as select generate_series(1, 3)`);
  expect(lines).toEqual([
    ' a | a                   | b | c',
    '---+---------------------+---+----------',
    ' 1 | 2026-01-02 03:04:05 |   | {"k": 1}',
    '(1 row)',
    '',
    ' only',
    '------',
    '(0 rows)',
    '',
    'DO',
    'SELECT 3',
  ]);
  expect(notices).toEqual(['NOTICE: hello', 'DETAIL: d', 'HINT: h']);
});

test('a statement is cancelled on the server, and the session goes on', async () => {
  await using client = await SqlClient.open([serverEndpoint()], () => {});
  const cancel = new AbortController();
  const slow = client.run('select pg_sleep(60)', cancel.signal);
  setTimeout(() => cancel.abort(), 50);
  await expect(slow).rejects.toThrow();
  expect(await client.run('select 1 as one')).toContain('(1 row)');
});

test('an open transaction is told', async () => {
  await using client = await SqlClient.open([serverEndpoint()], () => {});
  await client.run('begin');
  expect(client.inTransaction).toBe(true);
  await client.run('rollback');
  expect(client.inTransaction).toBe(false);
});
