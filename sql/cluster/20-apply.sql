-- How a statement of the queue is carried out on the other members.

-- Roles as other members have to know them before a statement may name them: no passwords, those are brought by
-- the daemon. Roles of the group itself and of PostgreSQL stay out.
create or replace function varve_group._is_internal(role name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$ select starts_with(role, 'pg_') or role in ('rdpg', 'health')
  or exists (select from pg_roles r where r.rolname = role and r.oid = 10) $$;

create or replace function varve_group._roles() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('name', r.rolname, 'superuser', r.rolsuper, 'inherit', r.rolinherit,
      'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb, 'login', r.rolcanlogin,
      'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
      'memberOf', (select coalesce(jsonb_agg(distinct g.rolname order by g.rolname), '[]')
        from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid))
      order by r.rolname), '[]')
  from pg_roles r where not varve_group._is_internal(r.rolname)
$$;

-- What a role may, as it stands in CREATE ROLE and ALTER ROLE.
create or replace function varve_group._role_attributes(role jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ',
    case when (role ->> 'superuser')::boolean then 'superuser' else 'nosuperuser' end,
    case when (role ->> 'inherit')::boolean then 'inherit' else 'noinherit' end,
    case when (role ->> 'createrole')::boolean then 'createrole' else 'nocreaterole' end,
    case when (role ->> 'createdb')::boolean then 'createdb' else 'nocreatedb' end,
    case when (role ->> 'login')::boolean then 'login' else 'nologin' end,
    case when (role ->> 'replication')::boolean then 'replication' else 'noreplication' end,
    case when (role ->> 'bypassrls')::boolean then 'bypassrls' else 'nobypassrls' end)
$$;

