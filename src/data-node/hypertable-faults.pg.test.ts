import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect, serverFacts, startTestServer, type TestServer } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
import { FaultProxy } from '../../test/fault-proxy.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import type { Connection } from '../postgres/connection.ts';
import { writeExtensionFiles } from './extension-files.ts';

/**
 * Calls that make something on data nodes are stopped at every message that the daemon sends there: by a broken
 * connection, by a cancel of the caller, by `kill -9` of the daemon. Nothing may be left that was not there before,
 * and the same call then succeeds.
 */
let extensions: string;
let remote: TestServer;
let link: FaultProxy;
let bed: DistributedDatabase;

beforeAll(async () => {
  extensions = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}ext-`));
  await writeExtensionFiles(extensions);
  remote = await startTestServer(18, { extensionFolders: [extensions] });
  link = await FaultProxy.open({ host: '127.0.0.1', port: remote.server.port });
  const admin = remote.server.admin();
  bed = await distributedDatabase({ nodes: ['dn1', 'dn2'], there: { ...admin, port: link.port } });
});

afterAll(async () => {
  await bed?.[Symbol.asyncDispose]();
  await link?.[Symbol.asyncDispose]();
  await remote?.[Symbol.asyncDispose]();
  await rm(extensions, { recursive: true, force: true });
});

interface Scenario {
  readonly before: string;
  readonly call: string;
}

const DISTRIBUTED = `create table t.x (time timestamptz not null, k text, v integer);
  select * from create_distributed_hypertable('t.x', 'time', 'k', 4`;

const SCENARIOS: Record<string, Scenario> = {
  'a table is made': {
    before: 'create table t.x (time timestamptz, k text, v integer check (v > 0)); create index on t.x (v)',
    call: `select * from create_distributed_hypertable('t.x', 'time', 'k', 4)`,
  },
  'a data node is attached': {
    before: `${DISTRIBUTED}, data_nodes => '{dn1}')`,
    call: `select * from attach_data_node('dn2', 't.x')`,
  },
  'a data node is detached': {
    before: `${DISTRIBUTED})`,
    call: `select detach_data_node('dn1', 't.x')`,
  },
  'an index is made': { before: `${DISTRIBUTED})`, call: 'create index on t.x (v desc, k)' },
};

async function prepare(scenario: Scenario): Promise<void> {
  link.setFault(undefined);
  await using session = await bed.access.connect();
  await session.query(`create schema t; ${scenario.before}`);
  await untilSettled(session);
}

async function cleanUp(): Promise<void> {
  link.setFault(undefined);
  await using session = await bed.access.connect();
  await session.query('drop schema if exists t cascade');
  await untilSettled(session);
  expect(await bed.remains()).toEqual([]);
}

async function untilSettled(session: Connection): Promise<void> {
  for (;;) {
    const { rows } = await session.query(`select 1 from varve.runs where state = 'begun'`);
    if (rows.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}

/** Everything that a stopped call could have left. */
async function fingerprint(): Promise<string[]> {
  await using session = await bed.access.connect();
  const { rows } = await session.query<{ line: string }>(
    `select 'relation ' || c.oid || ' ' || c.oid::regclass || ' ' || c.relkind::text as line
       from pg_class c where c.relnamespace = 't'::regnamespace
     union all select 'hypertable ' || to_jsonb(h)::text from varve.hypertable h
     union all select 'member ' || to_jsonb(m)::text from varve.hypertable_node m
     union all select 'index ' || to_jsonb(i)::text from varve.hypertable_index i
     union all select 'shard ' || to_jsonb(s)::text from varve.shard s
     union all select 'operation ' || id from varve.operation order by 1`,
  );
  return [...rows.map(({ line }) => line), ...(await bed.remains())];
}

interface Point {
  readonly at: number;
  readonly when: 'before' | 'after';
}

/** Stops the call at `point`; says whether it failed. */
async function stopAt(
  scenario: Scenario,
  point: Point,
  stop: (caller: Connection) => Promise<void>,
): Promise<boolean> {
  await prepare(scenario);
  const before = await fingerprint();
  const caller = await bed.access.connect();
  let stopped = Promise.resolve();
  link.setFault({ ...point, onFault: () => (stopped = stop(caller)) });
  const failed = await caller.query(scenario.call).then(
    () => false,
    () => true,
  );
  // The fault may hit a goodbye, behind the caller's back.
  if (!failed) await new Promise((resolve) => setTimeout(resolve, 60));
  link.setFault(undefined);
  await stopped;
  await caller.close();
  if (failed) {
    await using session = await bed.access.connect();
    await untilSettled(session);
    expect(await fingerprint(), JSON.stringify(point)).toEqual(before);
    await session.query(scenario.call);
  }
  await cleanUp();
  return failed;
}

async function messageCount(scenario: Scenario): Promise<number> {
  await prepare(scenario);
  link.setFault(undefined);
  await using session = await bed.access.connect();
  await session.query(scenario.call);
  const { count } = link;
  await cleanUp();
  return count;
}

/** Stops the call at one point after the other; most of them have to hurt. */
async function stopAtEach(scenario: Scenario, stop: (caller: Connection) => Promise<void>): Promise<void> {
  const count = await messageCount(scenario);
  const all = Array.from({ length: count }, (_, i) => i + 1).flatMap((at) => [
    { at, when: 'before' as const },
    { at, when: 'after' as const },
  ]);
  const drawn = sample(all);
  let failures = 0;
  for (const point of drawn) if (await stopAt(scenario, point, stop)) failures += 1;
  // A message that only says goodbye, or one of the cleaning up after the commit, can be lost without harm.
  expect(failures * 3).toBeGreaterThanOrEqual(drawn.length);
}

/** All points in the long run; a few drawn ones, by a printed seed, where time is short. */
function sample(all: readonly Point[]): readonly Point[] {
  if (process.env['VARVE_SOAK'] === '1') return all;
  const seed = Number(process.env['VARVE_SEED'] ?? Date.now() % 1_000_000);
  console.log(`drawn with VARVE_SEED=${seed}`);
  return all.filter((_, i) => (i + seed) % 11 === 0);
}

describe.each(Object.entries(SCENARIOS))('stopped while %s', (_name, scenario) => {
  afterEach(cleanUp);

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

  it.each([
    ['ROLLBACK', ['begin', '@', 'rollback']],
    ['ROLLBACK TO', ['begin', 'savepoint s', '@', 'rollback to s', 'commit']],
    ['a failing statement', ['begin', '@', '!select 1 / 0', 'commit']],
    [
      'a block that raises',
      [
        `do $$ begin perform set_config('search_path', 't, public', true); execute '@'; raise exception 'no'; exception when raise_exception then null; end $$`,
      ],
    ],
  ])('%s takes it back, and it can be repeated', async (_what, statements) => {
    await prepare(scenario);
    const before = await fingerprint();
    await using session = await bed.access.connect();
    for (const statement of statements) {
      const quoted = statement.includes("'@'") ? scenario.call.replaceAll("'", "''") : scenario.call;
      const sql = statement.replace('@', () => quoted);
      if (sql.startsWith('!')) await expect(session.query(sql.slice(1))).rejects.toThrow();
      else await session.query(sql);
    }
    await untilSettled(session);
    expect(await fingerprint()).toEqual(before);
    await session.query(scenario.call);
    await untilSettled(session);
  });

  it('the end of the caller’s session takes it back', async () => {
    await prepare(scenario);
    const before = await fingerprint();
    const caller = await bed.access.connect();
    await caller.query('begin');
    await caller.query(scenario.call);
    caller.destroy();
    await using session = await bed.access.connect();
    await untilSettled(session);
    expect(await fingerprint()).toEqual(before);
  });

  it('a restart of the daemon before the transaction ends changes nothing', async () => {
    await prepare(scenario);
    const before = await fingerprint();
    await using session = await bed.access.connect();
    for (const end of ['rollback', 'commit']) {
      await session.query('begin');
      await session.query(scenario.call);
      await bed.access.restart();
      await session.query(end);
      await untilSettled(session);
      if (end === 'rollback') expect(await fingerprint()).toEqual(before);
      else expect(await fingerprint()).not.toEqual(before);
    }
    const { rows } = await session.query<{ n: number }>(
      `insert into t.x select now(), i, i from generate_series(1, 50) i; select count(*)::int as n from t.x`,
    );
    expect(rows).toEqual([{ n: 50 }]);
  });
});

describe('what a data node is still busy with', () => {
  afterEach(cleanUp);

  it('when the daemon has given the call up, comes to nothing', async () => {
    await prepare({ before: 'create table t.x (time timestamptz, k text)', call: '' });
    const before = await fingerprint();
    await using blocker = await connect({ ...bed.at('dn1'), port: remote.server.port });
    // The tables' types cannot be made while this is held.
    await blocker.query('begin; lock table pg_catalog.pg_type in share mode');
    await using caller = await bed.access.connect();
    const call = caller.query(`select * from create_distributed_hypertable('t.x', 'time', 'k', 4)`).then(
      () => 'succeeded',
      () => 'failed',
    );
    await waitFor('dn1', `wait_event_type = 'Lock'`);
    link.breakAll();
    await waitFor('dn1', `wait_event = 'advisory'`);
    await blocker.query('rollback');
    expect(await call).toBe('failed');
    await untilSettled(caller);
    expect(await fingerprint()).toEqual(before);
  });

  async function waitFor(node: string, how: string): Promise<void> {
    await using admin = await connect({ ...bed.at(node), database: 'postgres', port: remote.server.port });
    for (;;) {
      const { rows } = await admin.query(`select 1 from pg_stat_activity where datname = $1 and ${how}`, [
        bed.at(node).database,
      ]);
      if (rows.length > 0) return;
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
  }
});

describe('DROP TABLE', () => {
  beforeEach(() => prepare({ before: `${DISTRIBUTED})`, call: '' }));
  afterEach(cleanUp);

  it('succeeds with a data node down, and is completed when that is back', async () => {
    await using session = await bed.access.connect();
    link.breakAll(true);
    await session.query('drop table t.x');
    await new Promise((resolve) => setTimeout(resolve, 100));
    link.reopen();
    await untilSettled(session);
    expect(await bed.remains()).toEqual([]);
  });

  it('is completed however often it is interrupted', async () => {
    await using session = await bed.access.connect();
    for (let at = 1; at <= 8; at += 1) {
      link.setFault({ at, when: at % 2 === 0 ? 'before' : 'after', onFault: (proxy) => proxy.breakAll() });
      await session.query('drop table if exists t.x');
      await untilSettled(session);
      expect(await bed.remains()).toEqual([]);
      link.setFault(undefined);
      await session.query(`${DISTRIBUTED})`);
    }
  });

  it('succeeds with a warning without a daemon, which finds the shards when it is back', async () => {
    await bed.access.service[Symbol.asyncDispose]();
    const notices: string[] = [];
    await using session = await connect(bed.access.database.endpoint, {
      onNotice: ({ message }) => notices.push(message),
    });
    await session.query('drop table t.x');
    expect(notices).toEqual(['the Varve daemon does not answer']);
    await bed.access.restart();
    await bed.access.service.lookAfterHypertables(bed.access.database.name);
    expect(await bed.remains()).toEqual([]);
  });
});

describe('GRANT', () => {
  beforeEach(() => prepare({ before: `${DISTRIBUTED})`, call: '' }));
  afterEach(cleanUp);

  it('succeeds with a warning while a data node is down, which learns of it later', async () => {
    const notices: string[] = [];
    await using session = await connect(bed.access.database.endpoint, {
      onNotice: ({ message }) => notices.push(message),
    });
    link.breakAll(true);
    await session.query('grant select on t.x to public');
    expect(notices).toContain('data node "dn1" does not know of the changed rights on "t.x" yet');
    link.reopen();
    await untilSettled(session);
    await using there = await connect(bed.at('dn1'));
    const { rows } = await there.query<{ granted: boolean }>(
      `select has_table_privilege('pg_monitor', oid, 'SELECT') as granted from pg_class
       where relname ~ '^s[0-9]+$' and relnamespace::regnamespace::text like 'varve\\_x\\_%'`,
    );
    expect(rows).toEqual([{ granted: true }, { granted: true }]);
  });
});

describe('the daemon killed', () => {
  afterEach(cleanUp);

  let daemon: ChildProcess;
  const script = fileURLToPath(new URL('../../test/daemon-process.ts', import.meta.url));

  async function start(): Promise<void> {
    const optionsFile = join(bed.access.serviceOptions.folder, 'daemon.json');
    await writeFile(
      optionsFile,
      JSON.stringify({ admin: serverFacts().admin, service: bed.access.serviceOptions }),
    );
    daemon = fork(script, [optionsFile], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const [{ port, secret }] = (await once(daemon, 'message')) as [{ port: number; secret: string }];
    await bed.access.tell(port, secret);
  }

  async function kill(): Promise<void> {
    const gone = once(daemon, 'exit');
    daemon.kill('SIGKILL');
    await gone;
  }

  beforeAll(async () => {
    await bed.access.service[Symbol.asyncDispose]();
    await start();
  });

  afterAll(async () => {
    await kill();
    await bed.access.restart();
  });

  it.each(Object.entries(SCENARIOS))(
    'at any message while %s, it leaves no trace after its restart and the call can be repeated',
    (_name, scenario) =>
      stopAtEach(scenario, async () => {
        await kill();
        await start();
      }),
  );
});
