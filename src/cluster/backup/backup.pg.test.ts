import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { connect, serverEndpoint, testDatabase, type TestDatabase } from '../../../test/database.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import type { Connection } from '../../postgres/connection.ts';
import { installGroupSchema } from '../ddl/install.ts';
import { backupDatabase, removeUnfinished, type BackupFile } from './backup.ts';
import { listBackups } from './backup-folder.ts';
import { verifyArchive } from './archive-reader.ts';
import { ArchiveWriter } from './archive-writer.ts';
import { restoreDatabase } from './restore.ts';

const groupUuid = randomUUID();
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}backup-`));
});
afterEach(() => rm(folder, { recursive: true }));

async function groupDatabase(): Promise<TestDatabase> {
  const database = await testDatabase();
  await using connection = await database.connect();
  await installGroupSchema(connection, { groupUuid, node: 'n1' });
  return database;
}

const FILE = '20260101T000000Z-00000001.varvebackup';

async function backup(database: TestDatabase, fileName = FILE): Promise<BackupFile> {
  return backupDatabase({ source: database.endpoint, folder, fileName, cluster: 'main' });
}

/** Every table's rows as text, sorted; every sequence; the structure as the catalog tells it. */
async function contentOf(connection: Connection): Promise<Record<string, unknown>> {
  const { rows: relations } = await connection.query<{ name: string; kind: string }>(
    `select c.oid::regclass::text as name, relkind as kind from pg_class c join pg_namespace n on n.oid = relnamespace
      where relkind in ('r', 'p', 'm', 'S') and nspname !~ '^pg_|information_schema|varve_group' and relpersistence = 'p'
      order by 1`,
  );
  const content: Record<string, unknown> = {};
  for (const { name, kind } of relations) {
    const columns = kind === 'S' ? 'last_value, is_called' : 't';
    const { rows } = await connection.query(`select (${columns})::text as row from ${name} t order by 1`);
    content[name] = rows;
  }
  const { rows: structure } = await connection.query(
    `select c.oid::regclass::text as name, relkind as kind, pg_get_userbyid(relowner) as owner, relacl::text as acl,
            (select jsonb_agg(jsonb_build_array(attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, attidentity,
               (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = c.oid and adnum = attnum)) order by attnum)
               from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped) as columns,
            (select jsonb_agg(pg_get_constraintdef(oid) order by conname) from pg_constraint where conrelid = c.oid) as constraints,
            (select jsonb_agg(pg_get_indexdef(indexrelid) order by indexrelid::regclass::text) from pg_index where indrelid = c.oid) as indexes,
            (select jsonb_agg(pg_get_triggerdef(oid) order by tgname) from pg_trigger where tgrelid = c.oid and not tgisinternal) as triggers,
            case when relkind in ('v', 'm') then pg_get_viewdef(c.oid) end as view
       from pg_class c join pg_namespace n on n.oid = relnamespace
      where nspname !~ '^pg_|information_schema|varve_group' order by 1`,
  );
  return { ...content, structure };
}

describe('a database with everything', () => {
  const suffix = randomUUID().slice(0, 8);
  const owner = `owner ${suffix}`;
  const reader = `reader_${suffix}`;
  let source: TestDatabase;
  let file: BackupFile;
  let keep: string;

  beforeAll(async () => {
    keep = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}backup-`));
    source = await groupDatabase();
    await using connection = await source.connect();
    await connection.query(`
      create role "${owner}" login password 'owner''s secret';
      create role "${reader}" nologin in role "${owner}";
      alter role "${owner}" set search_path = "$user", public;
      grant create on database ${source.name} to "${owner}";
      create extension hstore;
      set varve_group.ddl = 'off';
      create extension btree_gist;
      reset varve_group.ddl`);
    for (const statement of [
      `create schema "Odd ""Name"`,
      "create type mood as enum ('sad', 'ok')",
      'create domain positive as integer check (value > 0)',
      'create table parent (id bigint generated always as identity primary key, name text not null unique, h hstore, m mood)',
      `create table "Odd ""Name"."Table; drop" ("select" int primary key references parent (id), "a b" bytea, c jsonb, d timestamptz[], e numeric, f double precision)`,
      "create table computed (a positive primary key, b integer generated always as (a * 2) stored, gone text, c text default 'x')",
      'alter table computed drop column gone',
      'create table events (at timestamptz not null, n serial, v text) partition by range (at)',
      `create table events_1 partition of events for values from ('2026-01-01') to ('2026-02-01')`,
      `create table events_2 partition of events default`,
      'create index on events (n)',
      'create table no_columns ()',
      'create unlogged table forgotten (n int)',
      'create table during (r int4range, exclude using gist (r with &&))',
      'create materialized view names as select name, count(*) from parent group by name',
      'create view odd as select * from computed where a > 3',
      `create function stamp() returns trigger language plpgsql as $$ begin new.name := new.name || ' stamped'; return new; end $$`,
      'create trigger stamped before insert on parent for each row execute function stamp()',
      'create sequence lonely increment by 7',
      `alter table computed owner to "${owner}"`,
      `grant select on parent to "${reader}"`,
    ]) {
      await connection.query(statement);
    }
    await connection.query(`
      insert into parent (name, h, m) select 'p' || i, hstore('k', i::text), 'ok' from generate_series(1, 500) i;
      insert into "Odd ""Name"."Table; drop" select i, decode(repeat(lpad(to_hex(i % 256), 2, '0'), i % 40), 'hex'),
        jsonb_build_object('x', E'\\u00fc\\n\\t\\\\', 'n', null), array[now(), null], 1.0 / i,
        case i % 4 when 0 then 'NaN' when 1 then '-0' when 2 then 'Infinity' else 0.1 end from generate_series(1, 300) i;
      insert into computed (a, c) select i, case when i % 3 = 0 then null else E'\\\\N' end from generate_series(1, 100) i;
      insert into events (at, v) select '2026-01-15'::timestamptz + i * interval '1 hour', repeat('v', i % 900) from generate_series(1, 3000) i;
      insert into no_columns default values;
      insert into no_columns default values;
      insert into forgotten values (1);
      insert into during values ('[1,3)'), ('[3,5)');
      select nextval('lonely'), nextval('lonely');
      delete from parent where id > 450;
      update computed set c = 'changed' where a < 10;
      refresh materialized view names`);
    file = await backupDatabase({ source: source.endpoint, folder: keep, fileName: FILE, cluster: 'main' });
  });
  afterAll(async () => {
    await source[Symbol.asyncDispose]();
    await rm(keep, { recursive: true });
    await using connection = await connect();
    await connection.query(`drop role if exists "${reader}"; drop role if exists "${owner}"`);
  });

  test('comes back row by row, with structure, owners, rights and sequences', async () => {
    await using target = await groupDatabase();
    const result = await restoreDatabase({ path: file.path, target: target.endpoint });
    expect(result.keptRoles).toEqual([owner, reader].sort());
    await using before = await source.connect();
    await using after = await target.connect();
    const wanted = await contentOf(before);
    expect(await contentOf(after)).toEqual(wanted);
    expect(Object.keys(wanted).length).toBeGreaterThan(10);
    // It goes on from there: sequences do not repeat, triggers and constraints are at work.
    const { name, id } = await after.one<{ name: string; id: string }>(
      `insert into parent (name) values ('new') returning name, id`,
    );
    expect([name, id]).toEqual(['new stamped', '501']);
    await expect(after.query(`insert into during values ('[2,4)')`)).rejects.toMatchObject({
      sqlstate: '23P01',
    });
    await after.query('refresh materialized view names');
    // And it can be backed up and restored in its turn.
    const second = await backup(target);
    await using third = await groupDatabase();
    await restoreDatabase({ path: second.path, target: third.endpoint });
    await using last = await third.connect();
    expect(await contentOf(last)).toEqual(await contentOf(after));
  });

  test('says what is not in it', () => {
    expect(file.manifest).toMatchObject({ database: source.name, cluster: 'main', node: 'n1', groupUuid });
    expect(file.manifest.leftOut).toEqual([expect.stringContaining('1 unlogged table')]);
  });

  test('holds no password, only what the server keeps of it, and is for its owner alone', async () => {
    expect((await stat(file.path)).mode & 0o777).toBe(0o600);
    expect((await stat(dirname(file.path))).mode & 0o777).toBe(0o700);
    expect((await readFile(file.path)).includes('secret')).toBe(false);
  });

  test('makes roles that are missing, with their password', async () => {
    await using test = await groupDatabase();
    await using connection = await test.connect();
    const lonely = `lonely_${suffix}`;
    await connection.query(`create role ${lonely} login password 'its own'; create table t (n int);
      alter table t owner to ${lonely}; alter role ${lonely} set work_mem = '5MB';
      alter role ${lonely} in database ${test.name} set search_path = a, "B c"`);
    const own = await backup(test);
    await connection.query(`drop table t; drop role ${lonely}`);
    await using target = await groupDatabase();
    await restoreDatabase({ path: own.path, target: target.endpoint });
    try {
      const user = await connect({ ...target.endpoint, user: lonely, password: 'its own' }, { settings: {} });
      const seen = await user.one(
        `select current_setting('search_path') as path, current_setting('work_mem') as mem`,
      );
      expect(seen).toEqual({ path: 'a, "B c"', mem: '5MB' });
      await user.close();
    } finally {
      await using there = await target.connect();
      await there.query(`set varve_group.ddl = 'off'; drop owned by ${lonely}; drop role ${lonely}`);
    }
  });

  test('is not restored over content, nor into a database of no group', async () => {
    await using target = await groupDatabase();
    await using connection = await target.connect();
    await connection.query('create table mine (n int)');
    const request = { path: file.path, target: target.endpoint };
    await expect(restoreDatabase(request)).rejects.toMatchObject({
      code: 'RESTORE_TARGET_NOT_EMPTY',
      detail: expect.stringContaining('mine') as string,
    });
    await using plain = await testDatabase();
    const refused = expect.objectContaining({ code: 'BACKUP_UNREPLICATED' }) as Error;
    await expect(restoreDatabase({ path: file.path, target: plain.endpoint })).rejects.toEqual(refused);
    await expect(backup(plain)).rejects.toEqual(refused);
  });

  test('damage anywhere is found before anything is changed', async () => {
    await using target = await groupDatabase();
    const bytes = await readFile(file.path);
    const random = new SeededRandom(Date.now() % 1_000_000);
    const path = join(folder, 'damaged');
    for (let round = 0; round < 25; round += 1) {
      const copy = Buffer.from(bytes);
      const at = random.below(copy.length);
      copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
      await writeFile(path, copy);
      await expect(verifyArchive(path), `bit at ${at}`).rejects.toMatchObject({
        code: expect.stringMatching(/BACKUP_DAMAGED|BACKUP_FORMAT_UNKNOWN/) as string,
      });
    }
    for (const size of [0, 5, 12, 40, bytes.length - 1, random.below(bytes.length)]) {
      await writeFile(path, bytes);
      await truncate(path, size);
      await expect(verifyArchive(path)).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
    }
    await expect(verifyArchive(join(folder, 'absent'))).rejects.toMatchObject({ code: 'BACKUP_NOT_FOUND' });
    await writeFile(path, bytes.subarray(0, -200));
    await expect(restoreDatabase({ path, target: target.endpoint })).rejects.toMatchObject({
      code: 'BACKUP_DAMAGED',
    });
    await using connection = await target.connect();
    expect(await contentOf(connection)).toEqual({ structure: [] });
  });

  test('a restore that fails in the middle leaves nothing', async () => {
    await using target = await groupDatabase();
    const stop = new AbortController();
    await using connection = await target.connect();
    // A table of that name in the group's own schema stands in the way of the last statement.
    await connection.query(`create function stamp() returns void language sql as 'select'`);
    await expect(
      restoreDatabase({ path: file.path, target: target.endpoint }, stop.signal),
    ).rejects.toMatchObject({ code: 'QUERY_FAILED' });
    await connection.query('drop function stamp()');
    expect(await contentOf(connection)).toEqual({ structure: [] });
    await restoreDatabase({ path: file.path, target: target.endpoint });
  });
});

