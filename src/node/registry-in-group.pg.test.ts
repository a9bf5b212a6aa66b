import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connect, serverEndpoint } from '../../test/database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { replayDdl } from '../cluster/bootstrap/replay.ts';
import {
  testEdge,
  testGroup,
  testMember,
  type TestGroup,
  type TestMember,
} from '../cluster/ddl/group-of-three.suite.ts';
import { StructureUpkeep } from '../cluster/ddl/structure-upkeep.ts';
import type { ServerAddress } from '../cluster/mesh/group-servers.ts';
import { systemClock } from '../core/clock.ts';
import { installExtension } from '../data-node/install-extension.ts';
import { DataNodeService } from '../data-node/service.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { quoteIdent } from '../postgres/sql.ts';
import { RunEvents } from '../run/events.ts';

/** Three access nodes as one group, each with its daemon; the data nodes are databases of the run's server. */
describe('the registry of data nodes in a group', () => {
  let group: TestGroup;
  let folder: string;
  const services: DataNodeService[] = [];
  const suffix = randomBytes(4).toString('hex');
  const nodeDatabase = (name: string): string => `${name}_${suffix}`;
  const used = new Set<string>();

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}registry-`));
    group = await testGroup(18, ['n1', 'n2', 'n3']);
    for (const member of group.members) services.push(await startDaemon(member, folder));
    await group.setMaster('n1');
    await group.caughtUp();
  });
  afterAll(async () => {
    for (const service of services) await service[Symbol.asyncDispose]();
    await group?.[Symbol.asyncDispose]();
    if (folder) await rm(folder, { recursive: true, force: true });
    await using connection = await connect();
    for (const name of used)
      await connection.query(`drop database if exists ${quoteIdent(name)} with (force)`);
  });

  async function add(connection: Connection, name: string): Promise<void> {
    const { host, port } = serverEndpoint();
    used.add(nodeDatabase(name));
    await connection.query('select * from add_data_node($1, $2, $3, $4)', [
      name,
      host,
      nodeDatabase(name),
      port,
    ]);
  }

  async function lines(connection: Connection, sql: string): Promise<string[]> {
    const [result] = await connection.queryText(sql);
    return (result?.rows ?? []).map((row) => row.join(' '));
  }

  /** Until all members answer the same as the write master; its answer. */
  async function alike(sql: string): Promise<string[]> {
    await group.caughtUp();
    const wanted = await lines(group.master.connection, sql);
    for (const { connection } of group.members) {
      await expect.poll(() => lines(connection, sql).catch(String), { timeout: 15_000 }).toEqual(wanted);
    }
    return wanted;
  }

  const FOREIGN = `select c.oid::regclass, c.relowner::regrole, s.srvname, f.ftoptions, pg_get_expr(c.relpartbound, c.oid)
    from pg_foreign_table f join pg_class c on c.oid = f.ftrelid join pg_foreign_server s on s.oid = f.ftserver order by c.oid::regclass::text`;
  const REGISTRY = `select (select uuid from varve.identity), n.node_name, n.host, n.database, array(select o from unnest(s.srvoptions) o order by o), n.available
    from varve.data_node n left join pg_foreign_server s on s.srvname = n.node_name order by 2`;
  const MAPPINGS = `select srvname, usename from pg_user_mappings order by 1, 2`;

  test('all members get the uuid of the first write master', async () => {
    const at = (node: string): ServerAddress => ({ node, host: '127.0.0.1', port: 1 });
    for (const node of ['n2', 'n3']) {
      const upkeep = new StructureUpkeep(
        {
          clock: systemClock,
          log: { info: () => {}, warn: (facts) => console.error(facts) },
          servers: {
            withConnection: (server, _database, work) =>
              work(group.members.find((member) => member.node === server.node)?.connection as Connection),
          },
        },
        {
          self: at(node),
          view: () => ({ master: at('n1'), databases: ['app'], others: [] }),
          intervalMs: 1000,
        },
      );
      await upkeep.round();
    }
    expect(await alike('select uuid from varve.identity')).toHaveLength(1);
  });

  test('a data node that is added on the write master can be used on every access node', async () => {
    await add(group.master.connection, 'dn1');
    await add(group.master.connection, 'dn2');
    expect(await alike(REGISTRY)).toHaveLength(2);
    expect(await alike(MAPPINGS)).toHaveLength(2);
    expect(
      await lines(
        group.members[1]?.connection as Connection,
        `select node_name, healthy from health() where node_name is not null order by 1`,
      ),
    ).toEqual(['dn1 t', 'dn2 t']);
  });

  test('a call on another access node is refused, and names the write master', async () => {
    for (const call of [
      `select add_data_node('dnx', 'localhost')`,
      `select delete_data_node('dn1')`,
      `select alter_data_node('dn1', available => false)`,
      `call distributed_exec('select 1')`,
    ]) {
      await expect(group.members[2]?.connection.query(call)).rejects.toMatchObject({
        sqlstate: '25006',
        hint: expect.stringContaining('"n1"'),
      });
    }
    await group.members[2]?.connection.query('rollback');
  });

  test('a distributed hypertable is read on every access node', async () => {
    const { connection } = group.master;
    await connection.query(`create table conditions (time timestamptz not null, device text, v double precision check (v > -300));
      create index on conditions (device, time desc); comment on table conditions is 'weather'`);
    await connection.query(
      `select create_distributed_hypertable('conditions', 'time', 'device', number_partitions => 6)`,
    );
    await connection.query(
      `insert into conditions select now() - g * interval '1 hour', 'd' || g % 17, g from generate_series(1, 500) g`,
    );
    expect(await alike(FOREIGN)).toHaveLength(6);
    expect(await alike('select count(*), sum(v) from conditions')).toEqual(['500 125250']);
    expect(
      await alike(`select hypertable_name, shard_count, data_nodes, relation from varve.hypertables`),
    ).toEqual(['conditions 6 {dn1,dn2} conditions']);
    await alike(`select number, state, node_name from varve.shard order by 1`);
    await alike(
      `select indexrelid::regclass, pg_get_indexdef(indexrelid) from pg_index where indrelid = 'conditions'::regclass`,
    );
    await alike(
      `select conname, pg_get_constraintdef(oid) from pg_constraint where conrelid = 'conditions'::regclass order by 1`,
    );
  });

  test('what is done to it on the write master is seen everywhere, and nothing is done twice', async () => {
    const { connection } = group.master;
    await connection.query('create index by_v on conditions (v)');
    await connection.query('create role reader; grant select on conditions to reader');
    await alike(`select relacl from pg_class where relname = 'conditions'`);
    await alike('select number, index_name, dropped from varve.hypertable_index order by 1');
    await connection.query('create table empty_one (time timestamptz not null, k int)');
    await connection.query(
      `select create_distributed_hypertable('empty_one', 'time', 'k', number_partitions => 4, data_nodes => array['dn1'])`,
    );
    await alike(FOREIGN);
    await connection.query(`select attach_data_node('dn2', 'empty_one')`);
    expect(
      await alike(
        `select s.shard, s.node_name from varve.shards s where s.hypertable_name = 'empty_one' and state = 'AVAILABLE' and node_name = 'dn2'`,
      ),
    ).toHaveLength(2);
    await alike(FOREIGN);
    await connection.query(`select detach_data_node('dn2', 'empty_one')`);
    await alike(FOREIGN);
    await connection.query('alter table empty_one rename to other_name');
    await alike('select hypertable_name, relation from varve.hypertables order by 1');
    await connection.query('drop table other_name');
    await alike(FOREIGN);
    await alike('select hypertable_name, relation from varve.hypertables order by 1');
    await add(connection, 'dn3');
    await alike(REGISTRY);
    await connection.query(`select delete_data_node('dn3')`);
    expect(await alike(REGISTRY)).toHaveLength(2);
    await alike(`select srvname from pg_foreign_server order by 1`);
    for (const { connection: member } of group.members) {
      expect(
        await lines(member, `select subname from pg_stat_subscription_stats where apply_error_count > 0`),
      ).toEqual([]);
    }
  });

  test('after a fail-over the new write master goes on with it', async () => {
    await group.caughtUp();
    await alike(FOREIGN);
    for (const { connection } of group.members)
      await connection.query(`select varve_group.set_write_master('n2')`);
    await group.setMaster('n2');
    const { connection } = group.master;
    await connection.query(`insert into conditions select now(), 'x' || g, g from generate_series(1, 100) g`);
    expect(await alike('select count(*) from conditions')).toEqual(['600']);
    await connection.query('create index by_time_v on conditions (time, v)');
    await connection.query(`create table second (time timestamptz not null, k int)`);
    await connection.query(
      `select create_distributed_hypertable('second', 'time', 'k', number_partitions => 4)`,
    );
    await connection.query(`insert into second select now(), g from generate_series(1, 40) g`);
    expect(await alike('select count(*) from second')).toEqual(['40']);
    await add(connection, 'dn4');
    await connection.query(`select attach_data_node('dn4', 'second', repartition => false)`);
    await connection.query(`drop table conditions`);
    await alike(FOREIGN);
    expect(await alike(REGISTRY)).toHaveLength(3);
    expect(await lines(connection, 'select id from varve.hypertable order by 1')).not.toContain('1');
    await expect(
      group.members[0]?.connection.query(`select create_distributed_hypertable('second', 'time')`),
    ).rejects.toMatchObject({ sqlstate: '25006', hint: expect.stringContaining('"n2"') });
    await group.members[0]?.connection.query('rollback');
  });

  test('a call that a dead write master did not finish can be made again on the new one', async () => {
    const { connection } = group.master;
    await connection.query('begin');
    await add(connection, 'dn5');
    // Its daemon is gone, and its server with the open transaction is as good as dead to the others.
    await services[1]?.[Symbol.asyncDispose]();
    for (const member of group.members) {
      if (member.node !== 'n2') await member.connection.query(`select varve_group.set_write_master('n3')`);
    }
    await group.setMaster('n3');
    await add(group.master.connection, 'dn5');
    await group.master.connection.query(
      `create table on_five (time timestamptz not null, k int); select create_distributed_hypertable('on_five', 'time', 'k', number_partitions => 2, data_nodes => array['dn5'])`,
    );
    await group.master.connection.query('insert into on_five select now(), g from generate_series(1, 10) g');
    // The former master returns: what it had begun is taken back, what was made anew is left alone.
    await connection.query('rollback');
    const [, former] = group.members;
    if (former) services[1] = await startDaemon(former, folder);
    await expect
      .poll(() => services[1]?.status().every(({ state }) => state !== 'begun'), { timeout: 20_000 })
      .toBe(true);
    expect(services[1]?.status().at(-1)).toMatchObject({ state: 'undone', operation: { subject: 'dn5' } });
    expect(await alike('select count(*) from on_five')).toEqual(['10']);
    expect(await alike(`select n.node_name from varve.data_node n order by 1`)).toContain('dn5');
    expect(
      await lines(group.master.connection, `select healthy from health() where node_name = 'dn5'`),
    ).toEqual(['t']);
  });

  test('a member that joins later has the registry and can use it', async () => {
    const { connection } = group.master;
    await connection.query(`create type weather as enum ('sun')`);
    await connection.query(`alter type weather add value 'rain'`);
    await connection.query(`create table days (d date primary key, w weather default 'rain')`);
    await connection.query(`insert into days values ('2026-01-01')`);
    await group.caughtUp();
    const joiner = await testMember(18, 'n4', group.groupUuid);
    try {
      services.push(await startDaemon(joiner, folder));
      await using holder = await connect({ ...group.master.test.server.admin(), database: 'app' });
      await holder.query('select varve_group.hold_ddl()');
      await replayDdl(connection, joiner.connection);
      await joiner.connection.query(`update varve_group.local set master = 'n3'`);
      await testEdge(group.master, joiner, { copyData: true });
      await holder.query('select varve_group.release_ddl()');
      await connection.query('create table after_join (id int primary key)');
      await connection.query('insert into after_join values (1)');
      await connection.query(`create table third (time timestamptz not null, k int)`);
      await connection.query(
        `select create_distributed_hypertable('third', 'time', 'k', number_partitions => 2)`,
      );
      for (const sql of [
        REGISTRY,
        FOREIGN,
        'select count(*) from second',
        'select * from days',
        'select id from after_join',
      ]) {
        const wanted = await lines(connection, sql);
        // A daemon that saw the database before the extension was in it looks again after up to twenty seconds.
        await expect
          .poll(() => lines(joiner.connection, sql).catch(String), { timeout: 40_000 })
          .toEqual(wanted);
      }
      expect(
        await lines(
          joiner.connection,
          `select s.srrelid::regclass, s.srsubstate from pg_subscription_rel s where srsubstate <> 'r'`,
        ),
      ).toEqual([]);
    } finally {
      await services.pop()?.[Symbol.asyncDispose]();
      await joiner.connection.query('drop subscription varve_n3_app').catch(() => {});
      await joiner.connection.close();
      await joiner.test[Symbol.asyncDispose]();
    }
  });
});

async function startDaemon({ node, test, connection }: TestMember, folder: string): Promise<DataNodeService> {
  const admin = test.server.admin();
  const there = serverEndpoint();
  const line = `${there.host}:${there.port}:*:${there.user}:${there.password ?? ''}\n`;
  const passfile = join(folder, `passfile-${node}`);
  await writeFile(passfile, line, { mode: 0o600 });
  await writeFile(join(test.folder, 'data', 'passfile'), line, { mode: 0o600 });
  await chownLike(join(test.folder, 'data', 'passfile'), join(test.folder, 'data'));
  await connection.query(
    `set varve_group.ddl = off; create extension if not exists dblink; create extension if not exists postgres_fdw`,
  );
  await installExtension(connection, { schema: 'public' });
  await connection.query(`reset varve_group.ddl; select varve_group.adopt_tables()`);
  return DataNodeService.start(
    {
      clock: systemClock,
      events: new RunEvents(),
      log: { info: () => {}, warn: () => {}, error: (facts) => console.error(facts) },
      withAdmin: async (database, work) => {
        await using session = await connect({ ...admin, database } satisfies Endpoint);
        return await work(session);
      },
    },
    {
      node,
      folder: join(folder, node),
      listen: { host: '127.0.0.1', port: 0 },
      credentials: { passfile, serverPaths: { passfile: 'passfile' } },
      reconcile: { homeDatabase: 'postgres', host: '127.0.0.1', intervalMs: 200 },
    },
  );
}

async function chownLike(path: string, like: string): Promise<void> {
  const { chown, stat } = await import('node:fs/promises');
  const { uid, gid } = await stat(like);
  await chown(path, uid, gid);
}
