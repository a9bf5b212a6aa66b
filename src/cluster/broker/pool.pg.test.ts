import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GroupStage, quiet } from '../../../test/group-nodes.ts';
import { systemClock } from '../../core/clock.ts';
import { Connection } from '../../postgres/connection.ts';
import { listBackups } from '../backup/backup-folder.ts';
import { restoreBackup } from '../backup/restore-backup.ts';
import type { RestoreResult } from '../backup/restore.ts';
import { stageOf, type Assignment, type InstanceRecord } from './instances.ts';
import { scramVerifier } from './scram-verifier.ts';
import { testServiceGroup, type TestServiceGroup } from './service-group.suite.ts';

let stage: GroupStage;
let group: TestServiceGroup;

beforeAll(async () => {
  stage = await GroupStage.open(2);
  group = await testServiceGroup(stage, 2);
  await config('poolSize', '2');
  await config('databaseExtensions', 'pg_trgm no_such_extension');
});
afterAll(async () => {
  await group?.[Symbol.asyncDispose]();
  await stage[Symbol.asyncDispose]();
});

const config = (key: string, value: string): Promise<unknown> =>
  group.control.withConnection((connection) =>
    connection.query('update rdpg.config set value = $2 where key = $1', [key, value]),
  );

const nodeOf = (index: number): string => group.contexts[index]?.options.node ?? '';

const assignmentOf = (instanceId: string): Assignment => ({
  instanceId,
  serviceId: 's',
  planId: 'p',
  organizationId: 'o',
  spaceId: 'sp',
  request: { plan: 'p' },
});

async function databasesOn(index: number): Promise<string[]> {
  await using connection = await group.connect(index, 'rdpg');
  const { rows } = await connection.query<{ name: string }>(
    `select datname as name from pg_database where datname ~ '^d[0-9a-f]{32}$' order by 1`,
  );
  return rows.map(({ name }) => name);
}

async function login(index: number, database: string, role: string, password: string): Promise<Connection> {
  return Connection.open(
    { ...group.endpoint(index, database), user: role, password },
    { connectTimeoutMs: 5_000 },
  );
}

const ROLE = `b${'1'.repeat(32)}`;
const OTHER = `b${'2'.repeat(32)}`;

test('databases are made ahead, on every member, replicated and closed to others', async () => {
  expect(await group.task('PrecreateDatabases')).toMatchObject({ outcome: 'done', error: null });
  const available = await group.pool.available();
  expect(available).toHaveLength(2);
  const names = available.map(({ database }) => database).sort();
  expect(await databasesOn(0)).toEqual(names);
  expect(await databasesOn(1)).toEqual(names);
  // Filled, it is not filled further.
  expect(await group.task('PrecreateDatabases')).toMatchObject({ outcome: 'done', result: { made: [] } });
  const [first] = names;
  await using master = await group.connect(0, first ?? '');
  await master.query('create table public.t (n int primary key); insert into public.t values (1)');
  await group.databases.barrier(first ?? '');
  await using other = await group.connect(1, first ?? '');
  expect((await other.query('select n from public.t')).rows).toEqual([{ n: 1 }]);
  const extension = await other.query(`select 1 from pg_extension where extname = 'pg_trgm'`);
  expect(extension.rowCount).toBe(1);
  await master.query('drop table public.t');
  const member = (await group.contexts[0]?.keys.members.at(nodeOf(1)).read())?.value;
  expect(member?.databases).toEqual(expect.arrayContaining(names));
});

test('what an attempt that was killed has begun is finished by the next', async () => {
  const [begun] = await group.control.withConnection(async (connection) => {
    const { rows } = await connection.query<{ dbname: string; dbuser: string }>(
      `insert into cfsb.instances (cluster_service, cluster_id, dbname, dbuser)
       values ('replicated', 'service', $1, $2) returning dbname, dbuser`,
      [`d${'a'.repeat(32)}`, `u${'a'.repeat(32)}`],
    );
    return rows;
  });
  // It died when the database was on one member only.
  await using member = await group.connect(1, 'rdpg');
  await member.query(`create role ${begun?.dbuser} nologin`);
  await member.query(`create database ${begun?.dbname} owner ${begun?.dbuser} template template0`);
  expect(await group.task('PrecreateDatabases')).toMatchObject({
    outcome: 'done',
    error: null,
    result: { made: [begun?.dbname] },
  });
  expect(await databasesOn(0)).toContain(begun?.dbname);
});

