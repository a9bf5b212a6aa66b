import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { connect } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { offerTimescale } from '../../test/timescaledb-stand-in.ts';
import type { Endpoint } from '../postgres/connection.ts';

/**
 * Where both sides have TimescaleDB, shards are its hypertables. No package registry has the real extension: the
 * stand-in shows what is asked of it, not that it does it.
 */
let folder: string;
let bed: DistributedDatabase;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}hts-`));
  await chmod(folder, 0o755);
  await offerTimescale(folder, ['2.14.0']);
  bed = await distributedDatabase({ nodes: ['dn1'] });
  for (const endpoint of [bed.access.database.endpoint, bed.at('dn1')]) await createTimescale(endpoint);
});

afterAll(async () => {
  await bed?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

async function createTimescale(endpoint: Endpoint): Promise<void> {
  await using connection = await connect(endpoint);
  await connection.query(
    `select set_config('extension_control_path', $1 || ':' || current_setting('extension_control_path'), false)`,
    [folder],
  );
  await connection.query(`create schema ts; create extension timescaledb schema ts version '2.14.0';
    create table ts.calls (relation regclass, time_column name, chunk_interval bigint, indexes boolean);
    create function ts.create_hypertable(relation regclass, time_column_name name,
        chunk_time_interval anyelement default null::bigint, create_default_indexes boolean default true)
      returns void language sql as 'insert into ts.calls values ($1, $2, $3, $4)'`);
}

it('shards are made hypertables of TimescaleDB, with the guard against statements row by row', async () => {
  await using session = await bed.access.connect();
  await session.query(`create table x (time timestamptz, day date, k text);
    select * from create_distributed_hypertable('x', 'time', 'k', 2, chunk_time_interval => interval '1 day')`);
  await session.query(`create table y (time timestamptz, day date, k text);
    select * from create_distributed_hypertable('y', 'day', 'k', 1, chunk_time_interval => interval '2 days')`);
  await using node = await connect(bed.at('dn1'));
  const { rows } = await node.query(
    `select regexp_replace(relation::text, '^.*\\.', '') as shard, time_column, chunk_interval, indexes,
       (select array_agg(indexdef ~ 'USING btree \\("?(time|day)"? DESC\\)') from pg_indexes
         where format('%I.%I', schemaname, tablename) = relation::text) as time_index,
       relkind, (select count(*)::int from pg_trigger where tgrelid = relation) as triggers
     from ts.calls join pg_class c on c.oid = relation order by relation::text`,
  );
  const shard = {
    time_column: 'time',
    chunk_interval: '86400000000',
    indexes: false,
    time_index: [true],
    relkind: 'r',
    triggers: 1,
  };
  expect(rows).toEqual([
    { ...shard, shard: 's00' },
    { ...shard, shard: 's01' },
    { ...shard, shard: 's00', time_column: 'day', chunk_interval: '172800000000' },
  ]);
  await session.query(`insert into x select now(), now(), i from generate_series(1, 10) i`);
  await bed.access.service.lookAfterHypertables(bed.access.database.name);
  await expect(session.query('delete from x where time <= now()')).rejects.toMatchObject({
    sqlstate: '0A000',
  });
  expect(await session.one('select count(*)::int as n from x')).toEqual({ n: 10 });
  await session.query('drop table x; drop table y');
  await bed.access.settled();
  expect(await bed.remains()).toEqual([]);
});
