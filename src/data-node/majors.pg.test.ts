import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testAccessNode, traces, type TestAccessNode } from '../../test/access-node.ts';
import {
  connect,
  describeEachMajor,
  serverEndpoint,
  startTestServer,
  testDatabase,
  type TestServer,
} from '../../test/database.ts';
import { FaultProxy } from '../../test/fault-proxy.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { installation, installExtension } from './install-extension.ts';

/**
 * Every supported major of PostgreSQL without a control file of extension `varve`, which none but 18 can be given
 * without touching its installation: as data node of an access node on PostgreSQL 18, and the other way round.
 */
describeEachMajor('the extension by script', (major) => {
  let server: TestServer;
  let admin: Endpoint;
  const at = (database: string): Endpoint => ({ ...admin, database });

  beforeAll(async () => {
    server = await startTestServer(major);
    admin = server.server.admin();
  });

  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
  });

  describe('as a data node', () => {
    // Roles are the run's server's, too: of this file and major alone.
    const ordinary = { user: `plain_${major}`, password: 'ppw' };
    let access: TestAccessNode;
    let session: Connection;

    beforeAll(async () => {
      access = await testAccessNode({ logins: [admin, { ...admin, ...ordinary }] });
      session = await access.connect();
      await session.query(
        `create role ${ordinary.user} login password '${ordinary.password}';
         grant usage on foreign data wrapper postgres_fdw to ${ordinary.user}`,
      );
      await using there = await connect(admin);
      await there.query(`create role ${ordinary.user} login password '${ordinary.password}'`);
    });

    afterAll(async () => {
      await session?.close();
      await access?.[Symbol.asyncDispose]();
      await using connection = await connect();
      await connection.query(`drop role if exists ${ordinary.user}`);
    });

    it('gets a new database, is deleted, and added again as it is', async () => {
      expect(await add(session, 'new')).toMatchObject({ database_created: true, extension_created: true });
      expect(await databaseBehind(session)).toBe('new');
      await using there = await connect(at('new'));
      expect(await installation(there)).toEqual({
        version: '0.1.0',
        schema: 'public',
        owner: admin.user,
        method: 'script',
      });
      await remove(session);
      expect(await there.one('select dist_id from varve.identity')).toEqual({ dist_id: null });
      expect(await add(session, 'new', ', bootstrap => false')).toMatchObject({
        database_created: false,
        extension_created: false,
      });
      await remove(session);
      expect(await add(session, 'new')).toMatchObject({ database_created: false, extension_created: false });
      await there.close();
      await remove(session, true);
    });

    it.each(['public', 'magic', 'varve'])(
      'in schema %s of an empty database, it is taken back whole when the caller rolls back',
      async (schema) => {
        await using other = await testAccessNode({ logins: [admin], schema });
        await using caller = await other.connect();
        await using there = await testDatabase({ admin });
        await makeOwnObjects(there.endpoint);
        const endpoints = [there.endpoint, other.database.endpoint];
        const before = await traces(endpoints);
        await caller.query('begin');
        await add(caller, there.name, '', schema);
        await caller.query('rollback');
        await other.settled();
        expect(await traces(endpoints)).toEqual(before);
        expect(await add(caller, there.name, '', schema)).toMatchObject({
          database_created: false,
          extension_created: true,
        });
        await remove(caller, false, schema);
        await other.settled();
      },
    );

    it('serves an ordinary role that owns its database', async () => {
      await using there = await testDatabase({ admin, clauses: `owner ${ordinary.user}` });
      await using caller = await access.connect(ordinary);
      const before = await traces([there.endpoint]);
      await caller.query('begin');
      await add(caller, there.name);
      await caller.query('rollback');
      await access.settled();
      expect(await traces([there.endpoint])).toEqual(before);
      expect(await add(caller, there.name)).toMatchObject({ extension_created: true });
      await using inside = await there.connect();
      expect(await installation(inside)).toMatchObject({ owner: ordinary.user, method: 'script' });
      expect(await databaseBehind(caller)).toBe(there.name);
      await inside.close();
      await remove(caller);
      await access.settled();
      await expect(add(session, there.name)).rejects.toMatchObject({
        sqlstate: 'TS174',
        detail: expect.stringContaining(`but it was "${ordinary.user}"`) as string,
      });
      // Nor may somebody else take the database for himself.
      await using stranger = await connect(at(there.name));
      await stranger.query(`create role stranger_${major} login`);
      await stranger.query(`set session authorization stranger_${major}`);
      await expect(stranger.query(`select varve.clear_dist_id(gen_random_uuid())`)).rejects.toMatchObject({
        sqlstate: '42501',
      });
    });

    it('is only validated with bootstrap => false, and then nothing but the mark is written', async () => {
      await using there = await testDatabase({ admin });
      const validate = (): Promise<unknown> => add(session, there.name, ', bootstrap => false');
      const empty = await traces([there.endpoint]);
      await expect(validate()).rejects.toMatchObject({
        sqlstate: 'TS174',
        message: expect.stringContaining('does not have extension "varve"') as string,
      });
      expect(await traces([there.endpoint])).toEqual(empty);
      await using inside = await there.connect();
      await installExtension(inside, { schema: 'public' });
      const { uuid } = await inside.one<{ uuid: string }>('select uuid from varve.identity');
      await inside.close();
      const unmarked = await traces([there.endpoint]);
      await validate();
      const withoutMark = (lines: string[]): string[] => lines.filter((line) => !line.includes(' identity '));
      expect(withoutMark(await traces([there.endpoint]))).toEqual(withoutMark(unmarked));
      expect((await traces([there.endpoint])).find((line) => line.includes(' identity '))).toContain(uuid);
      await remove(session);
      await access.settled();
    });

    it('that has a schema varve of its own is refused before anything is written', async () => {
      await using there = await testDatabase({ admin });
      await using inside = await there.connect();
      await inside.query('create schema varve');
      await inside.close();
      await expect(add(session, there.name)).rejects.toMatchObject({
        sqlstate: '42P06',
        message: `schema "varve" already exists in database "${there.name}" on 127.0.0.1:${admin.port}, aborting`,
      });
    });

    it.each([
      ['ICU', 15, `locale_provider icu icu_locale 'sv-SE' lc_collate 'C' lc_ctype 'C.UTF-8'`],
      ['ICU with rules', 16, `locale_provider icu icu_locale 'und' icu_rules '&a < b'`],
      ['builtin', 17, `locale_provider builtin builtin_locale 'C.UTF-8'`],
      ['libc', 15, `locale_provider libc lc_collate 'C' lc_ctype 'C'`],
    ])('an access database with locale %s makes one like it, from %d on', async (_what, since, clauses) => {
      await using other = await testAccessNode({ logins: [admin], clauses });
      await using caller = await other.connect();
      const { name } = other.database;
      if (major < since) {
        await expect(add(caller, name)).rejects.toMatchObject({
          sqlstate: 'TS174',
          message: expect.stringMatching(/is too old for the (locale provider|ICU rules) of/) as string,
          detail: expect.stringContaining(`that server is PostgreSQL ${major}.`) as string,
        });
      } else {
        await add(caller, name);
        expect(await localeOf(at(name))).toEqual(await localeOf(other.database.endpoint));
        await remove(caller);
        expect(await add(caller, name)).toMatchObject({ database_created: false });
        await remove(caller, true);
        await other.settled();
        await using plain = await testDatabase({
          admin,
          clauses: `locale_provider libc lc_collate 'C.UTF-8' lc_ctype 'C'`,
        });
        await expect(add(caller, plain.name)).rejects.toMatchObject({ sqlstate: 'TS174' });
      }
    });

    function add(caller: Connection, database: string, more = '', schema = 'public'): Promise<object> {
      return caller.one(
        `select * from ${schema}.add_data_node('dn', '127.0.0.1', $1, ${admin.port}${more})`,
        [database],
      );
    }
  });

  describe('as an access node', () => {
    let access: TestAccessNode;
    let session: Connection;
    const target = `an_${major}_${randomBytes(4).toString('hex')}`;

    beforeAll(async () => {
      access = await testAccessNode({
        admin,
        dataDir: join(server.folder, 'data'),
        logins: [serverEndpoint(), { ...serverEndpoint(), port: 1 }],
        // Nothing but the caller's own patience may end a wait.
        service: { connectTimeoutMs: 600_000, callTimeoutMs: 600_000 },
      });
      session = await access.connect();
    });

    afterAll(async () => {
      await session?.close();
      await access?.[Symbol.asyncDispose]();
    });

    function add(caller: Connection, more = ''): Promise<object> {
      const { host, port } = serverEndpoint();
      return caller.one(`select * from add_data_node('dn', $1, '${target}', $2${more})`, [host, port]);
    }

    it('adds a data node and reads from it', async () => {
      expect(await add(session)).toMatchObject({ database_created: true, extension_created: true });
      expect(await databaseBehind(session)).toBe(target);
      expect(await session.one(`select ping_data_node('dn') as alive`)).toEqual({ alive: true });
      expect((await session.query(`select * from health()`)).rows).toHaveLength(2);
      await session.query(`begin; call distributed_exec('create table public.a()'); commit`);
      await access.settled();
      await remove(session, true);
      await access.settled();
    });

    it('takes back what a caller rolls back', async () => {
      const left = async (): Promise<string[]> => {
        await using there = await connect();
        const { rows } = await there.query('select 1 from pg_database where datname = $1', [target]);
        return [...(await traces([access.database.endpoint])), ...(rows.length > 0 ? [target] : [])];
      };
      const before = await left();
      await session.query('begin');
      await add(session);
      await session.query('rollback');
      await access.settled();
      expect(await left()).toEqual(before);
    });

    it('raises errors with SQLSTATE, message, detail and hint', async () => {
      await using there = await testDatabase({ clauses: `lc_collate 'C' lc_ctype 'C'` });
      const { host, port } = serverEndpoint();
      await expect(
        session.query(`select add_data_node('dn', $1, $2, $3)`, [host, there.name, port]),
      ).rejects.toMatchObject({
        sqlstate: 'TS174',
        message: 'cannot add data node "dn": 2 problems',
        detail: expect.stringContaining('LC_CTYPE') as string,
        hint: 'Nothing was changed. Mend all of them and repeat the call.',
      });
      await expect(session.query(`select add_data_node('dn', '127.0.0.1', port => 1)`)).rejects.toMatchObject(
        {
          sqlstate: '08001',
          message: 'could not connect to 127.0.0.1:1',
          detail: expect.stringContaining('ECONNREFUSED') as string,
          hint: expect.stringContaining('Check host and port') as string,
        },
      );
    });

    it('a statement_timeout ends a call whose data node hangs, and the daemon lets go of it', async () => {
      await using silent = await silentServer();
      await using caller = await access.connect();
      await caller.query(`set statement_timeout = '300ms'`);
      await expect(
        caller.query(`select add_data_node('dn', '127.0.0.1', port => ${silent.port}, password => 'x')`),
      ).rejects.toMatchObject({ sqlstate: '57014' });
      // The session goes on, and so does the daemon without the call.
      expect(await caller.one('select 1 as a')).toEqual({ a: 1 });
      await silent.left();
    });

    it('a cancel ends it the same way', async () => {
      await using silent = await silentServer();
      await using caller = await access.connect();
      const call = caller.query(
        `select add_data_node('dn', '127.0.0.1', port => ${silent.port}, password => 'x')`,
      );
      await silent.reached();
      await session.query('select pg_cancel_backend($1)', [caller.backendPid]);
      await expect(call).rejects.toMatchObject({ sqlstate: '57014' });
      await silent.left();
    });

    it('a daemon that dies in the middle of the call is an error that says so', async () => {
      await using silent = await silentServer();
      await using link = await FaultProxy.open({ host: '127.0.0.1', port: access.service.addressPort });
      await access.tell(link.port, access.service.secret);
      await using caller = await access.connect();
      const call = caller.query(
        `select add_data_node('dn', '127.0.0.1', port => ${silent.port}, password => 'x')`,
      );
      const failed = expect(call).rejects.toMatchObject({ sqlstate: '08006' });
      await silent.reached();
      link.breakAll();
      await failed;
      await silent.left();
      await access.tell(access.service.addressPort, access.service.secret);
    });

    it('a daemon that accepts and says nothing does not hold the caller', async () => {
      await using silent = await silentServer();
      await access.tell(silent.port, 'secret');
      await using caller = await access.connect();
      await caller.query(`set statement_timeout = '300ms'`);
      // Before 16 dblink's connecting cannot be interrupted: its own limit of 5 s ends the wait.
      await expect(add(caller)).rejects.toMatchObject({ sqlstate: '57014' });
      await access.tell(access.service.addressPort, access.service.secret);
    });
  });

  it('is installed once by several who come at once, for the owner that is named', async () => {
    await using database = await testDatabase({ admin });
    await using first = await database.connect();
    await first.query(`create role owner_${major}`);
    const made = await Promise.all(
      Array.from({ length: 8 }, async () => {
        await using connection = await database.connect();
        return await installExtension(connection, { schema: 'magic', owner: `owner_${major}` });
      }),
    );
    expect(made.filter(({ created }) => created)).toHaveLength(1);
    for (const { version, schema, owner, method } of made)
      expect({ version, schema, owner, method }).toEqual({
        version: '0.1.0',
        schema: 'magic',
        owner: `owner_${major}`,
        method: 'script',
      });
  });
});

