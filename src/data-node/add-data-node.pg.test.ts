import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testAccessNode, traces, type TestAccessNode } from '../../test/access-node.ts';
import { createServer } from 'node:net';
import {
  connect,
  serverEndpoint,
  startTestServer,
  testDatabase,
  type TestServer,
} from '../../test/database.ts';
import { FaultProxy } from '../../test/fault-proxy.ts';
import { writeExtensionFiles } from './extension-files.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

let extensions: string;
let remote: TestServer;
let access: TestAccessNode;
let session: Connection;
let port: number;

beforeAll(async () => {
  extensions = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}ext-`));
  await writeExtensionFiles(extensions);
  remote = await startTestServer(18, { extensionFolders: [extensions] });
  port = remote.server.port;
  const admin = remote.server.admin();
  access = await testAccessNode({
    logins: [admin, { ...admin, host: 'localhost' }, { ...admin, user: 'alice', password: 'apw' }],
  });
  session = await access.connect();
  for (const endpoint of [remote.server.admin(), access.database.endpoint]) {
    await using connection = await connect(endpoint);
    await connection.query(`create role alice login createdb password 'apw'`);
  }
});

afterAll(async () => {
  await session?.close();
  await access?.[Symbol.asyncDispose]();
  await using connection = await connect();
  await connection.query('drop role if exists alice');
  await remote?.[Symbol.asyncDispose]();
  await rm(extensions, { recursive: true, force: true });
});

function at(database: string): Endpoint {
  return { ...remote.server.admin(), database };
}

async function dropNode(name: string): Promise<void> {
  await session.query('select delete_data_node($1, drop_database => true)', [name]);
  await access.settled();
}

interface Added {
  node_name: string;
  host: string;
  port: number;
  database: string;
  node_created: boolean;
  database_created: boolean;
  extension_created: boolean;
}

function add(connection: Connection, name: string, more = ''): Promise<Added> {
  return connection.one<Added>(`select * from add_data_node($1, '127.0.0.1', port => $2${more})`, [
    name,
    port,
  ]);
}

async function databaseExists(name: string): Promise<boolean> {
  await using connection = await connect(at('postgres'));
  return (await connection.query('select 1 from pg_database where datname = $1', [name])).rowCount === 1;
}

/** What a call changes nowhere: registry, foreign servers, databases of the data node's server. */
async function expectUnchanged(work: () => Promise<unknown>): Promise<void> {
  const endpoints = [access.database.endpoint, at('postgres')];
  await access.settled();
  const before = await traces(endpoints);
  await work();
  await access.settled();
  expect(await traces(endpoints)).toEqual(before);
}

describe('adding a data node', () => {
  it('creates the database like the access node’s, the extension, and the mark', async () => {
    const { name } = access.database;
    expect(await add(session, 'dn1')).toEqual({
      node_name: 'dn1',
      host: '127.0.0.1',
      port,
      database: name,
      node_created: true,
      database_created: true,
      extension_created: true,
    });
    await using there = await connect(at(name));
    await using here = await connect(access.database.endpoint);
    const sql = `select encoding, datcollate, datctype, datlocprovider, pg_get_userbyid(datdba) as owner
                 from pg_database where datname = current_database()`;
    expect(await there.one(sql)).toEqual(await here.one(sql));
    expect(await there.one('select dist_id from varve.identity')).toEqual(
      await here.one('select uuid as dist_id from varve.identity'),
    );
    expect(await here.one('select node_name, host, port, database, owner from varve.data_nodes')).toEqual({
      node_name: 'dn1',
      host: '127.0.0.1',
      port,
      database: name,
      owner: access.database.endpoint.user,
    });
    await dropNode('dn1');
    expect(await databaseExists(name)).toBe(false);
  });

  it('repeats with if_not_exists what is stored, not what was typed', async () => {
    const added = await add(session, 'dn1', `, database => 'one'`);
    const notices: string[] = [];
    await using listener = await connect(access.database.endpoint, {
      onNotice: (n) => notices.push(`${n.code} ${n.message}`),
    });
    const again = `select * from add_data_node('dn1', 'elsewhere', 'two', 1, if_not_exists => true)`;
    expect(await listener.one(again)).toEqual({
      ...added,
      node_created: false,
      database_created: false,
      extension_created: false,
    });
    expect(notices).toEqual(['42710 data node "dn1" already exists, skipping']);
    await expect(add(session, 'dn1')).rejects.toMatchObject({ sqlstate: '42710' });
    await dropNode('dn1');
  });

  it('refuses a database that is a data node under another name', async () => {
    await add(session, 'dn1', `, database => 'one'`);
    await expectUnchanged(() =>
      expect(add(session, 'dn2', `, database => 'one'`)).rejects.toMatchObject({
        sqlstate: '42710',
        message: `database "one" on 127.0.0.1:${port} is data node "dn1" already`,
      }),
    );
    await dropNode('dn1');
  });

  it('takes a deleted data node back, with its data', async () => {
    await add(session, 'dn1', `, database => 'one'`);
    await using there = await connect(at('one'));
    await there.query('create table public.kept as select 1 as a');
    await session.query(`select delete_data_node('dn1')`);
    await access.settled();
    expect(await there.one('select dist_id from varve.identity')).toEqual({ dist_id: null });
    expect(await add(session, 'dn9', `, database => 'one', bootstrap => false`)).toMatchObject({
      node_created: true,
      database_created: false,
      extension_created: false,
    });
    expect(await there.one('select a from public.kept')).toEqual({ a: 1 });
    await there.close();
    await dropNode('dn9');
  });

  it('works with the access database and the data node on one server', async () => {
    const endpoint = serverEndpoint();
    await using own = await testAccessNode({ logins: [endpoint] });
    await using caller = await own.connect();
    const name = `${own.database.name}_dn`;
    const row = await caller.one(`select * from add_data_node('dn', '127.0.0.1', $1)`, [name]);
    expect(row).toMatchObject({ database: name, port: endpoint.port, database_created: true });
    await caller.query(`select delete_data_node('dn', drop_database => true)`);
    await own.settled();
  });

  it('needs no credentials on the access node’s own server, as any role', async () => {
    await using own = await startTestServer(18, { extensionFolders: [extensions], socketPeers: true });
    const { port: ownPort, socketDir, socketDirForBackends, dataDir } = own.server;
    const ownServer = { port: ownPort, socketFolder: socketDir, socketFolderForServer: socketDirForBackends };
    await using node = await testAccessNode({
      admin: own.server.admin(),
      dataDir,
      logins: [],
      service: { credentials: {}, ownServer },
    });
    await using caller = await node.connect();
    await caller.query(
      'create role dora login createdb; grant usage on foreign data wrapper postgres_fdw to dora',
    );
    await caller.query('grant create on schema public to dora; set role dora');
    await caller.query(`select add_data_node('dn', '127.0.0.1', 'dora_dn')`);
    await caller.query(
      `create foreign table public.them (datname name) server dn options (schema_name 'pg_catalog', table_name 'pg_database')`,
    );
    expect(await caller.one(`select datname from public.them where datname = 'dora_dn'`)).toEqual({
      datname: 'dora_dn',
    });
    await expect(caller.query(`select add_data_node('me', 'localhost')`)).rejects.toMatchObject({
      message: 'cannot add the current database as a data node to itself',
    });
  });

  it('says the same of a self-add in every state', async () => {
    const endpoint = serverEndpoint();
    await using own = await testAccessNode({ logins: [endpoint] });
    await using caller = await own.connect();
    const selfAdd = (more = ''): Promise<unknown> =>
      caller.query(`select add_data_node('me', '127.0.0.1'${more})`);
    const refusal = {
      sqlstate: 'TS174',
      message: 'cannot add the current database as a data node to itself',
    };
    await expect(selfAdd()).rejects.toMatchObject(refusal);
    await expect(selfAdd(', bootstrap => false')).rejects.toMatchObject(refusal);
    await caller.query(`select add_data_node('dn', '127.0.0.1', $1)`, [`${own.database.name}_dn`]);
    await expect(selfAdd()).rejects.toMatchObject(refusal);
    await expect(selfAdd(', bootstrap => false')).rejects.toMatchObject(refusal);
    await caller.query(`select delete_data_node('dn', drop_database => true)`);
    await own.settled();
  });

  it('refuses the data node of another access database and names it', async () => {
    await add(session, 'dn1', `, database => 'one'`);
    await using other = await testAccessNode({ logins: [remote.server.admin()] });
    await using caller = await other.connect();
    const error: unknown = await add(caller, 'x', `, database => 'one'`).catch((e: unknown) => e);
    expect(error).toMatchObject({ sqlstate: 'TS171' });
    expect((error as { detail: string }).detail).toContain(
      `database "${access.database.name}" of access node an1`,
    );
    await dropNode('dn1');
  });

  it('refuses to make an access database or a data node into what it is not', async () => {
    await add(session, 'dn1', `, database => 'one'`);
    await using there = await connect(at('one'));
    await expect(there.query(`select add_data_node('x', '127.0.0.1', 'two')`)).rejects.toMatchObject({
      sqlstate: 'TS171',
      message: 'unable to assign data nodes from an existing distributed database',
    });
    await there.close();
    await using second = await testAccessNode({ logins: [serverEndpoint()] });
    await using caller = await second.connect();
    await expect(
      caller.query(`select add_data_node('x', '127.0.0.1', $1)`, [access.database.name]),
    ).rejects.toMatchObject({
      sqlstate: 'TS171',
      message: expect.stringContaining('is itself an access node') as string,
    });
    await dropNode('dn1');
  });
});

describe('planning', () => {
  const plan = async (database: string): Promise<string[]> => {
    const { rows } = await session.query<{ kind: string; message: string }>(
      `select kind, message from plan_data_node('dn1', '127.0.0.1', $1, $2)`,
      [database, port],
    );
    return rows.map(({ kind, message }) => `${kind}: ${message}`);
  };

  it('says what would be made, and makes nothing', async () => {
    await expectUnchanged(async () => {
      expect(await plan('planned')).toEqual([
        'action: create database',
        'action: create extension "varve" version 0.1.0',
        'action: set dist_id and register the data node',
      ]);
    });
  });

  it('says what is wrong, and makes nothing', async () => {
    await using there = await testDatabase({
      admin: at('postgres'),
      clauses: `encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'`,
    });
    await expectUnchanged(async () => {
      const lines = await plan(there.name);
      expect(lines.filter((line) => line.startsWith('problem: '))).toHaveLength(3);
      expect(lines).not.toContain('action: set dist_id and register the data node');
    });
  });
});

