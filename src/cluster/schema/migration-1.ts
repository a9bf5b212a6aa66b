import type { Migration } from './migration.ts';

/**
 * The control database as it was first. Ids grow with time where the server can (`uuidv7`, from 18 on), so
 * that rows of one node and moment lie together; they are drawn without a sequence, because sequences are not
 * replicated. Every time has a zone. Secrets stand in columns named `…_sealed` and nowhere else
 * (see `secret-key.ts`).
 *
 * Source of the names: RDPG, `rdpg/schema.go`. Not taken over: `rdpg.consul_watch_notifications` (what a watch
 * saw is a row of `rdpg.events`) and `cfsb.instances.dbpass` (a database has no password, each binding has).
 */
export const MIGRATION_1: Migration = {
  version: 1,
  name: 'schemas, tables and functions',
  statements: [
    ...['rdpg', 'cfsb', 'tasks', 'backups', 'metrics', 'audit'].map(
      (schema) => `create schema if not exists ${schema}`,
    ),
    // Each server decides by its own version: members of one group may have different ones for a while.
    `do $do$
begin
  execute format('create or replace function rdpg.new_id() returns uuid language sql volatile as %L',
    case when current_setting('server_version_num')::integer >= 180000
      then 'select pg_catalog.uuidv7()' else 'select pg_catalog.gen_random_uuid()' end);
end
$do$`,
    `create table rdpg.schema_version (
  version integer primary key,
  name text not null,
  sha256 text not null,
  applied_at timestamptz not null default now()
)`,
    `create table rdpg.config (
  cluster_id text not null,
  key text not null,
  value text not null,
  updated_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  primary key (cluster_id, key)
)`,
    `create table rdpg.events (
  id uuid primary key default rdpg.new_id(),
  created_at timestamptz not null default now(),
  host text not null,
  key text not null,
  msg text not null,
  detail jsonb not null default '{}'
)`,
    'create index events_created_at on rdpg.events (created_at)',
    ...catalogTables(),
    ...instanceTables(),
    ...taskTables(),
    ...backupTables(),
    ...watchingTables(),
    disableDatabase(),
  ],
};

function catalogTables(): string[] {
  return [
    `create table cfsb.services (
  id uuid primary key default rdpg.new_id(),
  service_id text not null unique default gen_random_uuid(),
  name text not null unique,
  description text not null,
  bindable boolean not null default true,
  tags text[] not null default '{}',
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  effective_at timestamptz not null default now(),
  ineffective_at timestamptz
)`,
    `create table cfsb.plans (
  id uuid primary key default rdpg.new_id(),
  service_id text not null references cfsb.services (service_id),
  plan_id text not null unique default gen_random_uuid(),
  cluster_service text not null check (cluster_service in ('postgresql', 'replicated')),
  name text not null,
  description text not null,
  free boolean not null default true,
  created_at timestamptz not null default now(),
  effective_at timestamptz not null default now(),
  ineffective_at timestamptz,
  unique (service_id, name)
)`,
  ];
}