/** Things of others in the schemas that a rollback passes through. */
async function makeOwnObjects(endpoint: Endpoint): Promise<void> {
  await using connection = await connect(endpoint);
  await connection.query(
    `create table public.mine (a integer);
     create function public.health(text) returns text language sql as 'select $1';
     create function public.own_health() returns void language plpgsql as $$ begin perform health(); end $$`,
  );
}

async function remove(caller: Connection, dropDatabase = false, schema = 'public'): Promise<void> {
  await caller.query(`select ${schema}.delete_data_node('dn', drop_database => $1)`, [dropDatabase]);
  for (;;) {
    const { rows } = await caller.query(`select 1 from varve.runs where state = 'begun'`);
    if (rows.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** The database in which a session of the access node's own server arrives through the node's foreign server. */
async function databaseBehind(caller: Connection): Promise<string> {
  await caller.query(`create foreign table pg_temp.here (catalog_name text) server dn
    options (schema_name 'information_schema', table_name 'information_schema_catalog_name')`);
  const { name } = await caller.one<{ name: string }>('select catalog_name as name from pg_temp.here');
  await caller.query('drop foreign table pg_temp.here');
  return name;
}

async function localeOf(endpoint: Endpoint): Promise<object> {
  await using connection = await connect(endpoint);
  return await connection.one(
    `select pg_encoding_to_char(encoding) as encoding, datcollate, datctype, datlocprovider,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') as locale,
       to_jsonb(d) ->> 'daticurules' as rules
     from pg_database d where datname = current_database()`,
  );
}

interface Silent extends AsyncDisposable {
  readonly port: number;
  /** Resolves when somebody has connected. */
  reached(): Promise<void>;
  /** Resolves when the one who connected has gone. */
  left(): Promise<void>;
}

/** Takes connections and never says a word. */
async function silentServer(): Promise<Silent> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('data', () => {});
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const connected = once(server, 'connection') as Promise<[Socket]>;
  return {
    port: (server.address() as { port: number }).port,
    reached: async () => void (await connected),
    left: async () => {
      const [socket] = await connected;
      if (!socket.closed) await once(socket, 'close');
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

it('where the server offers it, it is an extension, of the owner that is named', async () => {
  await using database = await testDatabase();
  await using connection = await database.connect();
  const owner = `owner_of_${database.name}`;
  await connection.query(`create role ${owner}; grant create on database ${database.name} to ${owner}`);
  try {
    const made = await installExtension(connection, { schema: 'magic', owner });
    expect(made).toEqual({ version: '0.1.0', schema: 'magic', owner, method: 'extension', created: true });
    expect(await installExtension(connection, { schema: 'public' })).toEqual({ ...made, created: false });
    expect(await connection.one('select current_user::text as me')).toEqual({ me: serverEndpoint().user });
  } finally {
    await connection.query(`drop owned by ${owner} cascade; drop role ${owner}`);
  }
});