describe('the caller’s transaction', () => {
  it.each([
    ['ROLLBACK', ['begin', 'ADD', 'rollback']],
    ['ROLLBACK TO, though the rest is committed', ['begin', 'savepoint s', 'ADD', 'rollback to s', 'commit']],
    [
      'a DO block that raises',
      [`do $$ begin perform public.add_data_node('dn1', '127.0.0.1', 'gone', PORT); raise 'no'; end $$`],
    ],
    [
      'a block that catches its own error',
      [
        `do $$ begin begin perform public.add_data_node('dn1', '127.0.0.1', 'gone', PORT); raise 'no';
         exception when others then null; end; end $$`,
      ],
    ],
    ['a failing statement after it', ['begin', 'ADD', 'select 1 / 0', 'commit']],
  ])('%s takes everything back', async (_what, statements) => {
    await expectUnchanged(async () => {
      await using connection = await connect(access.database.endpoint);
      for (const statement of statements) {
        const sql = statement
          .replace('ADD', `select add_data_node('dn1', '127.0.0.1', 'gone', PORT)`)
          .replaceAll('PORT', String(port));
        await connection.query(sql).catch(() => {});
      }
    });
    expect(await add(session, 'dn1', `, database => 'gone'`)).toMatchObject({ database_created: true });
    await dropNode('dn1');
  });

  it('a terminated session takes everything back', async () => {
    await expectUnchanged(async () => {
      const connection = await connect(access.database.endpoint);
      await connection.query('begin');
      await add(connection, 'dn1', `, database => 'gone'`);
      await using admin = await connect();
      await admin.query('select pg_terminate_backend($1)', [connection.backendPid]);
      await connection.lost;
    });
  });

  it('can add, roll back to a savepoint, and add the same database again', async () => {
    await using connection = await connect(access.database.endpoint);
    await connection.query('begin; savepoint s');
    await add(connection, 'dn1', `, database => 'again'`);
    await expect(add(connection, 'dn2', `, database => 'again'`)).rejects.toMatchObject({
      sqlstate: '42710',
    });
    await connection.query('rollback to s');
    await add(connection, 'dn2', `, database => 'again'`);
    await connection.query('commit');
    expect(await databaseExists('again')).toBe(true);
    await dropNode('dn2');
  });

  it('decides after a restart of the daemon too', async () => {
    await using connection = await connect(access.database.endpoint);
    for (const end of ['commit', 'rollback']) {
      await connection.query('begin');
      await add(connection, 'dn1', `, database => 'decided'`);
      await access.restart();
      await connection.query(end);
      await access.settled();
      expect(await databaseExists('decided')).toBe(end === 'commit');
      if (end === 'commit') await dropNode('dn1');
    }
  });

  it('may be of a function, a prepared statement, or a common table expression', async () => {
    await session.query(`create function pg_temp.more() returns text language plpgsql as $$
      declare made record; begin
        select * into made from public.add_data_node('dn1', '127.0.0.1', 'f1', ${port}); return made.node_name; end $$`);
    expect(await session.one('select pg_temp.more() as name')).toEqual({ name: 'dn1' });
    await session.query(
      `prepare p(name, int) as select (public.add_data_node($1, '127.0.0.1', 'f2', $2)).node_name`,
    );
    await session.query(`execute p('dn2', ${port})`);
    await session.query(
      `with a as (select * from add_data_node('dn3', '127.0.0.1', 'f3', ${port})) select * from a`,
    );
    const { rows } = await session.query('select node_name from varve.data_nodes order by 1');
    expect(rows.map((row) => Object.values(row)[0])).toEqual(['dn1', 'dn2', 'dn3']);
    for (const name of ['dn1', 'dn2', 'dn3']) await dropNode(name);
  });
});

