import { expect, test } from 'vitest';
import { connect, testDatabase, serverEndpoint } from '../../../test/database.ts';
import { clusterServiceOf, defaultSchedules } from './default-rows.ts';
import { controlSchemaState, installControlSchema, type InstallOptions } from './install.ts';
import { CONTROL_SCHEMA } from './migrations.ts';

const options: InstallOptions = {
  shape: { cluster: 'main', kind: 'service', replicated: true },
  keyFingerprint: '0123456789abcdef',
};

/** Everything that the schema has, as one text. */
const CONTENT = `select string_agg(line, e'\\n' order by line) as content from (
  select format('%s.%s.%s %s', table_schema, table_name, column_name, data_type) as line
    from information_schema.columns where table_schema in ('rdpg','cfsb','tasks','backups','metrics','audit')
  union all select format('%s %s %s %s', action, data, node_type, frequency) from tasks.schedules
  union all select format('%s=%s', key, value) from rdpg.config
  union all select name from cfsb.plans union all select name from cfsb.services) as lines`;

test('an empty database gets schemas, tables, rows and last of all the version', async () => {
  await using database = await testDatabase();
  await using connection = await database.connect();
  expect(await controlSchemaState(connection)).toBeUndefined();
  expect(await installControlSchema(connection, options)).toEqual(CONTROL_SCHEMA);
  expect(await controlSchemaState(connection)).toEqual(CONTROL_SCHEMA);
  const { rows } = await connection.query<{ action: string; every: string; type: string }>(
    'select action, frequency::text as every, node_type as type from tasks.schedules where cluster_service = $1',
    [clusterServiceOf(options.shape)],
  );
  expect(rows).toHaveLength(defaultSchedules(options.shape).length);
  expect(rows).toContainEqual({ action: 'PrecreateDatabases', every: '00:01:00', type: 'write' });
  const plans = await connection.query<{ name: string }>('select name from cfsb.plans order by name');
  expect(plans.rows.map(({ name }) => name)).toEqual(['shared', 'shared-nr']);
});

test('installing again changes nothing, not even what people have changed', async () => {
  await using database = await testDatabase();
  await using connection = await database.connect();
  await installControlSchema(connection, options);
  await connection.query(`update tasks.schedules set frequency = '7 days' where action = 'Vacuum'`);
  await connection.query(`update rdpg.config set value = '3' where key = 'poolSize'`);
  const before = await connection.one(CONTENT);
  await installControlSchema(connection, options);
  expect(await connection.one(CONTENT)).toEqual(before);
});

test('ten at once install it once', async () => {
  await using database = await testDatabase();
  const connections = await Promise.all(Array.from({ length: 10 }, () => database.connect()));
  try {
    await Promise.all(connections.map((one) => installControlSchema(one, options)));
    await using counting = await database.connect();
    const { n } = await counting.one<{ n: string }>('select count(*) as n from tasks.schedules');
    expect(Number(n)).toBe(defaultSchedules(options.shape).length);
  } finally {
    for (const one of connections) await one.close();
  }
});

test('an installation that fails leaves nothing behind', async () => {
  await using database = await testDatabase();
  await using connection = await database.connect();
  await connection.query('create schema backups; create table backups.file_history ()');
  await expect(installControlSchema(connection, options)).rejects.toMatchObject({ sqlstate: '42P07' });
  const { there } = await connection.one<{ there: boolean }>(
    `select to_regnamespace('tasks') is not null as there`,
  );
  expect(there).toBe(false);
});

test('every statement goes through the queue of DDL where there is one', async () => {
  await using database = await testDatabase();
  await using connection = await database.connect();
  await connection.query(`create schema varve_group;
    create table varve_group.seen (n serial, statement text);
    create function varve_group.replicate_ddl(statement text) returns void language plpgsql as
      $f$ begin execute statement; insert into varve_group.seen (statement) values (statement); end $f$`);
  await installControlSchema(connection, options);
  const before = await connection.one(CONTENT);
  const { rows } = await connection.query<{ statement: string }>(
    'select statement from varve_group.seen order by n',
  );
  // What was queued makes the same schema elsewhere, statement by statement.
  await using other = await testDatabase();
  await using second = await other.connect();
  for (const { statement } of rows) await second.query(statement);
  await second.query(`insert into tasks.schedules select * from tasks.schedules`);
  const columns = `select format('%s.%s.%s %s', table_schema, table_name, column_name, data_type) as line
    from information_schema.columns where table_schema in ('rdpg','cfsb','tasks','backups','metrics','audit') order by 1`;
  expect((await second.query(columns)).rows).toEqual((await connection.query(columns)).rows);
  expect(JSON.stringify(before)).toContain('poolSize');
});

test('a newer schema, an edited one and another key are refused', async () => {
  await using database = await testDatabase();
  await using connection = await database.connect();
  await installControlSchema(connection, options);
  await expect(
    installControlSchema(connection, { ...options, keyFingerprint: 'ffff' }),
  ).rejects.toMatchObject({ code: 'SECRET_KEY_DIFFERS' });
  await connection.query(`insert into rdpg.schema_version values (99, 'x', 'y')`);
  await expect(installControlSchema(connection, options)).rejects.toMatchObject({ code: 'SCHEMA_NEWER' });
  await expect(controlSchemaState(connection)).rejects.toMatchObject({ code: 'SCHEMA_NEWER' });
  await connection.query(`delete from rdpg.schema_version where version = 99`);
  await connection.query(`update rdpg.schema_version set sha256 = 'edited'`);
  await expect(installControlSchema(connection, options)).rejects.toMatchObject({ code: 'SCHEMA_DIFFERS' });
});

test('a disabled database has no sessions, lets nobody in, has no slots, and can be dropped', async () => {
  await using control = await testDatabase();
  await using connection = await control.connect();
  await connection.query(
    `do $$ begin create role rdpg superuser; exception when duplicate_object then null; end $$`,
  );
  await installControlSchema(connection, options);
  await using doomed = await testDatabase();
  const session = await doomed.connect();
  const slot = `s_${doomed.name}`;
  await session.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
  await session.query('create publication p for all tables');
  await session.query(
    `create subscription sub_${doomed.name} connection 'host=127.0.0.1 port=1' publication p with (connect = false, slot_name = none)`,
  );
  await connection.query('select rdpg.disable_database($1)', [doomed.name]);
  await expect(session.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  await expect(connect(serverEndpoint(doomed.name))).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
  const left = await connection.one<{ n: string }>(
    `select count(*) as n from pg_replication_slots where database = $1`,
    [doomed.name],
  );
  expect(left.n).toBe('0');
  // Once more, and for one that is not there: nothing to do. Its own databases: refused.
  await connection.query('select rdpg.disable_database($1)', [doomed.name]);
  await connection.query(`select rdpg.disable_database('no such database')`);
  await expect(connection.query(`select rdpg.disable_database('template1')`)).rejects.toMatchObject({
    sqlstate: '42501',
  });
  // For the drop at the end of this test its subscription has to go, from within.
  await connection.query(`alter database ${doomed.name} allow_connections true`);
  await using inside = await doomed.connect();
  await inside.query(`drop subscription sub_${doomed.name}`);
});
