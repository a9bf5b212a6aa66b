import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { testAccessNode, traces, type TestAccessNode } from '../../test/access-node.ts';
import { connect, serverFacts, startTestServer, type TestServer } from '../../test/database.ts';
import { FaultProxy } from '../../test/fault-proxy.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
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

/** Runs the call once without a fault, and says how many messages there are to stop it at. */
async function messageCount(scenario: Scenario): Promise<number> {
  await prepare(scenario);
  link.setFault(undefined);
  await using session = await access.connect();
  await add(session, scenario);
  const { count } = link;
  await remove(session, scenario);
  return count;
}

async function remove(session: Connection, scenario: Scenario): Promise<void> {
  await session.query(`select magic.delete_data_node('dn1', drop_database => $1)`, [scenario.dropDatabase]);
  await untilSettled(session);
}

async function untilSettled(session: Connection): Promise<void> {
  for (;;) {
    const { rows } = await session.query(`select 1 from varve.runs where state = 'begun'`);
    if (rows.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}

interface Point {
  readonly at: number;
  readonly when: 'before' | 'after';
}

/** Stops the call at `point`; says whether it failed. Fails when it left a trace or cannot be repeated. */
async function stopAt(
  scenario: Scenario,
  point: Point,
  stop: (session: Connection) => Promise<void>,
): Promise<boolean> {
  await prepare(scenario);
  const before = await fingerprint(scenario);
  const caller = await access.connect();
  let stopped = Promise.resolve();
  link.setFault({ ...point, onFault: () => (stopped = stop(caller)) });
  const failed = await add(caller, scenario).then(
    () => false,
    () => true,
  );
  // The fault may hit a goodbye, behind the caller's back.
  if (!failed) await new Promise((resolve) => setTimeout(resolve, 60));
  link.setFault(undefined);
  await stopped;
  await caller.close();
  await using session = await access.connect();
  if (failed) {
    await untilSettled(session);
    expect(await fingerprint(scenario)).toEqual(before);
    await add(session, scenario);
  }
  await remove(session, scenario);
  return failed;
}

function points(count: number): Point[] {
  return Array.from({ length: count }, (_, i) => i + 1).flatMap((at) => [
    { at, when: 'before' as const },
    { at, when: 'after' as const },
  ]);
}

/** Stops the call at one point after the other; most of them have to hurt. */
async function stopAtEach(scenario: Scenario, stop: (session: Connection) => Promise<void>): Promise<void> {
  const drawn = sample(points(await messageCount(scenario)));
  let failures = 0;
  for (const point of drawn) if (await stopAt(scenario, point, stop)) failures += 1;
  // A message that only says goodbye can be lost without harm.
  expect(failures * 2).toBeGreaterThanOrEqual(drawn.length);
}

describe.each(Object.entries(SCENARIOS))('stopped while adding %s', (_name, scenario) => {
  it('by a broken connection, it leaves no trace and can be repeated', async () => {
    await stopAtEach(scenario, () => Promise.resolve(link.breakAll()));
  });

  it('by a cancel of the caller, it leaves no trace and can be repeated', async () => {
    await stopAtEach(scenario, async (caller) => {
      await using admin = await connect();
      await admin.query('select pg_cancel_backend($1)', [caller.backendPid]);
      await new Promise((resolve) => setTimeout(resolve, 20));
    });
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
  let daemon: ChildProcess;
  const script = fileURLToPath(new URL('../../test/daemon-process.ts', import.meta.url));

  async function start(): Promise<void> {
    const { admin } = serverFacts();
    const optionsFile = join(access.serviceOptions.folder, 'daemon.json');
    await writeFile(optionsFile, JSON.stringify({ admin, service: access.serviceOptions }));
    daemon = fork(script, [optionsFile], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const [{ port, secret }] = (await once(daemon, 'message')) as [{ port: number; secret: string }];
    await access.tell(port, secret);
  }

  async function kill(): Promise<void> {
    const gone = once(daemon, 'exit');
    daemon.kill('SIGKILL');
    await gone;
  }

  beforeAll(async () => {
    await access.service[Symbol.asyncDispose]();
    await start();
  });

  afterAll(async () => {
    await kill();
    await access.restart();
  });

  it.each(Object.entries(SCENARIOS))(
    'at any message while adding %s, it leaves no trace after its restart and the call can be repeated',
    (_name, scenario) =>
      stopAtEach(scenario, async () => {
        await kill();
        await start();
      }),
  );
});

/** All points in the long run; a few drawn ones, by a printed seed, where time is short. */
function sample(all: readonly Point[]): readonly Point[] {
  if (process.env['VARVE_SOAK'] === '1') return all;
  const seed = Number(process.env['VARVE_SEED'] ?? Date.now() % 1_000_000);
  console.log(`drawn with VARVE_SEED=${seed}`);
  return all.filter((_, i) => (i + seed) % 3 === 0);
}