describe('two at once', () => {
  it('of one name: one wins, the other gets a clear error', async () => {
    await using second = await access.connect();
    const outcomes = await Promise.allSettled([
      add(session, 'dn1', `, database => 'r1'`),
      add(second, 'dn1', `, database => 'r2'`),
    ]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
      reason: { sqlstate: '42710' },
    });
    await dropNode('dn1');
  });

  it('of one database under two names: one wins, the other gets a clear error', async () => {
    await using second = await access.connect();
    const outcomes = await Promise.allSettled([
      add(session, 'dn1', `, database => 'r1'`),
      add(second, 'dn2', `, database => 'r1'`),
    ]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
      reason: { sqlstate: '42710' },
    });
    await dropNode(outcomes[0].status === 'fulfilled' ? 'dn1' : 'dn2');
  });

  it('of one database from two access databases with a daemon each: one wins, the other gets a clear error', async () => {
    await using other = await testAccessNode({ logins: [remote.server.admin()] });
    await using second = await other.connect();
    const outcomes = await Promise.allSettled([
      add(session, 'dn1', `, database => 'r1'`),
      add(second, 'dn1', `, database => 'r1'`),
    ]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
      reason: { sqlstate: 'TS171' },
    });
    const winner = outcomes[0].status === 'fulfilled' ? session : second;
    await winner.query(`select delete_data_node('dn1', drop_database => true)`);
    await access.settled();
    await other.settled();
  });

  it('of ten databases: all succeed', async () => {
    const names = Array.from({ length: 10 }, (_, i) => `many${i}`);
    await Promise.all(
      names.map(async (name) => {
        await using connection = await access.connect();
        await add(connection, name, `, database => '${name}'`);
      }),
    );
    for (const name of names)
      await session.query('select delete_data_node($1, drop_database => true)', [name]);
    await access.settled();
    expect(await databaseExists('many3')).toBe(false);
  });
});

