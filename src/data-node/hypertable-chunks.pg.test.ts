import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
import type { Connection } from '../postgres/connection.ts';

/** Time partitions on a data node: made ahead, and split off from the default partition under load. */
let bed: DistributedDatabase;
let session: Connection;
let node: Connection;
let shard: string;

const ROLE = 'ht_chunk';

beforeAll(async () => {
  bed = await distributedDatabase({ nodes: ['dn1'] });
  session = await bed.access.connect();
  await session.query(`create role ${ROLE} login; create schema t; set search_path = t, public`);
});

afterAll(async () => {
  await session?.close();
  await bed?.[Symbol.asyncDispose]();
  await using connection = await connect();
  await connection.query(`drop role if exists ${ROLE}`);
});

beforeEach(async () => {
  node = await connect(bed.at('dn1'));
});

afterEach(async () => {
  await node.close();
  await session.query('drop table if exists x');
  await bed.access.settled();
});

/** A table of one shard. */
async function create(interval = `interval '1 day'`, shardCount = 1): Promise<void> {
  await session.query(`create table x (time timestamptz not null, k text, v integer);
    select * from create_distributed_hypertable('x', 'time', 'k', ${shardCount}, chunk_time_interval => ${interval})`);
  const { name } = await node.one<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname like 'varve\\_x\\_%' and c.relname = 's00'`,
  );
  shard = name;
}

async function maintain(maxRows = 50_000): Promise<{ chunk: string; moved: number }[]> {
  const made: { chunk: string; moved: number }[] = [];
  for (;;) {
    const { rows } = await node.query<{ chunk: string; moved: number }>(
      `select regexp_replace(chunk::text, '^.*\\.', '') as chunk, moved::int from varve.maintain_chunks($1)`,
      [maxRows],
    );
    if (rows.length === 0) return made;
    made.push(...rows);
  }
}

async function count(from: string, connection = session): Promise<number> {
  return (await connection.one<{ n: number }>(`select count(*)::int as n from ${from}`)).n;
}

describe('maintain_chunks', () => {
  it('has nothing to do on a new table, which has chunks for the present and beside it', async () => {
    await create();
    expect(await maintain()).toEqual([]);
    const { covered } = await node.one<{ covered: boolean }>(
      `select count(*) = 3 as covered from generate_series(-1, 1) k
       where exists (select from varve._chunks($1, 'timestamp with time zone')
         where (extract(epoch from now() + k * interval '1 day') * 1000000)::bigint between lower and upper - 1)`,
      [shard],
    );
    expect(covered).toBe(true);
  });

  it('makes the next chunks as time goes on', async () => {
    await create(`interval '1 second'`);
    const before = await count(`varve._chunks('${shard}', 'timestamp with time zone')`, node);
    await node.query('select pg_sleep(1.1)');
    expect((await maintain()).length).toBeGreaterThan(0);
    expect(await count(`varve._chunks('${shard}', 'timestamp with time zone')`, node)).toBeGreaterThan(
      before,
    );
  });

  it('moves rows without a chunk into new ones on the grid', async () => {
    await create();
    await session.query(
      `insert into x select '2001-01-01Z'::timestamptz + i * interval '8 hours', 'k', i from generate_series(0, 8) i`,
    );
    expect(await count(`only ${shard}_default`, node)).toBe(9);
    expect(await maintain()).toEqual([
      { chunk: 's00_20010101', moved: 3 },
      { chunk: 's00_20010102', moved: 3 },
      { chunk: 's00_20010103', moved: 3 },
    ]);
    expect(await count(`only ${shard}_default`, node)).toBe(0);
    expect(await count('x')).toBe(9);
    const { rows } = await node.query<{ 'QUERY PLAN': string }>(
      `explain select * from ${shard} where time >= '2001-01-02Z' and time < '2001-01-03Z'`,
    );
    const plan = JSON.stringify(rows);
    expect(plan).toContain('s00_20010102');
    expect(plan).not.toContain('s00_20010103');
  });

  it('moves at most so many rows at once, and rows of one time together', async () => {
    await create();
    await session.query(
      `insert into x select '2001-01-01Z'::timestamptz + least(i, 5) * interval '1 hour', 'k', i from generate_series(0, 12) i`,
    );
    expect(await maintain(3)).toEqual([
      { chunk: 's00_20010101', moved: 4 },
      { chunk: 's00_20010101_040000', moved: 9 },
    ]);
    await session.query(`insert into x values ('2001-01-01 23:59Z', 'k', 100)`);
    expect(await count(`only ${shard}_default`, node)).toBe(0);
    expect(await count('x')).toBe(14);
  });

  it('leaves times that no chunk can be made for, without being held up by them', async () => {
    await create();
    await session.query(`insert into x values ('infinity', 'k', 1), ('-infinity', 'k', 2),
      ('294276-12-31 23:59Z', 'k', 3), ('2001-01-01Z', 'k', 4), ('4713-01-01 BC', 'k', 5), ('0044-03-15Z BC', 'k', 6)`);
    await maintain();
    expect(
      await count(`only ${shard}_default where time = '2001-01-01Z' or time = '0044-03-15Z BC'`, node),
    ).toBe(0);
    expect(await count('x')).toBe(6);
    expect(await count(`x where time > '2000-01-01Z' and time < '2002-01-01Z'`)).toBe(1);
    expect(await count(`x where time < '0001-01-01Z'`)).toBe(3);
  });

  it('gives way to a transaction that has read the table, and goes on with another shard', async () => {
    await create(`interval '1 day'`, 2);
    await session.query(`insert into x select '2001-01-01Z', i, i from generate_series(1, 20) i`);
    await using reader = await connect(bed.at('dn1'));
    await reader.query('begin');
    await reader.query(`select count(*) from ${shard}`);
    expect(await maintain()).toHaveLength(1);
    await reader.query('commit');
    expect(await maintain()).toHaveLength(1);
    expect(await count('x')).toBe(20);
  });

  it('is for the shards that the role owns', async () => {
    await create();
    await session.query(`insert into x values ('2001-01-01Z', 'k', 1)`);
    await node.query(`set role ${ROLE}`);
    expect(await maintain()).toEqual([]);
    await node.query('reset role');
    expect(await maintain()).toHaveLength(1);
  });
});

describe('while rows are moved', () => {
  it('a transaction with an older snapshot still sees each of them once', async () => {
    await create();
    await session.query(
      `insert into x select '2001-01-01Z'::timestamptz + i * interval '1 minute', 'k', i from generate_series(1, 50) i`,
    );
    await using reader = await connect(bed.at('dn1'));
    await reader.query('begin isolation level repeatable read');
    await reader.query('select count(*) from varve.identity');
    expect(await maintain()).toMatchObject([{ moved: 50 }]);
    const within = `${shard} where time >= '2001-01-01Z' and time < '2001-01-02Z'`;
    expect(await count(within, reader)).toBe(50);
    expect(await count(shard, reader)).toBe(50);
    await reader.query('commit');
    expect(await count(within, reader)).toBe(50);
    expect(await count(shard, reader)).toBe(50);
  });

  it('a transaction with an older snapshot that would change them gets a serialization error', async () => {
    await create();
    await session.query(`insert into x values ('2001-01-01Z', 'k', 1)`);
    await using writer = await connect(bed.at('dn1'));
    await writer.query('begin isolation level repeatable read');
    await writer.query('select count(*) from varve.identity');
    expect(await maintain()).toHaveLength(1);
    await expect(writer.query(`update ${shard} set v = 2`)).rejects.toMatchObject({ sqlstate: '40001' });
    expect(await count('x where v = 1')).toBe(1);
  });

  it('writers and readers through the access node lose no row and see none twice', async () => {
    await create();
    // Each transaction writes one row into each interval, so a reader must see the same number in all of them.
    const intervalCount = 25;
    const state = { stopped: false, writtenCount: 0, seenCount: 0 };
    const wrong: unknown[] = [];
    const write = async (): Promise<void> => {
      await using writer = await bed.access.connect();
      while (!state.stopped) {
        await writer.query(
          `insert into t.x select '2001-01-01Z'::timestamptz + (i + random()) * interval '1 day', 'k', i
           from generate_series(0, $1 - 1) i`,
          [intervalCount],
        );
        state.writtenCount += 1;
      }
    };
    const read = async (): Promise<void> => {
      await using reader = await bed.access.connect();
      let last = 0;
      while (!state.stopped) {
        const { rows } = await reader.query<{ v: number; n: number }>(
          `select v, count(*)::int as n from t.x where time >= '2001-01-01Z' and time < '2001-03-01Z' group by v`,
        );
        const counts = new Set(rows.map(({ n }) => n));
        const [n = 0] = counts;
        if (counts.size > 1 || n < last || (n > 0 && rows.length < intervalCount)) wrong.push(rows);
        last = n;
        const later = await count(`t.x where time >= '2001-01-05Z' and time < '2001-01-06Z'`, reader);
        if (later < n) wrong.push({ later, n });
        state.seenCount += 1;
      }
    };
    const work = Promise.all([write(), write(), read(), read()]);
    const until = Date.now() + 40_000;
    let made = 0;
    while (made < intervalCount && Date.now() < until) {
      made += (await node.query('select * from varve.maintain_chunks()')).rowCount;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    state.stopped = true;
    await work;
    expect(wrong).toEqual([]);
    expect(made).toBe(intervalCount);
    expect(state.seenCount).toBeGreaterThan(0);
    await maintain();
    expect(await count('x')).toBe(state.writtenCount * intervalCount);
    expect(await count(`only ${shard}_default`, node)).toBe(0);
  });
});