function instanceTables(): string[] {
  return [
    // created → effective_at (in the pool) → assigned_at → ineffective_at → decommissioned_at (dropped).
    `create table cfsb.instances (
  id uuid primary key default rdpg.new_id(),
  cluster_service text not null,
  cluster_id text not null,
  instance_id text,
  service_id text,
  plan_id text,
  organization_id text,
  space_id text,
  request jsonb,
  dbname text not null unique,
  dbuser text not null,
  created_at timestamptz not null default now(),
  effective_at timestamptz,
  assigned_at timestamptz,
  ineffective_at timestamptz,
  decommissioned_at timestamptz,
  check (assigned_at is null or (instance_id is not null and effective_at is not null)),
  check (decommissioned_at is null or ineffective_at is not null)
)`,
    `create unique index instances_instance_id on cfsb.instances (instance_id)
  where instance_id is not null and decommissioned_at is null`,
    `create index instances_available on cfsb.instances (cluster_service, effective_at)
  where instance_id is null and ineffective_at is null`,
    `create table cfsb.bindings (
  id uuid primary key default rdpg.new_id(),
  instance_id text not null,
  binding_id text not null,
  request jsonb not null default '{}',
  created_at timestamptz not null default now(),
  effective_at timestamptz,
  ineffective_at timestamptz
)`,
    'create unique index bindings_binding_id on cfsb.bindings (instance_id, binding_id) where ineffective_at is null',
    `create table cfsb.credentials (
  id uuid primary key default rdpg.new_id(),
  instance_id text not null,
  binding_id text not null,
  host text not null,
  port integer not null,
  dbuser text not null unique,
  dbpass_sealed text not null,
  dbname text not null,
  created_at timestamptz not null default now(),
  effective_at timestamptz,
  ineffective_at timestamptz
)`,
    `create unique index credentials_binding_id on cfsb.credentials (instance_id, binding_id)
  where ineffective_at is null`,
    `create table cfsb.operations (
  id uuid primary key default rdpg.new_id(),
  instance_id text not null,
  kind text not null check (kind in ('provision', 'deprovision')),
  state text not null default 'in progress' check (state in ('in progress', 'succeeded', 'failed')),
  request jsonb not null default '{}',
  description text not null default '',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deadline timestamptz
)`,
    `create unique index operations_in_progress on cfsb.operations (instance_id) where state = 'in progress'`,
    'create index operations_instance_id on cfsb.operations (instance_id, created_at)',
  ];
}

function taskTables(): string[] {
  return [
    `create table tasks.schedules (
  id uuid primary key default rdpg.new_id(),
  cluster_id text not null,
  cluster_service text not null,
  role text not null check (role in ('all', 'manager', 'service')),
  action text not null,
  data text not null default '',
  frequency interval not null default '1 hour' check (frequency > interval '0'),
  ttl integer not null default 3600 check (ttl > 0),
  node_type text not null default 'any' check (node_type in ('any', 'read', 'write', 'each')),
  enabled boolean not null default true,
  last_scheduled_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  unique (cluster_id, action, data, node_type)
)`,
    `create table tasks.tasks (
  id uuid primary key default rdpg.new_id(),
  schedule_id uuid,
  cluster_id text not null,
  cluster_service text not null,
  node text not null default '*',
  role text not null,
  action text not null,
  data text not null default '',
  ttl integer not null default 3600 check (ttl > 0),
  node_type text not null default 'any' check (node_type in ('any', 'read', 'write')),
  state text not null default 'queued' check (state in ('queued', 'running', 'waiting')),
  attempt integer not null default 0,
  max_attempts integer not null default 5 check (max_attempts > 0),
  run_after timestamptz not null default now(),
  locked_by text,
  lease_token uuid,
  lease_until timestamptz,
  heartbeat_at timestamptz,
  processing_at timestamptz,
  last_error text,
  created_at timestamptz not null default now(),
  check ((state = 'running') = (lease_token is not null)),
  check ((lease_token is null) = (lease_until is null))
)`,
    // What is asked for twice before it is done is done once.
    'create unique index tasks_open on tasks.tasks (cluster_id, action, data, node)',
    'create index tasks_first_in_first_out on tasks.tasks (created_at, id)',
    `create table tasks.history (
  id uuid primary key,
  schedule_id uuid,
  cluster_id text not null,
  node text not null,
  role text not null,
  action text not null,
  data text not null,
  outcome text not null check (outcome in ('done', 'failed', 'expired')),
  attempt integer not null,
  worker text,
  error text,
  result jsonb,
  created_at timestamptz not null,
  processing_at timestamptz,
  finished_at timestamptz not null default now(),
  duration_ms bigint
)`,
    'create index history_finished_at on tasks.history (finished_at)',
  ];
}