describe('bad input', () => {
  it.each([
    ['no host', `add_data_node('x', null)`, '22023', 'a host needs to be specified'],
    ['an empty host', `add_data_node('x', '')`, '22023', 'a host needs to be specified'],
    ['no name', `add_data_node(null, 'h')`, '22023', 'data node name cannot be NULL'],
    ['an empty name', `add_data_node('', 'h')`, '22023', 'data node name cannot be empty'],
    ['port 0', `add_data_node('x', 'h', port => 0)`, '22023', 'invalid port number 0'],
    ['port 65536', `add_data_node('x', 'h', port => 65536)`, '22023', 'invalid port number 65536'],
    [
      'an empty database',
      `add_data_node('x', 'h', database => '')`,
      '22023',
      'database name cannot be empty',
    ],
    ['bootstrap NULL', `add_data_node('x', 'h', bootstrap => null)`, '22023', 'must be true or false'],
    [
      'the document’s misspelt argument',
      `add_data_node('x', 'h', boostrap => false)`,
      '42883',
      'does not exist',
    ],
    [
      'a closed port',
      `add_data_node('x', '127.0.0.1', port => 1)`,
      '08001',
      'could not connect to 127.0.0.1:1',
    ],
    [
      'an unknown host',
      `add_data_node('x', 'no-such-host.invalid')`,
      '08001',
      'could not connect to no-such-host.invalid',
    ],
    ['an unknown node', `delete_data_node('x')`, '42704', 'data node "x" does not exist'],
    ['an unknown node to ping', `ping_data_node('x')`, '42704', 'data node "x" does not exist'],
    ['an unknown node to alter', `alter_data_node('x', port => 1)`, '42704', 'data node "x" does not exist'],
  ])('%s is refused and changes nothing', async (_what, call, sqlstate, message) => {
    await expectUnchanged(() =>
      expect(session.query(`select * from ${call}`)).rejects.toMatchObject({
        sqlstate,
        message: expect.stringContaining(message) as string,
      }),
    );
  });

  it('a host that accepts and says nothing gives an error, not a hang', async () => {
    const silent = createServer(() => {});
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    await using impatient = await testAccessNode({ logins: [], service: { connectTimeoutMs: 300 } });
    await using caller = await impatient.connect();
    const { port: silentPort } = silent.address() as { port: number };
    await expect(
      caller.query(`select add_data_node('x', '127.0.0.1', port => ${silentPort})`),
    ).rejects.toMatchObject({ sqlstate: '08001' });
    silent.close();
  });

  it('a wrong password is one failed login, and the role that it was', async () => {
    await expectUnchanged(() =>
      expect(add(session, 'x', `, password => 'wrong'`)).rejects.toMatchObject({
        sqlstate: '28P01',
        message: `could not log in to 127.0.0.1:${port} as "${session.endpoint.user}"`,
      }),
    );
  });

  it('a read-only transaction is refused', async () => {
    await using connection = await connect(access.database.endpoint);
    await connection.query('begin read only');
    await expect(add(connection, 'x')).rejects.toMatchObject({ sqlstate: '25006' });
  });

  it('everything that is wrong with a database is said at once', async () => {
    await using there = await testDatabase({
      admin: at('postgres'),
      clauses: `encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'`,
    });
    const error = await add(session, 'x', `, database => '${there.name}'`).catch((e: unknown) => e);
    expect(error).toMatchObject({ sqlstate: 'TS174', message: 'cannot add data node "x": 3 problems' });
    const { detail } = error as { detail: string };
    for (const word of ['encoding', 'collation', 'LC_CTYPE']) expect(detail).toContain(word);
  });

  it('a database without the extension is refused when it is only to be validated', async () => {
    await using there = await testDatabase({ admin: at('postgres') });
    await expect(
      add(session, 'x', `, database => '${there.name}', bootstrap => false`),
    ).rejects.toMatchObject({
      sqlstate: 'TS174',
      message: expect.stringContaining('does not have extension "varve"') as string,
    });
    await expect(add(session, 'x', `, database => 'nowhere', bootstrap => false`)).rejects.toMatchObject({
      sqlstate: '3D000',
    });
  });

  it('an extension of another owner is refused', async () => {
    await using there = await testDatabase({ admin: at('postgres') });
    await using owner = await there.connect();
    await owner.query(
      `alter database ${there.name} owner to alice; set session authorization alice; create extension varve`,
    );
    await owner.close();
    await expect(add(session, 'x', `, database => '${there.name}'`)).rejects.toMatchObject({
      sqlstate: 'TS174',
      detail: expect.stringContaining('but it was "alice"') as string,
    });
  });
});

