-- Catalog. Functions for users live in the extension's schema, catalog and views always in schema `varve`.
-- Nothing here needs a superuser and nothing is required of other extensions: a data node gets this extension
-- from a role that merely owns the database.

do $$
begin
  -- TimescaleDB before 2.14 has functions of the same names and arguments.
  if exists (select from pg_catalog.pg_proc
      where proname = 'add_data_node' and pronamespace = pg_catalog.to_regnamespace('@extschema@')) then
    raise exception 'schema @extschema@ has a function add_data_node already' using errcode = '42723',
      hint = 'Another extension has it, or you. Give this one a schema of its own: CREATE SCHEMA varve; CREATE EXTENSION varve SCHEMA varve.';
  end if;
  if '@extschema@' <> 'varve' then
    create schema varve;
  end if;
end
$$;

-- Who this database is, and to which distributed database it belongs. One row.
--   dist_id null          : no member
--   dist_id = uuid        : access database
--   dist_id anything else : data node of the access database with that uuid
create table varve.identity (
  only_row boolean primary key default true check (only_row),
  uuid uuid not null default gen_random_uuid(),
  dist_id uuid,
  dist_owner text,
  dist_token uuid,
  dist_made jsonb
);
comment on column varve.identity.dist_owner is 'where the access database is, in words, for error messages';
comment on column varve.identity.dist_token is 'the call that set dist_id';
comment on column varve.identity.dist_made is 'what that call made here, so that it can be taken back';
insert into varve.identity default values;

-- How functions reach the daemon. The secret lets its reader speak for any role: nobody but the owner reads it.
create table varve.endpoint (
  only_row boolean primary key default true check (only_row),
  host text not null,
  port integer not null,
  secret text not null
);

-- A server that the daemon runs has the address in a file of its data folder, so that the functions of a new
-- database work from the first statement on. Elsewhere the daemon writes the row.
do $$
declare
  address jsonb;
begin
  address := pg_catalog.pg_read_file('varve/endpoint.json', 0, 65536, true)::jsonb;
  if address is not null then
    insert into varve.endpoint (host, port, secret)
      values (address ->> 'host', (address ->> 'port')::integer, address ->> 'secret');
  end if;
exception
  when insufficient_privilege then null;
end
$$;

-- Filled only where the objects were made by script instead of `create extension`: the same facts that
-- pg_extension holds otherwise.
create table varve.installation (
  only_row boolean primary key default true check (only_row),
  version text not null,
  schema name not null,
  owner name not null,
  routines text[] not null default '{}'
);
comment on column varve.installation.routines is 'those outside of schema varve, to be dropped with it';

-- The registry of data nodes. These rows are the truth; foreign servers and user mappings are derived.
create table varve.data_node (
  node_name name primary key,
  host text not null,
  port integer not null check (port between 1 and 65535),
  database name not null,
  node_uuid uuid not null unique,
  owner name not null,
  available boolean not null default true,
  token uuid not null unique,
  added_at timestamptz not null default now()
);
comment on column varve.data_node.node_uuid is 'varve.identity.uuid of the database on the data node';
comment on column varve.data_node.token is 'the add_data_node call that made this row';

-- One row for each call whose work outside of this database waits for the caller's transaction to end: it is
-- written in that transaction, so it is there exactly if the transaction, and every savepoint around the call,
-- was committed. The daemon removes it when it has settled the call.
create table varve.operation (
  id uuid primary key,
  xid xid8 not null default pg_current_xact_id(),
  begun_at timestamptz not null default now()
);
