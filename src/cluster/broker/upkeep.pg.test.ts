import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GroupStage } from '../../../test/group-nodes.ts';
import { backupFileName, listBackups } from '../backup/backup-folder.ts';
import { restoreDatabase } from '../backup/restore.ts';
import { testServiceGroup, type TestServiceGroup } from './service-group.suite.ts';

/** What the schedules do besides the pool, on a group of two. */
let stage: GroupStage;
let group: TestServiceGroup;

beforeAll(async () => {
  stage = await GroupStage.open(2);
  group = await testServiceGroup(stage, 2);
});
afterAll(async () => {
  await group?.[Symbol.asyncDispose]();
  await stage[Symbol.asyncDispose]();
});

const control = async <R extends object>(sql: string, params: readonly unknown[] = []): Promise<R[]> =>
  group.control.withConnection(async (connection) => (await connection.query<R>(sql, params)).rows);

const nodeOf = (index: number): string => group.contexts[index]?.options.node ?? '';

test('every schedule of the group has an action, and all of them run', async () => {
  await control(`update tasks.schedules set enabled = true, last_scheduled_at = '-infinity'`);
  await control(`update rdpg.config set value = '0' where key = 'poolSize'`);
  const made = await group.works[1]?.scheduleOnce();
  expect(made).toBeGreaterThan(10);
  await group.work();
  await control('update tasks.schedules set enabled = false');
  const rows = await control<{ action: string; outcome: string; error: string | null }>(
    `select distinct action, outcome, error from tasks.history order by action`,
  );
  expect(rows.filter(({ outcome }) => outcome !== 'done')).toEqual([]);
  const schedules = await control<{ action: string }>(
    `select distinct action from tasks.schedules where data in ('', 'rdpg') order by action`,
  );
  expect([...new Set(rows.map(({ action }) => action))]).toEqual(schedules.map(({ action }) => action));
  expect(await control('select from tasks.tasks')).toEqual([]);
});

test('each member measures its own databases', async () => {
  const rows = await control<{ node: string }>(
    `select distinct node from metrics.databases where dbname = 'rdpg' and size_bytes > 0 order by node`,
  );
  expect(rows.map(({ node }) => node)).toEqual([nodeOf(0), nodeOf(1)].sort());
});

test('the control database is backed up on the read node', async () => {
  const rows = await control(
    `select node, status from backups.file_history where dbname = 'rdpg' and action = 'CreateBackup'`,
  );
  expect(rows).toEqual([{ node: nodeOf(1), status: 'ok' }]);
  const [file] = await listBackups(group.folders[1] ?? '', 'rdpg');
  expect(file?.summary?.end.rowCount).toBeGreaterThan(20);
  // It is whole: it makes the control database elsewhere.
  await group.databases.create('rdpg2', 'rdpg2_owner');
  await restoreDatabase({ path: file?.path ?? '', target: group.endpoint(0, 'rdpg2') });
  await using restored = await group.connect(0, 'rdpg2');
  const sql = 'select version, sha256 from rdpg.schema_version';
  expect((await restored.query(sql)).rows).toEqual(await control(sql));
  expect((await restored.query('select from tasks.schedules')).rowCount).toBeGreaterThan(5);
});

