import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { testAccessNode, traces, type TestAccessNode } from '../../test/access-node.ts';
import { connect, startTestServer, type TestServer } from '../../test/database.ts';
import { FaultProxy } from '../../test/fault-proxy.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import {
  brokenLink,
  cancelled,
  KillableDaemon,
  stopAtEach,
  untilSettled,
  type StoppedCall,
} from '../../test/stopped-call.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { writeExtensionFiles } from './extension-files.ts';

/**
 * `add_data_node` is stopped at every message that the daemon sends to the data node's server, by a broken
 * connection, by a cancel of the caller, by `kill -9` of the daemon. Each time nothing may be left that was not
 * there before, and the same call then succeeds.
 */
// In the long run every point is taken.
vi.setConfig({ testTimeout: 600_000 });

let extensions: string;
let remote: TestServer;
let access: TestAccessNode;
let link: FaultProxy;

beforeAll(async () => {
  extensions = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}ext-`));
  await writeExtensionFiles(extensions);
  remote = await startTestServer(18, { extensionFolders: [extensions] });
  const admin = remote.server.admin();
  link = await FaultProxy.open({ host: '127.0.0.1', port: remote.server.port });
  access = await testAccessNode({ logins: [{ ...admin, port: link.port }], schema: 'magic' });
});

afterAll(async () => {
  await access?.[Symbol.asyncDispose]();
  await link?.[Symbol.asyncDispose]();
  await remote?.[Symbol.asyncDispose]();
  await rm(extensions, { recursive: true, force: true });
});

const DATABASE = 'faulty';

interface Scenario {
  readonly bootstrap: boolean;
  readonly dropDatabase: boolean;
  /** What is on the data node's server beforehand. */
  readonly before: readonly string[];
}

const SCENARIOS: Record<string, Scenario> = {
  'a new database': { bootstrap: true, dropDatabase: true, before: [] },
  'an empty database': { bootstrap: true, dropDatabase: false, before: [] },
  'a database with the extension': {
    bootstrap: true,
    dropDatabase: false,
    before: ['create schema magic', 'create extension varve schema magic'],
  },
  'validation only': {
    bootstrap: false,
    dropDatabase: false,
    before: ['create schema magic', 'create extension varve schema magic'],
  },
};

function there(database: string): Endpoint {
  return { ...remote.server.admin(), database };
}

async function prepare(scenario: Scenario): Promise<void> {
  await using admin = await connect(there('postgres'));
  await admin.query(`drop database if exists ${DATABASE} with (force)`);
  if (scenario.dropDatabase) return;
  await admin.query(`create database ${DATABASE} template template0`);
  await using inside = await connect(there(DATABASE));
  for (const sql of scenario.before) await inside.query(sql);
}

function add(session: Connection, scenario: Scenario): Promise<unknown> {
  return session.query(
    `select * from magic.add_data_node('dn1', '127.0.0.1', port => $1, database => '${DATABASE}', bootstrap => $2)`,
    [link.port, scenario.bootstrap],
  );
}

async function fingerprint(scenario: Scenario): Promise<string[]> {
  const endpoints = [there('postgres'), access.database.endpoint];
  return traces(scenario.dropDatabase ? endpoints : [...endpoints, there(DATABASE)]);
}

async function remove(session: Connection, scenario: Scenario): Promise<void> {
  await session.query(`select magic.delete_data_node('dn1', drop_database => $1)`, [scenario.dropDatabase]);
  await untilSettled(session);
}

function adding(scenario: Scenario): StoppedCall {
  return {
    link,
    access,
    prepare: () => prepare(scenario),
    call: (session) => add(session, scenario),
    fingerprint: () => fingerprint(scenario),
    cleanUp: (session) => remove(session, scenario),
    drawOneIn: 9,
  };
}

describe.each(Object.entries(SCENARIOS))('stopped while adding %s', (_name, scenario) => {
  it('by a broken connection, it leaves no trace and can be repeated', async () => {
    await stopAtEach(adding(scenario), brokenLink(link));
  });

  it('by a cancel of the caller, it leaves no trace and can be repeated', async () => {
    await stopAtEach(adding(scenario), cancelled);
  });
});

describe('a server that goes on with what it was sent after the connection broke', () => {
  const NEW = SCENARIOS['a new database'] as Scenario;
  const EMPTY = SCENARIOS['an empty database'] as Scenario;

  it.each([
    ['making the database', NEW, 'postgres', 'lock table pg_catalog.pg_database in share mode'],
    ['making the extension', EMPTY, DATABASE, 'create schema magic'],
  ])('%s: that is waited for, and then taken back', async (_what, scenario, where, obstacle) => {
    await prepare(scenario);
    link.setFault(undefined);
    const before = await fingerprint(scenario);
    const blocker = await connect(there(where), { applicationName: 'test' });
    await blocker.query(`begin; ${obstacle}`);
    await using caller = await access.connect();
    const call = expect(add(caller, scenario)).rejects.toMatchObject({ sqlstate: '08006' });
    await untilWaiting(where, `wait_event_type = 'Lock' and wait_event <> 'advisory'`);
    link.breakAll();
    // Who looked now would find nothing.
    await Promise.race([call, untilWaiting(where, `wait_event = 'advisory'`)]);
    await blocker.query('rollback');
    await blocker.close();
    await call;
    await untilSettled(caller);
    while ((await sessionCount(where, 'true')) > 0) await new Promise((resolve) => setTimeout(resolve, 15));
    expect(await fingerprint(scenario)).toEqual(before);
    await add(caller, scenario);
    await remove(caller, scenario);
  });

  async function untilWaiting(database: string, how: string): Promise<void> {
    while ((await sessionCount(database, how)) === 0) await new Promise((resolve) => setTimeout(resolve, 15));
  }

  /** Of the daemon. */
  async function sessionCount(database: string, how: string): Promise<number> {
    await using admin = await connect(there('template1'), { applicationName: 'test' });
    const { count } = await admin.one<{ count: number }>(
      `select count(*)::integer as count from pg_stat_activity
       where datname = $1 and application_name = 'varve' and backend_type = 'client backend' and ${how}`,
      [database],
    );
    return count;
  }
});

describe('the daemon killed', () => {
  let daemon: KillableDaemon;
  beforeAll(async () => (daemon = await KillableDaemon.start(access)));
  afterAll(() => daemon[Symbol.asyncDispose]());

  it.each(Object.entries(SCENARIOS))(
    'at any message while adding %s, it leaves no trace after its restart and the call can be repeated',
    (_name, scenario) => stopAtEach(adding(scenario), () => daemon.killAndRestart()),
  );
});
