import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { connect, describeEachMajor, startTestServer, type TestServer } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { installExtension } from './install-extension.ts';

/** Distributed hypertables on every supported major, where the extension is installed by script. */
describeEachMajor('a distributed hypertable', (major) => {
  let server: TestServer;
  let admin: Endpoint;

  beforeAll(async () => {
    server = await startTestServer(major);
    admin = server.server.admin();
  });

  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
  });

  /** Made, filled, changed, guarded, spread further and dropped. */
  async function exercise(bed: DistributedDatabase, session: Connection): Promise<void> {
    await session.query(`create schema t; set search_path = t, public;
      create table x (id integer generated always as identity, s serial, time timestamptz, k text, v integer check (v >= 0));
      create index on x (v);
      select * from create_distributed_hypertable('x', 'time', 'k', 6, chunk_time_interval => interval '1 day', data_nodes => '{dn1,dn2}')`);
    await session.query(
      `insert into x (time, k, v) select '2025-01-01Z'::timestamptz + i * interval '1 hour', 'k' || i, i from generate_series(1, 100) i`,
    );
    await bed.access.service.lookAfterHypertables(bed.access.database.name);
    await session.query(
      `update x set v = 0 where k = 'k7'; delete from x where time < (select timestamptz '2025-01-02Z')`,
    );
    expect(
      await session.one(`select count(*)::int as n, sum(v)::int as v, max(id) as id, max(s) as s from x`),
    ).toEqual({ n: 77, v: 4774, id: 100, s: 100 });
    for (const [sql, sqlstate] of [
      [`update x set k = 'a'`, '0A000'],
      [`delete from x where time < now() - interval '7 days'`, '0A000'],
      ["insert into x_s00 (time, k, v) values (now(), 'a', 1)", '0A000'],
      ["insert into x (time, k, v) values (now(), 'a', -1)", '23514'],
      ['alter table x add column y int', '0A000'],
      ['drop foreign table x_s00', '0A000'],
      ['create unique index on x (k)', major < 16 ? /42809|0A000/ : '42809'],
    ] as const) {
      await expect(session.query(sql), sql).rejects.toMatchObject({
        sqlstate: typeof sqlstate === 'string' ? sqlstate : expect.stringMatching(sqlstate),
      });
    }
    await session.query('create index other on x (k, v); drop index other; truncate x');
    await session.query(`select * from attach_data_node('dn3', 'x')`);
    expect(await session.one(`select count(*)::int as n from varve.shards where node_name = 'dn3'`)).toEqual({
      n: 2,
    });
    expect(await session.one(`select detach_data_node('dn1', 'x') as n`)).toEqual({ n: 1 });
    await session.query(`begin; drop table x; rollback; insert into x (time, k) values (now(), 'a')`);
    await session.query('drop schema t cascade');
    await bed.access.settled();
    expect(await bed.remains()).toEqual([]);
  }

  it('works with access node and data nodes of this major', async () => {
    await using bed = await distributedDatabase({
      admin,
      dataDir: join(server.folder, 'data'),
      there: admin,
      service: { reconcile: { homeDatabase: 'postgres', host: '127.0.0.1', intervalMs: 200 } },
    });
    await using session = await bed.access.connect();
    await exercise(bed, session);
    // What is dropped while no daemon listens is found by the next one.
    await session.query(`create table y (time timestamptz, k text);
      select * from create_distributed_hypertable('y', 'time', 'k', 2)`);
    await bed.access.service[Symbol.asyncDispose]();
    await session.query('drop table y');
    expect(await bed.remains()).not.toEqual([]);
    await bed.access.restart();
    while ((await bed.remains()).length > 0) await new Promise((resolve) => setTimeout(resolve, 50));
  });

  it('works with data nodes of this major, in databases that an ordinary role owns', async () => {
    const user = `hm_${major}`;
    const login = { user, password: 'hm-password' };
    await using there = await connect(admin);
    await there.query(`create role ${user} login createdb password '${login.password}'`);
    await using here = await connect();
    await here.query(`create role ${user} login password '${login.password}'`);
    try {
      await using bed = await distributedDatabase({
        nodes: [],
        there: admin,
        logins: [{ ...admin, ...login }],
      });
      await using superuser = await bed.access.connect();
      await superuser.query(`grant usage on foreign data wrapper postgres_fdw to ${user};
        grant create on database ${bed.access.database.name} to ${user}`);
      await using session = await bed.access.connect(login);
      for (const node of ['dn1', 'dn2', 'dn3']) await bed.add(session, node);
      await exercise(bed, session);
      const { rows } = await there.query<{ owner: string }>(
        `select distinct datdba::regrole::text as owner from pg_database where datname ~ '^dn[123]_'`,
      );
      expect(rows).toEqual([{ owner: user }]);
    } finally {
      await here.query(`drop role ${user}`);
    }
  });

  it('works where the extension’s owner is no superuser, without what event triggers do', async () => {
    const user = `hq_${major}`;
    const login = { user, password: 'hq-password' };
    await using root = await connect(admin);
    await root.query(`create role ${user} login createdb password '${login.password}'`);
    await using bed = await distributedDatabase({
      admin,
      dataDir: join(server.folder, 'data'),
      there: admin,
      nodes: [],
      logins: [{ ...admin, ...login }],
    });
    await using superuser = await bed.access.connect();
    const { host, port, secret } = await superuser.one<{ host: string; port: number; secret: string }>(
      'select host, port, secret from varve.endpoint',
    );
    const { method } = await superuser.one<{ method: string }>('select method from varve._installed()');
    expect(method).toBe('script');
    await superuser.query(`drop schema varve cascade; drop schema public cascade;
      create schema public; grant all on schema public to ${user};
      create extension if not exists dblink; create extension if not exists postgres_fdw;
      grant usage on foreign data wrapper postgres_fdw to ${user};
      grant create on database ${bed.access.database.name} to ${user}`);
    await using session = await bed.access.connect(login);
    await installExtension(session, { schema: 'public' });
    await session.query('insert into varve.endpoint (host, port, secret) values ($1, $2, $3)', [
      host,
      port,
      secret,
    ]);
    for (const node of ['dn1', 'dn2']) await bed.addWithPassword(session, node, login.password);
    await session.query(`create table x (time timestamptz, k text, v integer);
      select * from create_distributed_hypertable('x', 'time', 'k', 4)`);
    await session.query(`insert into x select now(), i, i from generate_series(1, 50) i`);
    expect(await session.one('select sum(v)::int as v from x')).toEqual({ v: 1275 });
    await expect(session.query(`update x set k = 'a'`)).rejects.toMatchObject({ sqlstate: '0A000' });
    await session.query('create index on x (v)');
    await session.query(`select varve.sync_hypertable('x')`);
    const indexes = (await bed.remains()).filter((line) => /s\d+_i\d{4}$/.test(line));
    expect(indexes).toHaveLength(4);
    await session.query('drop table x');
    await bed.access.service.lookAfterHypertables(bed.access.database.name);
    expect(await bed.remains()).toEqual([]);
  });
});