test('bloated tables are vacuumed where the dead rows are, on each member; others are left alone', async () => {
  await control(`update rdpg.config set value = '65536' where key = 'vacuumBloatBytes'`);
  await group.databases.create('bloat', 'bloat_owner');
  await using master = await group.connect(0, 'bloat');
  await master.query(`create table public.full_of_dead (n int primary key, t text)`);
  await master.query(`create table public.clean (n int primary key, t text)`);
  await master.query(`insert into public.full_of_dead select i, repeat('x', 100) from generate_series(1, 5000) i;
    insert into public.clean select i, repeat('x', 100) from generate_series(1, 5000) i`);
  await master.query('delete from public.full_of_dead where n % 2 = 0; analyze');
  await group.databases.barrier('bloat');
  await using other = await group.connect(1, 'bloat');
  for (const connection of [master, other]) {
    await connection.query('analyze');
    await connection.query('select pg_stat_force_next_flush()');
    await expect
      .poll(async () => {
        const row = await connection.one<{ n: string }>(
          `select n_dead_tup as n from pg_stat_all_tables where relname = 'full_of_dead'`,
        );
        return Number(row.n);
      })
      .toBeGreaterThan(2000);
  }
  for (const [i, work] of group.works.entries()) {
    await work.queue.add({ action: 'Vacuum', node: nodeOf(i), data: 'bloat' });
  }
  await group.work();
  const rows = await control<{
    node: string;
    relation: string;
    gained: boolean;
    method: string;
    full: boolean;
  }>(
    `select node, relation, bloat_after_bytes < bloat_before_bytes as gained, method, is_full as full
       from metrics.vacuums where dbname = 'bloat' and relation like 'public.%' order by node`,
  );
  expect(rows).toEqual(
    [nodeOf(0), nodeOf(1)].sort().map((node) => ({
      node,
      relation: 'public.full_of_dead',
      gained: expect.any(Boolean) as boolean,
      method: 'estimate',
      full: false,
    })),
  );
  for (const connection of [master, other]) {
    const { vacuumed } = await connection.one<{ vacuumed: boolean }>(
      `select last_vacuum is not null as vacuumed from pg_stat_all_tables where relname = 'full_of_dead'`,
    );
    expect(vacuumed).toBe(true);
  }
});

test('with pgstattuple it is measured; where it is allowed the table is written anew', async () => {
  await using master = await group.connect(0, 'rdpg');
  await master.query(`set varve_group.ddl = 'off'; create extension pgstattuple schema public`);
  await master.query(
    `insert into tasks.tasks (cluster_id, cluster_service, role, action, data, run_after)
       select 'other', 'replicated', 'all', 'X', repeat('x', 100) || i, now() + interval '1 year' from generate_series(1, 3000) i;
     delete from tasks.tasks where cluster_id = 'other'`,
  );
  await group.works[0]?.queue.add({ action: 'Vacuum', node: nodeOf(0), data: 'rdpg' });
  await group.work();
  const [row] = await control<{ before: string; after: string }>(
    `select method, is_full as full, size_before_bytes as before, size_after_bytes as after from metrics.vacuums
      where relation = 'tasks.tasks' and node = $1`,
    [nodeOf(0)],
  );
  expect(row).toMatchObject({ method: 'pgstattuple', full: true });
  expect(Number(row?.after)).toBeLessThan(Number(row?.before) / 4);
  await master.query(`drop extension pgstattuple`);
});

test('old files go, the newest stays, and the history tells', async () => {
  const folder = join(group.folders[1] ?? '', 'rdpg');
  const [newest] = await listBackups(group.folders[1] ?? '', 'rdpg');
  const old = backupFileName(new Date(Date.now() - 200 * 3_600_000), 'aaaaaaaa-0000-0000-0000-00000000dead');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, old), 'not readable any more');
  await control(
    `insert into backups.file_history (cluster_id, dbname, node, file_name, action, status)
     values ('service', 'rdpg', $1, $2, 'CreateBackup', 'ok'), ('service', 'rdpg', $1, 'removed by hand', 'CreateBackup', 'ok')`,
    [nodeOf(1), old],
  );
  await group.works[1]?.queue.add({ action: 'EnforceFileRetention', node: nodeOf(1) });
  await group.work();
  expect((await listBackups(group.folders[1] ?? '', 'rdpg')).map(({ fileName }) => fileName)).toEqual([
    newest?.fileName,
  ]);
  const rows = await control(
    `select file_name as name, action, removed_at is not null as removed from backups.file_history
      where node = $1 and dbname = 'rdpg' order by 2, 1`,
    [nodeOf(1)],
  );
  expect(rows).toEqual(
    expect.arrayContaining([
      { name: old, action: 'CreateBackup', removed: true },
      { name: old, action: 'RemoveBackup', removed: true },
      { name: 'removed by hand', action: 'CreateBackup', removed: true },
      { name: newest?.fileName, action: 'CreateBackup', removed: false },
    ]),
  );
});