test('all of a backup is of one moment, however many write meanwhile', async () => {
  await using database = await groupDatabase();
  await using connection = await database.connect();
  await connection.query('create table a (n int primary key)');
  await connection.query('create table b (n int primary key)');
  await connection.query(
    `insert into a select generate_series(1, 20000); insert into b select generate_series(1, 20000)`,
  );
  const stop = new AbortController();
  const writing = (async () => {
    await using writer = await database.connect();
    for (let i = 20_001; !stop.signal.aborted; i += 1) {
      // In one transaction: no backup may have one without the other.
      await writer.query(`insert into a values (${i}); insert into b values (${i})`);
    }
  })();
  const files = [];
  for (let i = 0; i < 3; i += 1) files.push(await backup(database, `${i}.varvebackup`));
  stop.abort();
  await writing;
  for (const { path } of files) {
    await using target = await groupDatabase();
    await restoreDatabase({ path, target: target.endpoint });
    await using restored = await target.connect();
    const counts = await restored.one<{ a: string; b: string; same: boolean }>(
      `select (select count(*) from a) as a, (select count(*) from b) as b,
              (select count(*) from a join b using (n)) = (select count(*) from a) as same`,
    );
    expect(counts.a).toBe(counts.b);
    expect(counts.same).toBe(true);
  }
});

