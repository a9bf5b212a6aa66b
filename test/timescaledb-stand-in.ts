import { chmod, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * A stand-in for extension `timescaledb`, because no package registry has the real one: the name, the schemas,
 * the catalog tables and functions that Varve has to do with, and the update to 2.14 with its check, in plain
 * SQL. What it cannot show: anything that lives in TimescaleDB's C code, and its own SECURITY LABEL provider.
 */

/** The catalog of 2.0 to 2.13, where it matters to multi-node, and what its API leaves in its schema. */
const WITH_MULTI_NODE = `
create schema _timescaledb_catalog;
create schema _timescaledb_functions;
create table _timescaledb_catalog.metadata (
  key name primary key, value text not null, include_in_telemetry boolean not null);
insert into _timescaledb_catalog.metadata values ('uuid', gen_random_uuid()::text, true);
create table _timescaledb_catalog.hypertable (
  id serial primary key, schema_name name not null, table_name name not null,
  replication_factor smallint check (replication_factor > 0 or replication_factor = -1));
create table _timescaledb_catalog.hypertable_data_node (
  hypertable_id integer not null, node_hypertable_id integer, node_name name not null,
  block_chunks boolean not null default false);
create foreign data wrapper timescaledb_fdw;
create function @extschema@.add_data_node(node_name name, host text, database name default null,
  port integer default null, if_not_exists boolean default false, bootstrap boolean default true,
  password text default null)
  returns boolean language sql as 'select false';
grant usage on schema _timescaledb_catalog to public;
grant select on all tables in schema _timescaledb_catalog to public;
`;

/** Of 2.14 and newer. */
const SINGLE_NODE = `
create schema _timescaledb_catalog;
create schema _timescaledb_functions;
create table _timescaledb_catalog.metadata (
  key name primary key, value text not null, include_in_telemetry boolean not null);
insert into _timescaledb_catalog.metadata values ('uuid', gen_random_uuid()::text, true);
create table _timescaledb_catalog.hypertable (
  id serial primary key, schema_name name not null, table_name name not null);
grant usage on schema _timescaledb_catalog to public;
grant select on all tables in schema _timescaledb_catalog to public;
`;

/** The check that opens the real update, with its three reasons to refuse, in that order. */
const UPDATE_TO_2_14 = `
do $$
declare
  reason text;
begin
  select 'The following distributed hypertables should be migrated to regular: '
      || string_agg(format('%I.%I', schema_name, table_name), ', ') into reason
    from _timescaledb_catalog.hypertable where replication_factor > 0;
  if reason is null then
    select 'The following data nodes should be removed: ' || string_agg(format('%I', s.srvname), ', ') into reason
      from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw where w.fdwname = 'timescaledb_fdw';
  end if;
  if reason is null and exists (select from _timescaledb_catalog.metadata where key = 'dist_uuid') then
    reason := 'This node appears to be part of a multi-node installation';
  end if;
  if reason is not null then
    raise exception 'cannot upgrade because multi-node has been removed in 2.14.0'
      using errcode = 'feature_not_supported', detail = reason;
  end if;
end
$$;
drop function @extschema@.add_data_node;
drop foreign data wrapper timescaledb_fdw;
drop table _timescaledb_catalog.hypertable_data_node;
alter table _timescaledb_catalog.hypertable drop column replication_factor;
`;

/**
 * Offers exactly these versions below `folder`, an entry of `extension_control_path`, and the update from 2.13.1
 * to 2.14.0 where both are among them. Takes effect at once.
 */
export async function offerTimescale(folder: string, versions: readonly string[]): Promise<void> {
  const target = join(folder, 'extension');
  await mkdir(target, { recursive: true });
  // The server may be another user.
  await chmod(folder, 0o755);
  for (const name of await readdir(target)) await rm(join(target, name));
  const [newest] = versions;
  if (newest === undefined) return;
  const control = `comment = 'a stand-in'\ndefault_version = '${newest}'\nrelocatable = false\ntrusted = true\n`;
  await writeFile(join(target, 'timescaledb.control'), control);
  for (const version of versions) {
    const minor = Number(version.split('.')[1]);
    const script = minor < 14 ? WITH_MULTI_NODE : SINGLE_NODE;
    await writeFile(join(target, `timescaledb--${version}.sql`), script);
  }
  if (versions.includes('2.13.1') && versions.includes('2.14.0'))
    await writeFile(join(target, 'timescaledb--2.13.1--2.14.0.sql'), UPDATE_TO_2_14);
}