test('a backup that was made before its worker died is found, not made again', async () => {
  await group.works[1]?.queue.add({ action: 'BackupDatabase', data: 'rdpg', nodeType: 'read' });
  const [task] = await control<{ id: string; created_at: Date }>('select id, created_at from tasks.tasks');
  await group.work();
  const fileName = backupFileName(task?.created_at ?? new Date(), task?.id ?? '');
  const before = (await listBackups(group.folders[1] ?? '', 'rdpg')).find((one) => one.fileName === fileName);
  // The same task once more, as if its end had not been recorded.
  await control(
    `insert into tasks.tasks (id, cluster_id, cluster_service, role, action, data, node_type, created_at)
     select id, cluster_id, 'replicated', 'all', action, data, 'read', created_at from tasks.history where id = $1`,
    [task?.id],
  );
  await control('delete from tasks.history where id = $1', [task?.id]);
  await group.work();
  const after = (await listBackups(group.folders[1] ?? '', 'rdpg')).find((one) => one.fileName === fileName);
  expect(after?.summary?.manifest.createdAt).toBe(before?.summary?.manifest.createdAt);
  const rows = await control(
    `select 1 from backups.file_history where file_name = $1 and action = 'CreateBackup'`,
    [fileName],
  );
  expect(rows).toHaveLength(1);
});

test('a backup that cannot be made is tried again, and each failure is in the history', async () => {
  await rm(group.folders[1] ?? '', { recursive: true, force: true });
  await writeFile(group.folders[1] ?? '', 'a file where the folder should be');
  await group.works[1]?.queue.add({ action: 'BackupDatabase', data: 'rdpg', nodeType: 'read' });
  await group.work();
  const [task] = await control<{ state: string; last_error: string }>(
    'select state, last_error from tasks.tasks',
  );
  expect(task).toMatchObject({
    state: 'waiting',
    last_error: expect.stringMatching(/ENOTDIR|EEXIST/) as string,
  });
  await rm(group.folders[1] ?? '');
  await control('update tasks.tasks set run_after = now()');
  await group.work();
  expect(await control('select from tasks.tasks')).toEqual([]);
  expect(await control(`select 1 from backups.file_history where status = 'error'`)).toHaveLength(1);
  // What does not exist is not tried again.
  const missing = await group.task('BackupDatabase', 'no such database', 'read');
  expect(missing).toMatchObject({
    outcome: 'failed',
    error: expect.stringContaining('does not exist') as string,
  });
});

test('old rows of all histories are deleted, those of files that are there stay', async () => {
  await control(`insert into tasks.history (id, cluster_id, node, role, action, data, outcome, attempt, created_at, finished_at)
    values (gen_random_uuid(), 'service', '*', 'all', 'Old', '', 'done', 1, now(), now() - interval '400 days')`);
  await control(`insert into audit.log (at, cluster_id, node, actor, action, target, outcome)
    values (now() - interval '200 days', 'service', 'n', 'x', 'kept', 't', 'ok'), (now() - interval '400 days', 'service', 'n', 'x', 'old', 't', 'ok')`);
  await control(
    `update backups.file_history set created_at = now() - interval '400 days' where removed_at is not null`,
  );
  expect(await group.task('DeleteBackupHistory')).toMatchObject({ outcome: 'done', error: null });
  expect(await control(`select from tasks.history where action = 'Old'`)).toEqual([]);
  expect(await control(`select action from audit.log where target = 't'`)).toEqual([{ action: 'kept' }]);
  expect(await control('select from backups.file_history where removed_at is not null')).toEqual([]);
});