describe('an extension in a schema of its own', () => {
  it('is created in a schema of that name, which must not be there', async () => {
    await using magic = await testAccessNode({ logins: [remote.server.admin()], schema: 'magic' });
    await using caller = await magic.connect();
    const call = (database: string): string =>
      `select * from magic.add_data_node('dn1', '127.0.0.1', '${database}', ${port})`;
    await using occupied = await testDatabase({ admin: at('postgres') });
    await using there = await occupied.connect();
    await there.query('create schema magic');
    await there.close();
    await expect(caller.query(call(occupied.name))).rejects.toMatchObject({ sqlstate: '42P06' });
    expect(await caller.one(call('wand'))).toMatchObject({ extension_created: true });
    await using node = await connect(at('wand'));
    expect(
      await node.one(
        `select n.nspname, pg_get_userbyid(n.nspowner) as owner from pg_extension e
           join pg_namespace n on n.oid = e.extnamespace where e.extname = 'varve'`,
      ),
    ).toEqual({ nspname: 'magic', owner: remote.server.superuser });
    await node.close();
    await caller.query(`select magic.delete_data_node('dn1', drop_database => true)`);
    await magic.settled();
  });

  it('is refused where the extension is in another one', async () => {
    await using magic = await testAccessNode({ logins: [remote.server.admin()], schema: 'magic' });
    await using caller = await magic.connect();
    await using there = await testDatabase({ admin: at('postgres') });
    await using owner = await there.connect();
    await owner.query('create extension varve');
    await owner.close();
    await expect(
      caller.query(`select magic.add_data_node('dn1', '127.0.0.1', '${there.name}', ${port})`),
    ).rejects.toMatchObject({
      sqlstate: 'TS174',
      message: expect.stringContaining('another schema') as string,
    });
  });
});

