-- What every replicated database of a group has besides its content: who it is in the group, the queue of DDL, and
-- which tables are replicated. Made by src/cluster/ddl/install.ts, in one transaction; every statement may be
-- repeated. Nothing of it travels by itself: each member installs it.

create schema if not exists varve_group;

-- This member's own facts; never replicated.
create table if not exists varve_group.local (
  only_row boolean primary key default true check (only_row),
  group_uuid uuid not null,
  node text not null,
  -- Who may write, as far as this member knows. Null: nobody is known, and nobody is refused.
  master text,
  -- Rows of the queue up to this number are in the schema that a joiner was given: the copy brings them again.
  replayed bigint not null default 0
);

-- Every statement that changed the structure, in the order of the commits: what a member that was away catches up
-- with, and what a joiner replays.
create table if not exists varve_group.ddl_queue (
  id bigint primary key,
  at timestamptz not null default pg_catalog.clock_timestamp(),
  node text not null,
  role name not null,
  tag text not null,
  statement text not null,
  settings jsonb not null default '{}',
  -- Of columns that were added with a default: what rows that were there have. [{"table", "column", "value"}, …]
  missing jsonb not null default '[]',
  -- All roles as of this statement, where they have changed since the last one that tells.
  roles jsonb
);
-- Who owned what it touched, for members on which REASSIGN OWNED was not seen. [{"type", "identity", "owner"}, …]
alter table varve_group.ddl_queue add column if not exists owners jsonb not null default '[]';
-- What it dropped, without what is part of something else: by that the queue is made shorter. Null where it was not
-- told. [{"type", "identity"}, …]
alter table varve_group.ddl_queue add column if not exists dropped jsonb;
create sequence if not exists varve_group.ddl_queue_id_seq;

-- A row whose arrival elsewhere shows that everything before it has arrived.
create table if not exists varve_group.barrier (
  token uuid primary key,
  node text not null,
  at timestamptz not null default pg_catalog.clock_timestamp()
);

-- Tables that exist on this member only; never replicated.
create table if not exists varve_group.local_table (
  relation oid primary key
);

-- The facts of members that DDL is checked against before it is carried out; each member tells the write master.
create table if not exists varve_group.member (
  node text primary key,
  server_version integer not null,
  -- {"name": ["version", …], …}
  extensions jsonb not null,
  at timestamptz not null default pg_catalog.clock_timestamp()
);

-- A number that only grows, of the transaction of each statement; taken under a lock that is held to the commit.
create or replace function varve_group._lock_ddl() returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select pg_advisory_xact_lock(1986097782, 1684302960) $$;

-- For the time of a join: no DDL is committed while this session holds the lock.
create or replace function varve_group.hold_ddl() returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select pg_advisory_lock(1986097782, 1684302960) $$;

create or replace function varve_group.release_ddl() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select pg_advisory_unlock(1986097782, 1684302960) $$;

-- Tables whose rows are replicated, with the columns where not all of them are. Ordinary tables and partitions, but
-- none of an extension: its script fills them on every member. Extension varve says itself which of its tables are
-- the group's.
create or replace function varve_group._published()
returns table (relation regclass, columns text, is_new boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  publication oid := (select p.oid from pg_publication p where p.pubname = 'varve');
begin
  return query
    select c.oid::regclass, null::text, r.oid is null
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
      left join pg_publication_rel r on r.prrelid = c.oid and r.prpubid = publication
    where c.relkind = 'r' and c.relpersistence = 'p'
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'varve')
      and (n.nspname <> 'varve_group' or c.relname in ('ddl_queue', 'barrier'))
      and not exists (select from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
      and not exists (select from varve_group.local_table l where l.relation = c.oid);
  if to_regprocedure('varve._group_tables()') is not null then
    return query execute 'select t.relation, t.columns, r.oid is null
      from varve._group_tables() t
        left join pg_publication_rel r on r.prrelid = t.relation and r.prpubid = $1' using publication;
  end if;
end
$$;

-- A table without a key: rows are told apart by all of their columns, where they can be compared.
create or replace function varve_group._identify(tables regclass[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  relation regclass;
begin
  for relation in
    select c.oid::regclass from pg_class c
    where c.oid = any (tables) and c.relreplident = 'd'
      and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
      and not exists (
        select from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
          and not exists (
            select from pg_opclass o join pg_am m on m.oid = o.opcmethod
            where m.amname in ('btree', 'hash') and o.opcdefault
              and (o.opcintype = a.atttypid
                or o.opcintype = (select t.typbasetype from pg_type t where t.oid = a.atttypid and t.typtype = 'd')
                or (select t.typtype = 'e' from pg_type t where t.oid = a.atttypid)
                or (select t.typcategory = 'A' from pg_type t where t.oid = a.atttypid) and o.opcintype = 'anyarray'::regtype
                or exists (select from pg_cast k where k.castsource = a.atttypid and k.casttarget = o.opcintype
                  and k.castmethod = 'b'))))
  loop
    execute format('alter table only %s replica identity full', relation);
  end loop;
end
$$;

-- Brings publication and subscriptions up to the tables that are there: what is new is published, and taken from the
-- other members from the next row on (state 'r': there is nothing to copy, whoever made it here made it there).
create or replace function varve_group.adopt_tables() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off'
as $$
declare
  added text;
  tables regclass[];
begin
  delete from varve_group.local_table l where not exists (select from pg_class c where c.oid = l.relation);
  select string_agg(format('only %s %s', p.relation, coalesce('(' || p.columns || ')', '')), ', ' order by p.relation::oid),
      array_agg(p.relation)
    into added, tables from varve_group._published() p where p.is_new;
  if added is not null then
    execute 'alter publication varve add table ' || added;
  end if;
  perform varve_group._identify(array(select c.oid::regclass from pg_class c join pg_publication_rel r on r.prrelid = c.oid
    join pg_publication p on p.oid = r.prpubid where p.pubname = 'varve' and c.relreplident = 'd'));
  insert into pg_subscription_rel (srsubid, srrelid, srsubstate)
    select s.oid, r.prrelid, 'r'
    from pg_subscription s, pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname = 'varve' and 'varve' = any (s.subpublications)
      and s.subdbid = (select d.oid from pg_database d where d.datname = current_database())
      and not exists (select from pg_subscription_rel x where x.srsubid = s.oid and x.srrelid = r.prrelid);
end
$$;

do $$
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'varve') then
    create publication varve;
  end if;
end
$$;

revoke all on schema varve_group from public;
grant usage on schema varve_group to public;
revoke all on all tables in schema varve_group from public;
revoke execute on all functions in schema varve_group from public;

-- Who may write, for error messages and for people. Null where no master is known.
create or replace function varve_group.write_master() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select l.master from varve_group.local l $$;
create or replace function varve_group.is_write_master() returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select coalesce((select l.master is null or l.master = l.node from varve_group.local l), true) $$;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
