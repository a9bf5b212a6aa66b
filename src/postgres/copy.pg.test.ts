import { afterAll, beforeAll, expect, test } from 'vitest';
import { testDatabase, type TestDatabase } from '../../test/database.ts';
import { copyIn, copyOut } from './copy.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database[Symbol.asyncDispose]());

test('rows travel out and in again, unchanged and counted, and the session goes on', async () => {
  await using connection = await database.connect();
  await connection.query(`create table a (n int, t text);
    insert into a select i, case when i % 7 = 0 then null else repeat(E'x\\ty\\n\\\\ü', i % 50) end
      from generate_series(1, 20000) i;
    create table b (like a)`);
  const parts: Buffer[] = [];
  const read = copyOut(connection, 'copy a to stdout', (chunk) => void parts.push(Buffer.from(chunk)));
  const queued = connection.query<{ one: number }>('select 1 as one');
  expect(await read).toBe(20_000);
  expect((await queued).rows).toEqual([{ one: 1 }]);
  expect(parts.length).toBeGreaterThan(10);
  expect(await copyIn(connection, 'copy b from stdin', parts)).toBe(20_000);
  const { differences } = await connection.one<{ differences: string }>(
    'select count(*) as differences from ((table a except all table b) union all (table b except all table a)) d',
  );
  expect(differences).toBe('0');
  expect(await copyIn(connection, 'copy b from stdin', [])).toBe(0);
});

test('errors of the server are as those of queries, and the session goes on', async () => {
  await using connection = await database.connect();
  await connection.query('create temp table c (n int check (n < 100))');
  await expect(copyOut(connection, 'copy nowhere to stdout', () => {})).rejects.toMatchObject({
    code: 'QUERY_FAILED',
    sqlstate: '42P01',
  });
  const zero = 'copy (select 1 / (50000 - i) from generate_series(1, 100000) i) to stdout';
  await expect(copyOut(connection, zero, () => {})).rejects.toMatchObject({
    code: 'QUERY_FAILED',
    sqlstate: '22012',
  });
  await expect(copyIn(connection, 'copy c from stdin', [Buffer.from('1\n200\n')])).rejects.toMatchObject({
    sqlstate: '23514',
  });
  expect((await connection.query('select 1')).rowCount).toBe(1);
});

test('a source that fails takes its rows back', async () => {
  await using connection = await database.connect();
  await connection.query('create temp table d (n int)');
  // eslint-disable-next-line typescript/require-await
  async function* failing(): AsyncGenerator<Buffer> {
    yield Buffer.from('1\n2\n');
    throw new Error('the file is damaged');
  }
  await expect(copyIn(connection, 'copy d from stdin', failing())).rejects.toThrow('the file is damaged');
  expect((await connection.query('select from d')).rowCount).toBe(0);
});

test('a consumer that fails ends the session at once', async () => {
  await using connection = await database.connect();
  const endless = "copy (select repeat('x', 100), generate_series(1, 100000000)) to stdout";
  const full = copyOut(connection, endless, () => {
    throw new Error('the disk is full');
  });
  await expect(full).rejects.toThrow('the disk is full');
  expect(connection.closed).toBe(true);
});

test('the server waits for a slow consumer, and a signal ends the copy', async () => {
  await using connection = await database.connect();
  const stop = new AbortController();
  let seenBytes = 0;
  const slow = copyOut(
    connection,
    "copy (select repeat('x', 100), generate_series(1, 100000000)) to stdout",
    async (chunk) => {
      seenBytes += chunk.length;
      if (seenBytes > 10_000_000 && !stop.signal.aborted) stop.abort(new Error('enough'));
      await Promise.resolve();
    },
    { signal: stop.signal },
  );
  await expect(slow).rejects.toThrow('enough');
  expect(seenBytes).toBeLessThan(500_000_000);
});