test('a table that is changed while the backup begins does not get in between', async () => {
  await using database = await groupDatabase();
  await using connection = await database.connect();
  for (let i = 0; i < 20; i += 1)
    await connection.query(`create table t${i} (n int); insert into t${i} values (1)`);
  const stop = new AbortController();
  const changing = (async () => {
    await using writer = await database.connect();
    for (let i = 0; !stop.signal.aborted; i += 1) {
      await writer.query(`alter table t${i % 20} add column c${i} int default ${i}`);
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
  })();
  try {
    const results = await Promise.allSettled([0, 1, 2].map((i) => backup(database, `${i}.varvebackup`)));
    for (const result of results) {
      if (result.status === 'rejected') {
        expect(result.reason).toMatchObject({ code: 'BACKUP_UNSETTLED' });
        continue;
      }
      await using target = await groupDatabase();
      await restoreDatabase({ path: result.value.path, target: target.endpoint });
    }
  } finally {
    stop.abort();
    await changing;
  }
});

test('a backup that was killed leaves no file of a backup, and what it leaves is cleared', async () => {
  await using database = await groupDatabase();
  await backup(database);
  const own = join(folder, database.name);
  const killed = await ArchiveWriter.create(join(own, 'killed.varvebackup'));
  await killed.rows(Buffer.alloc(300_000));
  const listed = await listBackups(folder);
  expect(listed.map(({ fileName }) => fileName)).toEqual([FILE]);
  expect(await readdir(own)).toHaveLength(2);
  expect(await removeUnfinished(folder, database.name)).toBe(1);
  expect(await readdir(own)).toEqual([FILE]);
  await killed[Symbol.asyncDispose]();
});

test('backups are listed newest first, each with what it says of itself', async () => {
  await using database = await groupDatabase();
  await using connection = await database.connect();
  await connection.query('create table t (n int); insert into t values (1), (2)');
  await backup(database, '20260101T000000Z-00000001.varvebackup');
  await backup(database, '20260102T000000Z-00000002.varvebackup');
  await writeFile(join(folder, database.name, '20260103T000000Z-00000003.varvebackup'), 'no backup');
  const listed = await listBackups(folder, database.name);
  expect(
    listed.map(({ fileName, summary, error }) => [fileName.slice(0, 8), summary?.end.rowCount, error?.code]),
  ).toEqual([
    ['20260103', undefined, 'BACKUP_DAMAGED'],
    ['20260102', 2, undefined],
    ['20260101', 2, undefined],
  ]);
  expect(await listBackups(folder, 'no such')).toEqual([]);
  expect(await listBackups(join(folder, 'no such folder'))).toEqual([]);
  expect(serverEndpoint().database).not.toBe(database.name);
});

test('memory does not grow with the database', async () => {
  await using database = await groupDatabase();
  await using connection = await database.connect();
  await connection.query('create table big (n int, t text)');
  await connection.query(
    `insert into big select i, repeat('x', 2000) || i from generate_series(1, 50000) i`,
    [],
    { timeoutMs: 60_000 },
  );
  const before = process.memoryUsage().rss;
  let peak = before;
  const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage().rss)), 5);
  try {
    const file = await backup(database);
    expect(file.end.rowCount).toBe(50_000);
    expect(file.sizeBytes).toBeLessThan(30_000_000);
    await using target = await groupDatabase();
    await restoreDatabase({ path: file.path, target: target.endpoint });
  } finally {
    clearInterval(timer);
  }
  expect(peak - before).toBeLessThan(80_000_000);
});
