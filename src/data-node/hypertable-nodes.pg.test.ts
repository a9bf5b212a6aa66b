import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect, serverEndpoint } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
import type { VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';

/** Which data nodes hold a hypertable's shards, and which roles get through to them. */
let bed: DistributedDatabase;
let session: Connection;
let notices: string[];

const ROLES = ['hn_owner', 'hn_writer', 'hn_reader'];
const PASSWORD = 'hn-password';

beforeAll(async () => {
  await using admin = await connect();
  for (const role of ROLES) await admin.query(`create role ${role} login password '${PASSWORD}'`);
  bed = await distributedDatabase({
    logins: [
      { ...serverEndpoint(), host: 'localhost' },
      ...ROLES.map((user) => ({ ...serverEndpoint(), user, password: PASSWORD })),
    ],
  });
});

afterAll(async () => {
  await bed?.[Symbol.asyncDispose]();
  await using admin = await connect();
  for (const role of ROLES) await admin.query(`drop role if exists ${role}`);
});

beforeEach(async () => {
  notices = [];
  session = await connect(bed.access.database.endpoint, {
    onNotice: ({ message }) => notices.push(message),
  });
  await session.query('create schema t; set search_path = t, public');
});

afterEach(async () => {
  await session.query('rollback');
  await session.query('reset role; drop schema t cascade');
  await bed.access.settled();
  expect(await bed.remains()).toEqual([]);
  for (const { node_name } of await rowsOf<{ node_name: string }>('select node_name from varve.data_nodes')) {
    if (!bed.nodes.includes(node_name))
      await session.query('select delete_data_node($1, drop_database => true)', [node_name]);
  }
  await bed.access.settled();
  await session.close();
});

async function rowsOf<R extends object>(sql: string, params: readonly unknown[] = []): Promise<R[]> {
  return (await session.query<R>(sql, params)).rows;
}

async function valueOf(sql: string, params: readonly unknown[] = []): Promise<unknown> {
  const [row] = await rowsOf(sql, params);
  return row && Object.values(row)[0];
}

async function failure(sql: string, caller = session): Promise<VarveError> {
  const outcome = await caller.query(sql).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(outcome, `expected to fail: ${sql}`).toBeDefined();
  return outcome as VarveError;
}

async function create(nodes = '{dn1,dn2}', shardCount = 8): Promise<void> {
  await session.query(`create table x (time timestamptz not null, k text, v integer);
    select * from create_distributed_hypertable('x', 'time', 'k', ${shardCount}, data_nodes => '${nodes}')`);
}

/** `dn1: 3, dn2: 5` */
async function map(): Promise<string> {
  const rows = await rowsOf<{ node_name: string; n: number }>(
    `select node_name, count(*)::int as n from varve.shards where state = 'AVAILABLE' group by 1 order by 1`,
  );
  return rows.map(({ node_name, n }) => `${node_name}: ${n}`).join(', ');
}

async function members(): Promise<unknown> {
  return valueOf('select data_nodes::text[] from varve.hypertables');
}

async function fill(): Promise<void> {
  await session.query(`insert into x select now(), i, i from generate_series(1, 100) i`);
}

describe('attach_data_node', () => {
  it('moves shards without rows until the newcomer has its share', async () => {
    await create();
    const id = await valueOf('select id from varve.hypertables');
    expect(await rowsOf(`select * from attach_data_node('dn3', 'x')`)).toEqual([
      { hypertable_id: id, node_hypertable_id: id, node_name: 'dn3' },
    ]);
    expect(await map()).toBe('dn1: 3, dn2: 3, dn3: 2');
    expect(await members()).toEqual(['dn1', 'dn2', 'dn3']);
    await fill();
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
    await bed.access.settled();
    expect(await valueOf(`select count(*)::int from varve.shards where state <> 'AVAILABLE'`)).toBe(0);
    expect((await bed.remains()).filter((line) => /\.s\d+$/.test(line))).toHaveLength(8);
  });

  it('leaves shards with rows where they are, and says so', async () => {
    await create();
    await fill();
    await session.query(`select * from attach_data_node('dn3', 'x')`);
    expect(await map()).toBe('dn1: 4, dn2: 4');
    expect(await members()).toEqual(['dn1', 'dn2', 'dn3']);
    expect(notices).toContainEqual('2 shards of "t.x" hold rows and stay where they are');
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
  });

  it('moves nothing with repartition => false', async () => {
    await create();
    await session.query(`select * from attach_data_node('dn3', 'x', repartition => false)`);
    expect(await map()).toBe('dn1: 4, dn2: 4');
    expect(await members()).toEqual(['dn1', 'dn2', 'dn3']);
  });

  it('does not take shards for empty into which an open transaction has written', async () => {
    await create();
    await session.query('begin');
    await fill();
    await session.query(`select * from attach_data_node('dn3', 'x')`);
    await session.query('commit');
    expect(await map()).toBe('dn1: 4, dn2: 4');
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
  });

  it.each([
    ['ROLLBACK', ['begin', '@', 'rollback']],
    ['ROLLBACK TO', ['begin', 'savepoint s', '@', 'rollback to s', 'commit']],
  ])('is taken back by %s', async (_what, statements) => {
    await create();
    const before = [await bed.remains(), await map(), await members()];
    for (const sql of statements)
      await session.query(sql.replace('@', `select * from attach_data_node('dn3', 'x')`));
    await bed.access.settled();
    expect([await bed.remains(), await map(), await members()]).toEqual(before);
    await session.query(`select * from attach_data_node('dn3', 'x')`);
    expect(await map()).toBe('dn1: 3, dn2: 3, dn3: 2');
    await fill();
  });

  it('refuses what is attached, unknown, not distributed, not one’s own, or not available', async () => {
    await create();
    await session.query('create table plain (time timestamptz)');
    expect(await failure(`select * from attach_data_node('dn1', 'x')`)).toMatchObject({
      sqlstate: 'TS172',
      message: 'data node "dn1" is already attached to hypertable "t.x"',
    });
    expect(
      await rowsOf(`select node_name from attach_data_node('dn1', 'x', if_not_attached => true)`),
    ).toEqual([{ node_name: 'dn1' }]);
    expect(notices).toContainEqual('data node "dn1" is already attached to hypertable "t.x", skipping');
    expect(await failure(`select * from attach_data_node('nope', 'x')`)).toMatchObject({ sqlstate: '42704' });
    expect(await failure(`select * from attach_data_node('dn3', 'plain')`)).toMatchObject({
      sqlstate: 'TS001',
    });
    await session.query(`select alter_data_node('dn3', available => false)`);
    expect(await failure(`select * from attach_data_node('dn3', 'x')`)).toMatchObject({ sqlstate: '55000' });
    await session.query(`select alter_data_node('dn3', available => true)`);
    await session.query('grant usage on schema t to hn_reader; set role hn_reader');
    expect(await failure(`select * from attach_data_node('dn3', 't.x')`)).toMatchObject({
      sqlstate: '42501',
    });
    await session.query('reset role');
    await session.query('begin read only');
    expect(await failure(`select * from attach_data_node('dn3', 'x')`)).toMatchObject({ sqlstate: '25006' });
  });
});

describe('CREATE INDEX', () => {
  it('statements that run at the same time, or follow a rollback, make different indexes', async () => {
    await create();
    await using other = await bed.access.connect();
    await Promise.all([
      session.query('create index one on x (v)'),
      other.query('create index two on t.x (k, v)'),
    ]);
    for (const sql of [
      'begin; create index three on x (v desc); rollback',
      'create index three on x (k desc)',
    ])
      await session.query(sql);
    await bed.access.settled();
    await using there = await connect(bed.at('dn1'));
    const { rows } = await there.query<{ definition: string; n: number }>(
      `select regexp_replace(indexdef, '^.* USING', '') as definition, count(*)::int as n from pg_indexes
       where schemaname like 'varve\\_x\\_%' and tablename ~ '^s[0-9]+$' group by 1 order by 1`,
    );
    expect(rows).toEqual([
      { definition: ' btree ("time" DESC)', n: 4 },
      { definition: ' btree (k DESC)', n: 4 },
      { definition: ' btree (k, v)', n: 4 },
      { definition: ' btree (v)', n: 4 },
    ]);
  });
});

describe('detach_data_node', () => {
  it('puts shards without rows on the other nodes', async () => {
    await create('{dn1,dn2,dn3}', 9);
    expect(await valueOf(`select detach_data_node('dn3', 'x')`)).toBe(1);
    expect(await map()).toBe('dn1: 5, dn2: 4');
    expect(await members()).toEqual(['dn1', 'dn2']);
    await fill();
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
    await bed.access.settled();
    expect((await bed.remains()).filter((line) => line.startsWith(bed.at('dn3').database))).toEqual([]);
  });

  it('never gives up rows, with force neither', async () => {
    await create();
    await fill();
    for (const force of ['', ', force => true']) {
      expect(await failure(`select detach_data_node('dn2', 'x'${force})`)).toMatchObject({
        sqlstate: 'TS170',
        message: 'insufficient number of data nodes',
        detail: expect.stringContaining('would lose data'),
      });
    }
    expect(await map()).toBe('dn1: 4, dn2: 4');
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
  });

  it('puts nothing on a node that is not available', async () => {
    await create('{dn1,dn2,dn3}', 9);
    await session.query(`select alter_data_node('dn2', available => false)`);
    await session.query(`select detach_data_node('dn3', 'x')`);
    expect(await map()).toBe('dn1: 6, dn2: 3');
    expect(await failure(`select detach_data_node('dn1', 'x')`)).toMatchObject({
      sqlstate: 'TS170',
      detail: expect.stringContaining('No other data node of "x" is available'),
    });
    await session.query(`select alter_data_node('dn2', available => true)`);
  });

  it('does not take the last node', async () => {
    await create('{dn1}');
    expect(await failure(`select detach_data_node('dn1', 'x', force => true)`)).toMatchObject({
      sqlstate: 'TS170',
      detail: 'Data node "dn1" is its only one.',
    });
  });

  it('without a table is for all that the caller owns', async () => {
    await create();
    await session.query(`create table y (time timestamptz, k text);
      select * from create_distributed_hypertable('y', 'time', 'k', 4);
      create table z (time timestamptz, k text);
      select * from create_distributed_hypertable('z', 'time', 'k', 4);
      grant usage, create on schema t to hn_owner; alter table y owner to hn_owner;
      grant usage on foreign server dn1, dn2, dn3 to hn_owner; set role hn_owner`);
    for (const node of bed.nodes) {
      await using there = await connect(bed.at(node));
      await there.query(`grant create on database ${bed.at(node).database} to hn_owner`);
    }
    expect(await valueOf(`select detach_data_node('dn2')`)).toBe(1);
    expect(notices).toEqual(
      expect.arrayContaining([
        'skipping hypertable "t.x" due to missing permissions',
        'skipping hypertable "t.z" due to missing permissions',
      ]),
    );
    await session.query('reset role; revoke usage on foreign server dn1, dn2, dn3 from hn_owner');
  });

  it('refuses what is not attached, unknown, or not distributed', async () => {
    await create();
    await session.query('create table plain (time timestamptz)');
    expect(await failure(`select detach_data_node('dn3', 'x')`)).toMatchObject({ sqlstate: 'TS173' });
    expect(await valueOf(`select detach_data_node('dn3', 'x', if_attached => true)`)).toBe(0);
    expect(await failure(`select detach_data_node('nope', 'x')`)).toMatchObject({ sqlstate: '42704' });
    expect(await failure(`select detach_data_node(null)`)).toMatchObject({ sqlstate: '22023' });
    expect(await failure(`select detach_data_node('dn1', 'plain')`)).toMatchObject({ sqlstate: 'TS001' });
  });

  it('is taken back by ROLLBACK, together with what became of the table in between', async () => {
    await create();
    await session.query('begin');
    await session.query(`select detach_data_node('dn2', 'x')`);
    await fill();
    await session.query('rollback');
    await bed.access.settled();
    expect(await map()).toBe('dn1: 4, dn2: 4');
    await fill();
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
  });
});

describe('delete_data_node', () => {
  it('is refused while the node holds shards; with force, shards without rows go elsewhere', async () => {
    await bed.add(session, 'dn4');
    await create('{dn1,dn4}');
    expect(await failure(`select delete_data_node('dn4')`)).toMatchObject({
      sqlstate: 'TS504',
      message: 'data node "dn4" still holds data for distributed hypertable "t.x"',
    });
    expect(await valueOf(`select delete_data_node('dn4', force => true)`)).toBe(true);
    expect(await map()).toBe('dn1: 8');
    await bed.access.settled();
    expect((await bed.remains()).filter((line) => line.startsWith(bed.at('dn4').database))).toEqual([]);
    await fill();
  });

  it('never gives up rows, with force neither', async () => {
    await bed.add(session, 'dn4');
    await create('{dn1,dn4}');
    await fill();
    expect(await failure(`select delete_data_node('dn4', force => true)`)).toMatchObject({
      sqlstate: 'TS170',
    });
    expect(await map()).toBe('dn1: 4, dn4: 4');
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
  });

  it('takes a member without shards, and one whose table was dropped', async () => {
    await bed.add(session, 'dn4');
    await create();
    await session.query(`select * from attach_data_node('dn4', 'x', repartition => false)`);
    expect(await valueOf(`select delete_data_node('dn4', drop_database => true)`)).toBe(true);
    expect(await members()).toEqual(['dn1', 'dn2']);
    await bed.access.settled();
    await bed.add(session, 'dn4');
    await session.query(`create table y (time timestamptz, k text);
      select * from create_distributed_hypertable('y', 'time', 'k', 4, data_nodes => '{dn4}')`);
    await session.query('begin; drop table y');
    await session.query(`select delete_data_node('dn4')`);
    await session.query('commit');
    await bed.access.settled();
    expect((await bed.remains()).filter((line) => line.startsWith(bed.at('dn4').database))).toEqual([]);
  });

  it.each([
    ['a new database', false],
    ['a database that was there', true],
  ])(
    'is not needed for a node in %s that was added with a table on it and rolled back',
    async (_what, existed) => {
      const { database } = bed.at('dn5');
      await using admin = await connect();
      if (existed) await admin.query(`create database ${database} template template0`);
      try {
        await session.query('begin');
        await bed.add(session, 'dn5');
        await create('{dn1,dn5}');
        await fill();
        await session.query('rollback');
        await bed.access.settled();
        expect((await admin.query('select 1 from pg_database where datname = $1', [database])).rowCount).toBe(
          existed ? 1 : 0,
        );
        if (!existed) return;
        await using there = await connect(bed.at('dn5'));
        expect((await there.query(`select 1 from pg_namespace where nspname like 'varve%'`)).rowCount).toBe(
          0,
        );
        expect((await there.query(`select 1 from pg_extension where extname = 'varve'`)).rowCount).toBe(0);
      } finally {
        await admin.query(`drop database if exists ${database} with (force)`);
        bed.forget('dn5');
      }
    },
  );

  it('and alter_data_node leave the foreign tables of other nodes usable', async () => {
    await create();
    await fill();
    await session.query(`select alter_data_node('dn1', host => 'localhost')`);
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
    await session.query(`select alter_data_node('dn1', host => '127.0.0.1')`);
    expect(await valueOf('select sum(v)::int from x')).toBe(5050);
  });
});

describe('other roles', () => {
  const as = (user: string): Promise<Connection> =>
    connect({ ...bed.access.database.endpoint, user, password: PASSWORD });

  beforeEach(async () => {
    for (const role of ROLES) {
      for (const node of bed.nodes) {
        await session.query(`create user mapping if not exists for ${role} server ${node}
          options (user '${role}', password '${PASSWORD}')`);
      }
    }
    await session.query('grant usage on schema t to public');
  });

  it('get through with what was granted before and after, and no further', async () => {
    await session.query(
      'create table x (time timestamptz not null, k text, v integer); grant select on x to hn_reader',
    );
    await session.query(`select * from create_distributed_hypertable('x', 'time', 'k', 4)`);
    await fill();
    await using reader = await as('hn_reader');
    await using writer = await as('hn_writer');
    expect((await reader.one<{ n: number }>('select count(*)::int as n from t.x')).n).toBe(100);
    expect(await failure(`insert into t.x values (now(), 'a', 1)`, reader)).toMatchObject({
      sqlstate: '42501',
    });
    expect(await failure('select * from t.x', writer)).toMatchObject({ sqlstate: '42501' });
    await session.query('grant select, insert, update, delete, truncate on x to hn_writer');
    await writer.query(`insert into t.x select now(), i, 0 from generate_series(1, 50) i`);
    await writer.query(`update t.x set v = 1 where v = 0`);
    expect((await writer.query('delete from t.x where v = 1')).rowCount).toBe(51);
    await writer.query('truncate t.x');
    await session.query('revoke all on x from hn_writer');
    expect(await failure('select * from t.x', writer)).toMatchObject({ sqlstate: '42501' });
    await bed.access.settled();
    await using there = await connect({ ...bed.at('dn1'), user: 'hn_writer', password: PASSWORD });
    const [shard] = await rowsOf<{ name: string }>(
      `select node_schema || '.' || node_table as name from varve.shards where node_name = 'dn1' limit 1`,
    );
    expect(await failure(`select * from ${shard?.name}`, there)).toMatchObject({ sqlstate: '42501' });
  });

  it('get through by columns, by PUBLIC, and as the new owner', async () => {
    await create();
    await fill();
    await using reader = await as('hn_reader');
    await session.query('grant select (time, v), update (v) on x to hn_reader');
    expect(
      (await reader.one<{ n: number }>('select sum(v)::int as n from t.x where time < $1', ['infinity'])).n,
    ).toBe(5050);
    expect((await reader.query('update t.x set v = 0 where v > 50')).rowCount).toBe(50);
    expect(await failure('select k from t.x', reader)).toMatchObject({ sqlstate: '42501' });
    await session.query('revoke all on x from hn_reader; grant select on x to public');
    expect((await reader.one<{ n: number }>('select count(k)::int as n from t.x')).n).toBe(100);
    await session.query(
      'revoke all on x from public; grant create on schema t to hn_owner; alter table x owner to hn_owner',
    );
    await using owner = await as('hn_owner');
    await owner.query(`delete from t.x where v = 0`);
    await owner.query('truncate t.x');
    await owner.query('drop table t.x');
  });

  it('do not get through with INSERT on some columns only, because whole rows are sent', async () => {
    await create();
    await session.query('grant insert (time, k) on x to hn_writer');
    await using writer = await as('hn_writer');
    expect(await failure(`insert into t.x (time, k) values (now(), 'a')`, writer)).toMatchObject({
      sqlstate: '42501',
    });
  });

  it('do not get through with a GRANT that is rolled back', async () => {
    await create();
    await session.query('begin; grant select on x to hn_reader; rollback');
    await bed.access.settled();
    await using there = await connect({ ...bed.at('dn1'), user: 'hn_reader', password: PASSWORD });
    const [shard] = await rowsOf<{ name: string }>(
      `select node_schema || '.' || node_table as name from varve.shards where node_name = 'dn1' limit 1`,
    );
    expect(await failure(`select * from ${shard?.name}`, there)).toMatchObject({ sqlstate: '42501' });
  });

  it('make tables of their own where the data nodes let them create schemas', async () => {
    await session.query(
      `grant create on schema t to hn_owner; grant usage on foreign server dn1, dn2, dn3 to hn_owner`,
    );
    for (const node of bed.nodes) {
      await using there = await connect(bed.at(node));
      await there.query(`revoke create on database ${bed.at(node).database} from hn_owner`);
    }
    await using owner = await as('hn_owner');
    await owner.query('set search_path = t, public; create table mine (time timestamptz, k text)');
    const call = `select * from create_distributed_hypertable('mine', 'time', 'k', 6)`;
    expect(await failure(call, owner)).toMatchObject({
      sqlstate: '42501',
      message: expect.stringContaining('role "hn_owner" may not create schemas on data node'),
      detail: expect.stringContaining('GRANT CREATE ON DATABASE'),
    });
    for (const node of bed.nodes) {
      await using there = await connect(bed.at(node));
      await there.query(`grant create on database ${bed.at(node).database} to hn_owner`);
    }
    await owner.query(call);
    await owner.query(`insert into mine select now(), i from generate_series(1, 20) i`);
    await owner.query('create index on mine (k)');
    expect((await owner.one<{ n: number }>('select count(*)::int as n from mine')).n).toBe(20);
    await owner.query('drop table mine');
    await session.query('revoke usage on foreign server dn1, dn2, dn3 from hn_owner');
  });
});