function backupTables(): string[] {
  return [
    `create table backups.file_history (
  id uuid primary key default rdpg.new_id(),
  cluster_id text not null,
  dbname text not null,
  node text not null,
  file_name text not null,
  action text not null check (action in ('CreateBackup', 'RemoveBackup', 'RestoreBackup')),
  status text not null check (status in ('ok', 'error')),
  params jsonb not null default '{}',
  size_bytes bigint,
  sha256 text,
  created_at timestamptz not null default now(),
  duration_ms bigint,
  removed_at timestamptz
)`,
    // A task that is carried out again finds its file and its row.
    `create unique index file_history_created on backups.file_history (node, file_name)
  where action = 'CreateBackup' and status = 'ok'`,
    'create index file_history_dbname on backups.file_history (dbname, created_at)',
    `create table backups.retention_rules (
  dbname text not null,
  hours double precision not null check (hours >= 0),
  keep_count integer not null default 1 check (keep_count >= 1),
  is_remote_rule boolean not null default false,
  primary key (dbname, is_remote_rule)
)`,
  ];
}

function watchingTables(): string[] {
  return [
    `create table metrics.databases (
  id uuid primary key default rdpg.new_id(),
  measured_at timestamptz not null default now(),
  node text not null,
  dbname text not null,
  size_bytes bigint not null,
  connection_count integer not null,
  committed_count bigint not null,
  rolled_back_count bigint not null
)`,
    'create index databases_measured_at on metrics.databases (measured_at)',
    `create table metrics.vacuums (
  id uuid primary key default rdpg.new_id(),
  measured_at timestamptz not null default now(),
  node text not null,
  dbname text not null,
  relation text not null,
  method text not null check (method in ('pgstattuple', 'estimate')),
  is_full boolean not null,
  size_before_bytes bigint not null,
  size_after_bytes bigint not null,
  bloat_before_bytes bigint not null,
  bloat_after_bytes bigint not null,
  duration_ms bigint not null
)`,
    'create index vacuums_measured_at on metrics.vacuums (measured_at)',
    `create table audit.log (
  id uuid primary key default rdpg.new_id(),
  at timestamptz not null default now(),
  cluster_id text not null,
  node text not null,
  actor text not null,
  origin jsonb,
  request_id text,
  action text not null,
  target text not null,
  outcome text not null check (outcome in ('ok', 'refused', 'error')),
  detail jsonb not null default '{}'
)`,
    'create index log_at on audit.log (at)',
    'create index log_target on audit.log (target, at)',
  ];
}

/**
 * Cuts a database of this server off: no new sessions, no apply workers, no sessions, no slots. What stays is
 * the database itself and its subscriptions' rows, which only `drop subscription` from within removes; so a
 * member is called after its own subscriptions were dropped, where the database is to go.
 *
 * `allow_connections false` alone would not do: apply workers do not ask for it. The slots are dropped last,
 * because a worker of a peer takes its slot again as long as it is let in.
 */
function disableDatabase(): string {
  return `create or replace function rdpg.disable_database(name text) returns void language plpgsql as $function$
declare
  slot record;
  until timestamptz := clock_timestamp() + interval '10 seconds';
begin
  if name in ('postgres', 'rdpg', 'health', 'template0', 'template1', current_database()) then
    raise exception 'database "%" cannot be disabled: it belongs to the group itself', name
      using errcode = '42501';
  end if;
  if not exists (select from pg_catalog.pg_database where datname = name) then
    return;
  end if;
  execute format('alter database %I allow_connections false', name);
  execute format('alter database %I owner to rdpg', name);
  update pg_catalog.pg_subscription set subenabled = false
   where subdbid = (select oid from pg_catalog.pg_database where datname = name) and subenabled;
  loop
    perform pg_catalog.pg_terminate_backend(pid)
       from pg_catalog.pg_stat_activity where datname = name and pid <> pg_backend_pid();
    for slot in
      select slot_name from pg_catalog.pg_replication_slots where database = name and not active
    loop
      begin
        perform pg_catalog.pg_drop_replication_slot(slot.slot_name);
      exception when object_in_use or undefined_object then
        null; -- Taken or dropped by another meanwhile: the next round sees it.
      end;
    end loop;
    perform pg_catalog.pg_stat_clear_snapshot();
    exit when not exists (select from pg_catalog.pg_replication_slots where database = name)
      and not exists (select from pg_catalog.pg_stat_activity where datname = name);
    if clock_timestamp() > until then
      raise exception 'database "%" still has sessions or slots after 10 seconds', name
        using errcode = '55006';
    end if;
    perform pg_catalog.pg_sleep(0.05);
  end loop;
end
$function$`;
}