test('no two who ask at once get one database, and who asks again gets the same', async () => {
  await config('poolSize', '0');
  const asked = ['i1', 'i2', 'i3', 'i4', 'i5', 'i1', 'i2'];
  const records = await Promise.all(asked.map((id) => group.pool.assign(assignmentOf(id))));
  const given = new Map(records.flatMap((record) => (record ? [[record.instanceId, record.database]] : [])));
  expect(given.size).toBeLessThanOrEqual(3);
  expect(new Set(given.values()).size).toBe(given.size);
  for (;;) {
    // Who found a row locked was told that there is none; whoever is left gets what is left.
    const left = asked.find((id) => !given.has(id));
    const record = left === undefined ? undefined : await group.pool.assign(assignmentOf(left));
    if (!record) break;
    given.set(record.instanceId, record.database);
  }
  expect(given.size).toBe(3);
  expect(await group.pool.available()).toEqual([]);
});

async function assigned(): Promise<InstanceRecord> {
  const record = (await group.pool.databases()).find((one) => stageOf(one) === 'assigned');
  if (!record) throw new Error('none is assigned');
  return record;
}

test('a binding’s role logs in and works as the owner; unbound it does not, and its work stays', async () => {
  const { database, owner } = await assigned();
  for (const role of [ROLE, OTHER]) {
    await group.pool.bind(database, role, await scramVerifier(`secret-of-${role}`));
    await group.pool.bind(database, role, await scramVerifier(`secret-of-${role}`));
  }
  const session = await login(0, database, ROLE, `secret-of-${ROLE}`);
  await session.query('create table public.mine (n int primary key); insert into public.mine values (1)');
  // As itself, not as the owner: a grant on its own name stands in the way of dropping the role.
  await session.query('reset role; set role none');
  await session.query(`create table pg_temp.x (n int)`);
  await using master = await group.connect(0, database);
  await master.query(`grant create on schema public to ${ROLE}`);
  await session.query('create table public.own (n int); insert into public.own values (2)');
  await expect(login(0, database, ROLE, 'wrong')).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
  await expect(login(0, 'rdpg', ROLE, `secret-of-${ROLE}`)).rejects.toMatchObject({
    code: expect.stringMatching(/CONNECTION_FAILED|LOGIN_FAILED/) as string,
  });

  await group.pool.unbind(database, ROLE);
  await expect(session.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  for (const index of [0, 1]) {
    await expect(login(index, database, ROLE, `secret-of-${ROLE}`)).rejects.toMatchObject({
      code: 'LOGIN_FAILED',
    });
  }
  await group.pool.unbind(database, ROLE);
  const { rows } = await master.query(
    `select relname as name, pg_get_userbyid(relowner) as owner from pg_class where relname in ('mine', 'own') order by 1`,
  );
  expect(rows).toEqual([
    { name: 'mine', owner },
    { name: 'own', owner },
  ]);
  await using other = await login(0, database, OTHER, `secret-of-${OTHER}`);
  expect((await other.query('select n from public.own union select n from public.mine')).rowCount).toBe(2);
});

test('names that are not those of bindings are not touched', async () => {
  const { database } = await assigned();
  const verifier = await scramVerifier('x');
  await expect(group.pool.bind(database, 'rdpg', verifier)).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  await expect(group.pool.unbind(database, 'rdpg')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(group.pool.bind(database, ROLE, 'plain')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(group.pool.bind('rdpg', ROLE, verifier)).rejects.toMatchObject({ code: 'DATABASE_UNKNOWN' });
});

test('what is assigned is backed up on a read node, by a schedule of its own', async () => {
  const { database } = await assigned();
  await group.task('ScheduleNewDatabaseBackups');
  await group.control.withConnection((connection) =>
    connection.query(
      `update tasks.schedules set last_scheduled_at = '-infinity' where action = 'BackupDatabase' and data = $1`,
      [database],
    ),
  );
  await group.works[0]?.scheduleOnce();
  await group.work();
  const row = await group.control.withConnection((connection) =>
    connection.one(
      `select node, status, size_bytes > 0 as sized, length(sha256) as sha from backups.file_history
        where dbname = $1 and action = 'CreateBackup'`,
      [database],
    ),
  );
  expect(row).toEqual({ node: nodeOf(1), status: 'ok', sized: true, sha: 64 });
  expect(await readdir(join(group.folders[1] ?? '', database))).toHaveLength(1);
});

test('a database that is given back is shut, backed up, dropped everywhere, and restored from its last backup', async () => {
  const { database, owner } = await assigned();
  const session = await login(0, database, OTHER, `secret-of-${OTHER}`);
  await group.pool.release(database);
  await expect(session.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  await expect(login(0, database, OTHER, `secret-of-${OTHER}`)).rejects.toMatchObject({
    code: 'LOGIN_FAILED',
  });
  await group.pool.release(database);
  await group.work();
  const record = await group.pool.database(database);
  expect(record && stageOf(record)).toBe('gone');
  for (const index of [0, 1]) {
    expect(await databasesOn(index)).not.toContain(database);
    await using connection = await group.connect(index, 'rdpg');
    const left = await connection.query(
      `select rolname from pg_roles where rolname in ($1, $2)
       union all select slot_name from pg_replication_slots where database = $3
       union all select subname from pg_subscription where subname like '%' || $3 || '%'`,
      [owner, OTHER, database],
    );
    expect(left.rows).toEqual([]);
  }
  const audit = await group.control.withConnection((connection) =>
    connection.query(`select action, outcome from audit.log where target = $1`, [database]),
  );
  expect(audit.rows).toEqual([{ action: 'decommission', outcome: 'ok' }]);

  const [final] = await listBackups(group.folders[0] ?? '', database);
  expect(final?.summary?.manifest.database).toBe(database);
  const restore = (name: string, path: string, into: 'new' | 'either' = 'new'): Promise<RestoreResult> =>
    restoreBackup(
      {
        control: group.control,
        databases: group.databases,
        clock: systemClock,
        log: quiet,
        cluster: 'service',
        node: nodeOf(0),
      },
      { path, database: name, into },
    );
  const { keptRoles } = await restore('restored', final?.path ?? '');
  expect(keptRoles).toEqual([]);
  await group.databases.barrier('restored');
  for (const index of [0, 1]) {
    await using connection = await group.connect(index, 'restored');
    const { rows } = await connection.query(
      'select n from public.own union select n from public.mine order by 1',
    );
    expect(rows).toEqual([{ n: 1 }, { n: 2 }]);
  }
  await using master = await group.connect(0, 'restored');
  expect(
    await master.one(`select pg_get_userbyid(datdba) as owner from pg_database where datname = 'restored'`),
  ).toEqual({ owner });
  // Never over another, and nothing is left of one that fails.
  await expect(restore('restored', final?.path ?? '')).rejects.toMatchObject({
    code: 'RESTORE_TARGET_NOT_EMPTY',
  });
  await expect(restore('restored', final?.path ?? '', 'either')).rejects.toMatchObject({
    code: 'RESTORE_TARGET_NOT_EMPTY',
    detail: expect.stringContaining('mine') as string,
  });
  const damaged = join(group.folders[0] ?? '', 'damaged');
  await writeFile(damaged, (await readFile(final?.path ?? '')).subarray(0, -50));
  await expect(restore('other', damaged)).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
  const there = await master.query(`select 1 from pg_database where datname = 'other'`);
  expect(there.rowCount).toBe(0);
  const history = await group.control.withConnection((connection) =>
    connection.query(
      `select dbname, status from backups.file_history where action = 'RestoreBackup' order by created_at`,
    ),
  );
  expect(history.rows).toEqual([
    { dbname: 'restored', status: 'ok' },
    { dbname: 'restored', status: 'error' },
    { dbname: 'restored', status: 'error' },
    { dbname: 'other', status: 'error' },
  ]);
});

test('a pool beyond what the servers bear is refused with the settings that are too low, and nothing is made', async () => {
  await config('poolSize', '40');
  await config('instanceLimit', '50');
  await config('instanceAllowed', '50');
  const { outcome, error } = await group.task('PrecreateDatabases');
  expect(outcome).toBe('failed');
  expect(error).toMatch(/GROUP_LIMITS[^]*max_(replication_slots|wal_senders) is \d+, must be at least/);
  const made = (await group.pool.databases()).filter((record) => stageOf(record) !== 'gone');
  const finished = made.filter((record) => stageOf(record) !== 'creating').map(({ database }) => database);
  expect(finished.length).toBeLessThan(20);
  for (const index of [0, 1]) expect(await databasesOn(index)).toEqual(finished.sort());
});
