import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect, startTestServer, type TestServer } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
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

function stopped(scenario: Scenario): StoppedCall {
  return {
    link,
    access: bed.access,
    prepare: () => prepare(scenario),
    call: (session) => session.query(scenario.call),
    fingerprint,
    cleanUp,
    drawOneIn: 43,
  };
}

describe.each(Object.entries(SCENARIOS))('stopped while %s', (_name, scenario) => {
  afterEach(cleanUp);

  it('by a broken connection, it leaves no trace and can be repeated', async () => {
    await stopAtEach(stopped(scenario), brokenLink(link));
  });

  it('by a cancel of the caller, it leaves no trace and can be repeated', async () => {
    await stopAtEach(stopped(scenario), cancelled);
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

  let daemon: KillableDaemon;
  beforeAll(async () => (daemon = await KillableDaemon.start(bed.access)));
  afterAll(() => daemon[Symbol.asyncDispose]());

  it.each(Object.entries(SCENARIOS))(
    'at any message while %s, it leaves no trace after its restart and the call can be repeated',
    (_name, scenario) => stopAtEach(stopped(scenario), () => daemon.killAndRestart()),
  );
});