describe('roles', () => {
  it('an ordinary role needs the right to add, and then owns what it adds', async () => {
    await using alice = await access.connect({ user: 'alice', password: 'apw' });
    await expect(add(alice, 'an', `, database => 'hers'`)).rejects.toMatchObject({ sqlstate: '42501' });
    await session.query('grant usage on foreign data wrapper postgres_fdw to alice');
    expect(await add(alice, 'hers', `, database => 'hers'`)).toMatchObject({ database_created: true });
    await using there = await connect(at('hers'));
    expect(
      await there.one(`select pg_get_userbyid(datdba) as owner from pg_database where datname = 'hers'`),
    ).toEqual({ owner: 'alice' });
    await there.query(`set role alice; create table public.t as select 42 as a`);
    await there.close();
    // The session's own login goes through afterwards, too, with what the call has made.
    await session.query('grant create on schema public to alice');
    await alice.query(`create foreign table public.t (a integer) server hers options (schema_name 'public')`);
    expect(await alice.one('select a from public.t')).toEqual({ a: 42 });
    await alice.query('drop foreign table public.t');
    await alice.query(`select delete_data_node('hers', drop_database => true)`);
    await access.settled();
  });

  it('SET ROLE decides who the current user is', async () => {
    await using connection = await access.connect();
    await connection.query('set role alice');
    await add(connection, 'dn1', `, database => 'roles'`);
    await connection.query('reset role');
    await using there = await connect(at('postgres'));
    expect(
      await there.one(`select pg_get_userbyid(datdba) as owner from pg_database where datname = 'roles'`),
    ).toEqual({ owner: 'alice' });
    await dropNode('dn1');
  });

  it('nobody acts as a role that he could not become', async () => {
    await using alice = await access.connect({ user: 'alice', password: 'apw' });
    const superuser = session.endpoint.user;
    await expect(
      alice.query(`select * from varve._add_data_node($1, 'x', '127.0.0.1', 'x', 1, false, true, null)`, [
        superuser,
      ]),
    ).rejects.toMatchObject({ sqlstate: '42501' });
    await expect(alice.query(`select varve._rpc('{}')`)).rejects.toMatchObject({ sqlstate: '42501' });
    await expect(alice.query('select secret from varve.endpoint')).rejects.toMatchObject({
      sqlstate: '42501',
    });
  });

  it('a role that exists on one side only is told so', async () => {
    await session.query(
      `create role only_here login password 'x'; grant usage on foreign data wrapper postgres_fdw to only_here`,
    );
    await using caller = await access.connect({ user: 'only_here', password: 'x' });
    await expect(add(caller, 'x', `, password => 'x'`)).rejects.toMatchObject({
      message: `could not log in to 127.0.0.1:${port} as "only_here"`,
      hint: expect.stringContaining('must exist on the data node') as string,
    });
    await caller.close();
    await session.query('drop owned by only_here; drop role only_here');
  });

  it('a password given as argument goes on working after the call', async () => {
    await using there = await connect(at('postgres'));
    await there.query(`create role carol login createdb password 'cpw'`);
    await session.query(
      `create role carol login password 'x'; grant usage on foreign data wrapper postgres_fdw to carol`,
    );
    await using carol = await access.connect({ user: 'carol', password: 'x' });
    await add(carol, 'dnc', `, database => 'carols', password => 'cpw'`);
    await carol.query(
      `create foreign table pg_temp.i (uuid uuid) server dnc options (schema_name 'varve', table_name 'identity')`,
    );
    expect(await carol.one(`select ping_data_node('dnc') as alive`)).toEqual({ alive: true });
    await carol.query(`select delete_data_node('dnc', drop_database => true)`).catch(async () => {
      await carol.query('drop foreign table pg_temp.i');
      await carol.query(`select delete_data_node('dnc', drop_database => true)`);
    });
    await access.settled();
    await carol.close();
    await there.query('drop role carol');
    await session.query('drop owned by carol; drop role carol');
  });
});