-- Makes the roles that are missing here, with their memberships. What is there already is the daemon's matter.
create or replace function varve_group._make_roles(roles jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  role jsonb;
  parent text;
begin
  for role in
    select e from jsonb_array_elements(roles) e where not exists (select from pg_roles r where r.rolname = e ->> 'name')
  loop
    begin
      execute format('create role %I %s', role ->> 'name', varve_group._role_attributes(role));
      execute 'insert into varve_group.copied_role (role) values ($1) on conflict do nothing' using role ->> 'name';
    exception
      -- Roles are of the whole server: another of its databases, which is filled at the same time, was faster.
      when unique_violation or duplicate_object then null;
    end;
  end loop;
  for role in select e from jsonb_array_elements(roles) e loop
    for parent in
      select p from jsonb_array_elements_text(role -> 'memberOf') p
      where exists (select from pg_roles r where r.rolname = p)
        and not exists (select from pg_auth_members m join pg_roles g on g.oid = m.roleid
          join pg_roles r on r.oid = m.member where g.rolname = p and r.rolname = role ->> 'name')
    loop
      begin
        execute format('grant %I to %I', parent, role ->> 'name');
      exception
        when unique_violation then null;
      end;
    end loop;
  end loop;
end
$$;

-- A value of search_path as a list that can stand in a command.
create or replace function varve_group._path_list(path text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(string_agg(case when m[1] is not null then quote_ident(replace(m[1], '""', '"')) else quote_ident(lower(m[2])) end, ', '), '''''')
  from regexp_matches(path, '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g') m
$$;

-- Settings that change what a statement means. Everybody may set them.
create or replace function varve_group._setting_names() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select array['TimeZone', 'DateStyle', 'IntervalStyle', 'standard_conforming_strings', 'backslash_quote',
  'check_function_bodies', 'array_nulls', 'bytea_output', 'xmloption', 'transform_null_equals',
  'default_text_search_config', 'default_toast_compression', 'default_table_access_method', 'lc_monetary',
  'lc_numeric', 'lc_time'] $$;

-- Carries a statement out as the role that issued it, with its settings. It runs inside of a function that belongs
-- to that role, because nothing in such a function can take on another role: whoever runs it here is a superuser.
create or replace function varve_group._execute(q varve_group.ddl_queue) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off'
as $$
declare
  options text := (
    select coalesce(string_agg(format(' set %s = %L', s.key, s.value), ''), '')
    from jsonb_each_text(q.settings - 'search_path') s
    where s.key = any (varve_group._setting_names())
      and exists (select from pg_settings p where lower(p.name) = lower(s.key)));
begin
  execute format($f$create or replace function varve_group.statement(statement text) returns void language plpgsql
    security definer set search_path = %s set varve_group.ddl = 'off' %s as 'begin execute statement; end'$f$,
    varve_group._path_list(q.settings ->> 'search_path'), options);
  execute format('alter function varve_group.statement(text) owner to %I', q.role);
  perform varve_group.statement(q.statement);
  drop function varve_group.statement(text);
end
$$;

-- `default now()` of a new column gives rows that were there the time of the ALTER TABLE, which is another one here.
create or replace function varve_group._fill_missing(missing jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set datestyle = 'ISO' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = 3 set bytea_output = 'hex'
as $$
declare
  cell record;
begin
  for cell in
    select c.oid::regclass as relation, a.attname as name, format_type(a.atttypid, a.atttypmod) as type, m.value
    from jsonb_to_recordset(missing) as m("schema" name, "table" name, "column" name, value text)
      join pg_namespace n on n.nspname = m.schema join pg_class c on c.relnamespace = n.oid and c.relname = m.table
      join pg_attribute a on a.attrelid = c.oid and a.attname = m.column
    where not a.atthasmissing or (a.attmissingval::text::text[])[1] is distinct from m.value
  loop
    execute format('update only %s set %I = %L::%s', cell.relation, cell.name, cell.value, cell.type);
  end loop;
end
$$;

-- Objects that have another owner than on the write master, because REASSIGN OWNED is seen by nobody.
create or replace function varve_group._align_owners(owners jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off'
as $$
declare
  object record;
begin
  for object in select * from jsonb_to_recordset(owners) as o(type text, identity text, owner name) loop
    begin
      execute format('alter %s %s owner to %I', object.type, object.identity, object.owner);
    exception
      -- Not there yet, or not there at all: the statement itself will tell.
      when others then null;
    end;
  end loop;
end
$$;

-- As the role that typed it. Where that role lacks a right here that it had there (REASSIGN OWNED, or a membership
-- that is on its way), owners are aligned; and what computes nothing is carried out for it.
create or replace function varve_group._execute_with_rights(q varve_group.ddl_queue) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform varve_group._execute(q);
exception
  when insufficient_privilege then
    perform varve_group._align_owners(q.owners);
    begin
      perform varve_group._execute(q);
    exception
      when insufficient_privilege then
        if q.tag not like 'DROP %' and q.tag not in ('GRANT', 'REVOKE', 'COMMENT') then
          raise;
        end if;
        q.role := current_user;
        perform varve_group._execute(q);
    end;
end
$$;

create or replace function varve_group.apply_ddl(q varve_group.ddl_queue) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off'
as $$
begin
  if q.roles is not null then
    perform varve_group._make_roles(q.roles);
  end if;
  perform varve_group._execute_with_rights(q);
  perform varve_group._fill_missing(q.missing);
  perform varve_group.adopt_tables();
end
$$;

-- On a joiner: the next statement of the donor's queue, whose row will come with the content. In a transaction of
-- its own, because what one statement makes (a value of an enumeration) another may use only after a commit.
create or replace function varve_group.replay_ddl(entry jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off'
as $$
declare
  q varve_group.ddl_queue := jsonb_populate_record(null::varve_group.ddl_queue, entry);
begin
  if q.id > (select l.replayed from varve_group.local l) then
    perform varve_group.apply_ddl(q);
    update varve_group.local set replayed = q.id;
  end if;
end
$$;

create or replace function varve_group._on_queued() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if new.id > (select l.replayed from varve_group.local l) then
    perform varve_group.apply_ddl(new);
  end if;
  perform setval('varve_group.ddl_queue_id_seq', new.id)
    where new.id > (select s.last_value from varve_group.ddl_queue_id_seq s);
  return null;
end
$$;
drop trigger if exists varve_ddl on varve_group.ddl_queue;
create trigger varve_ddl after insert on varve_group.ddl_queue for each row execute function varve_group._on_queued();
alter table varve_group.ddl_queue enable replica trigger varve_ddl;
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