describe('other calls', () => {
  beforeAll(() => add(session, 'dn1', `, database => 'calls'`));
  afterAll(() => dropNode('dn1'));

  it('ping and health tell which nodes answer', async () => {
    expect(await session.one(`select ping_data_node('dn1', interval '2 s') as alive`)).toEqual({
      alive: true,
    });
    expect((await session.query('select * from health()')).rows).toEqual([
      { node_name: null, healthy: true, in_recovery: false, error: null },
      { node_name: 'dn1', healthy: true, in_recovery: false, error: null },
    ]);
  });

  it('alter_data_node tries the address before it stores it', async () => {
    await expect(session.query(`select alter_data_node('dn1', port => 1)`)).rejects.toMatchObject({
      sqlstate: '08001',
    });
    await expect(
      session.query(`select alter_data_node('dn1', database => 'postgres')`),
    ).rejects.toMatchObject({
      sqlstate: 'TS174',
    });
    const row = await session.one(
      `select * from alter_data_node('dn1', host => 'localhost', available => false)`,
    );
    expect(row).toEqual({ node_name: 'dn1', host: 'localhost', port, database: 'calls', available: false });
    const { options } = await session.one<{ options: string[] }>('select options from varve.data_nodes');
    expect(options).toContain('host=localhost');
    await session.query(`select alter_data_node('dn1', host => '127.0.0.1', available => true)`);
  });

  it('distributed_exec follows the caller’s transaction', async () => {
    await using there = await connect(at('calls'));
    const tables = async (): Promise<unknown[]> =>
      (await there.query(`select tablename from pg_tables where schemaname = 'public' order by 1`)).rows;
    await session.query(`begin; call distributed_exec('create table public.a()'); rollback`);
    await access.settled();
    expect(await tables()).toEqual([]);
    await session.query(`begin; call distributed_exec('create table public.a()', '{dn1}'); commit`);
    await access.settled();
    expect(await tables()).toEqual([{ tablename: 'a' }]);
    await session.query(`call distributed_exec('drop table public.a', transactional => false)`);
    expect(await tables()).toEqual([]);
    await expect(session.query(`call distributed_exec('select 1/0')`)).rejects.toMatchObject({
      sqlstate: '22012',
      message: '[dn1]: division by zero',
    });
    await access.settled();
    expect((await there.query('select * from pg_prepared_xacts')).rowCount).toBe(0);
  });

  it('delete_data_node is local: it works with the node down, and cleans up when that is back', async () => {
    const link = await FaultProxy.open({ host: '127.0.0.1', port });
    await using other = await testAccessNode({ logins: [{ ...remote.server.admin(), port: link.port }] });
    await using caller = await other.connect();
    await caller.query(`select add_data_node('dn', '127.0.0.1', 'downed', ${link.port})`);
    await other.settled();
    link.breakAll(true);
    expect(await caller.one(`select delete_data_node('dn') as deleted`)).toEqual({ deleted: true });
    expect((await caller.query('select * from varve.data_nodes')).rowCount).toBe(0);
    expect(await caller.one(`select delete_data_node('dn', if_exists => true) as deleted`)).toEqual({
      deleted: false,
    });
    link.reopen();
    await other.settled();
    await using there = await connect(at('downed'));
    expect(await there.one('select dist_id from varve.identity')).toEqual({ dist_id: null });
    await there.close();
    await using admin = await connect(at('postgres'));
    await admin.query('drop database downed');
    await link[Symbol.asyncDispose]();
  });

  it('a daemon that is down is an error with a remedy, and changes nothing', async () => {
    await expectUnchanged(async () => {
      await access.service[Symbol.asyncDispose]();
      await expect(add(session, 'x', `, database => 'x'`)).rejects.toMatchObject({
        sqlstate: '08001',
        message: 'the Varve daemon does not answer',
      });
      await access.restart();
    });
  });
});
