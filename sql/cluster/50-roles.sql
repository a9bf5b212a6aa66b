-- Roles, memberships, settings of roles and of the database, and grants on it belong to a whole server and are not in
-- the stream of changes: each member compares its own with the write master's, again and again.

-- Roles that came from the group. Only these are dropped here when the write master has them no more.
create table if not exists varve_group.copied_role (
  role name primary key
);

-- Names of settings that are each member's own: the fence of those that are not write master, and marks of Varve.
create or replace function varve_group._is_own_setting(name text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select name = 'default_transaction_read_only' or starts_with(name, 'varve_group.') $$;

create or replace function varve_group._settings() returns table (database boolean, role name, name text, value text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select s.setdatabase <> 0, r.rolname, split_part(c.line, '=', 1), substr(c.line, strpos(c.line, '=') + 1)
  from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) c(line)
  where s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
    and (s.setdatabase <> 0 or s.setrole <> 0)
    and (s.setrole = 0 or r.rolname is not null and not varve_group._is_internal(r.rolname))
    and not varve_group._is_own_setting(split_part(c.line, '=', 1))
$$;

create or replace function varve_group._memberships() returns table (role name, member name, options jsonb)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select g.rolname, r.rolname, jsonb_strip_nulls(jsonb_build_object(
    'admin', bool_or(m.admin_option),
    'inherit', bool_or((to_jsonb(m) ->> 'inherit_option')::boolean),
    'set', bool_or((to_jsonb(m) ->> 'set_option')::boolean)))
  from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member
  where not varve_group._is_internal(r.rolname)
    and (starts_with(g.rolname, 'pg_') or not varve_group._is_internal(g.rolname))
  group by 1, 2
$$;

create or replace function varve_group._database_grants() returns table (role name, privilege text, grantable boolean)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select r.rolname, a.privilege_type, bool_or(a.is_grantable)
  from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a left join pg_roles r on r.oid = a.grantee
  where d.datname = current_database() and a.grantee <> d.datdba
    and (a.grantee = 0 or r.rolname is not null and not varve_group._is_internal(r.rolname))
  group by 1, 2
$$;

-- What members copy. Passwords are as PostgreSQL keeps them; nobody here knows one in clear.
create or replace function varve_group.globals() returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if varve_group.is_write_master() then
    insert into varve_group.copied_role (role)
      select r.rolname from pg_roles r where not varve_group._is_internal(r.rolname) on conflict do nothing;
    delete from varve_group.copied_role c where not exists (select from pg_roles r where r.rolname = c.role);
  end if;
  return jsonb_build_object(
    'roles', (
      select coalesce(jsonb_object_agg(r.rolname, jsonb_build_object('superuser', r.rolsuper, 'inherit', r.rolinherit,
        'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb, 'login', r.rolcanlogin,
        'replication', r.rolreplication, 'bypassrls', r.rolbypassrls, 'connections', r.rolconnlimit,
        'password', r.rolpassword, 'until', nullif(r.rolvaliduntil, 'infinity') at time zone 'UTC')), '{}')
      from pg_authid r where not varve_group._is_internal(r.rolname)),
    'memberships', (select coalesce(jsonb_agg(m order by m.role, m.member), '[]') from varve_group._memberships() m),
    'settings', (select coalesce(jsonb_agg(s order by s.database, s.role, s.name), '[]') from varve_group._settings() s),
    'owner', (select pg_get_userbyid(d.datdba) from pg_database d
      where d.datname = current_database() and not varve_group._is_internal(pg_get_userbyid(d.datdba))),
    'grants', (select coalesce(jsonb_agg(g order by g.role, g.privilege), '[]') from varve_group._database_grants() g));
end
$$;

create or replace function varve_group._role_options(role jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' ',
    varve_group._role_attributes(role),
    'connection limit ' || (role ->> 'connections'),
    case when role ->> 'password' is null then 'password null' else format('password %L', role ->> 'password') end,
    format('valid until %L', coalesce((role ->> 'until') || case when role ->> 'until' like '%infinity' then '' else '+00' end, 'infinity')))
$$;

-- The commands that make this member's like `wanted`, in an order in which they work; `what` for people, without
-- passwords. Drops come last.
create or replace function varve_group._global_changes(wanted jsonb) returns table (what text, command text)
language sql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
  with present as (
    select r.rolname as name, jsonb_build_object('superuser', r.rolsuper, 'inherit', r.rolinherit,
        'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb, 'login', r.rolcanlogin,
        'replication', r.rolreplication, 'bypassrls', r.rolbypassrls, 'connections', r.rolconnlimit,
        'password', r.rolpassword, 'until', nullif(r.rolvaliduntil, 'infinity') at time zone 'UTC') as role
    from pg_authid r
  ), settings_wanted as (
    select * from jsonb_to_recordset(wanted -> 'settings') as s(database boolean, role name, name text, value text)
  ), grants_wanted as (
    select * from jsonb_to_recordset(wanted -> 'grants') as g(role name, privilege text, grantable boolean)
  ), members_wanted as (
    select * from jsonb_to_recordset(wanted -> 'memberships') as m(role name, member name, options jsonb)
  )
  select c.what, c.command from (
    select 1 as step, w.key as name, format('create role %I', w.key) as what,
      format('create role %I %s', w.key, varve_group._role_options(w.value)) as command
    from jsonb_each(wanted -> 'roles') w where not exists (select from present p where p.name = w.key)
    union all
    select 2, w.key, format('alter role %I', w.key), format('alter role %I %s', w.key, varve_group._role_options(w.value))
    from jsonb_each(wanted -> 'roles') w join present p on p.name = w.key where p.role <> w.value
    union all
    select 3, w.member, format('grant %I to %I', w.role, w.member), format('grant %I to %I%s', w.role, w.member,
      case when w.options ? 'inherit' then format(' with admin %s, inherit %s, set %s', w.options ->> 'admin',
          w.options ->> 'inherit', w.options ->> 'set')
        when (w.options ->> 'admin')::boolean then ' with admin option' else '' end)
    from (table members_wanted except select m.role, m.member, m.options from varve_group._memberships() m) w
    union all
    select 4, m.member, format('revoke %I from %I', m.role, m.member), format('revoke %I from %I cascade', m.role, m.member)
    from varve_group._memberships() m
    where not exists (select from members_wanted w where w.role = m.role and w.member = m.member)
      and wanted -> 'roles' ? m.member::text
    union all
    select 5, s.role, format('set %s', s.name), format('alter %s set %s = %s',
      case when s.role is null then format('database %I', current_database())
        else format('role %I%s', s.role, case when s.database then format(' in database %I', current_database()) else '' end) end,
      s.name,
      case when lower(s.name) in ('search_path', 'temp_tablespaces', 'local_preload_libraries', 'session_preload_libraries')
        then varve_group._path_list(s.value) else quote_literal(s.value) end)
    from (table settings_wanted except select * from varve_group._settings()) s
    union all
    select 6, s.role, format('reset %s', s.name), format('alter %s reset %s',
      case when s.role is null then format('database %I', current_database())
        else format('role %I%s', s.role, case when s.database then format(' in database %I', current_database()) else '' end) end,
      s.name)
    from varve_group._settings() s
    where not exists (select from settings_wanted w
        where w.database = s.database and w.role is not distinct from s.role and w.name = s.name)
      and (s.role is null or wanted -> 'roles' ? s.role::text)
    union all
    select 7, '', 'alter database owner', format('alter database %I owner to %I', current_database(), wanted ->> 'owner')
    from pg_database d where d.datname = current_database() and pg_get_userbyid(d.datdba) <> wanted ->> 'owner'
    union all
    select 8, g.role, format('grant %s on database', g.privilege), format('grant %s on database %I to %s%s', g.privilege,
      current_database(), coalesce(quote_ident(g.role), 'public'), case when g.grantable then ' with grant option' else '' end)
    from (table grants_wanted except select * from varve_group._database_grants()) g
    union all
    select 9, g.role, format('revoke %s on database', g.privilege), format('revoke %s on database %I from %s', g.privilege,
      current_database(), coalesce(quote_ident(g.role), 'public'))
    from varve_group._database_grants() g
    where not exists (select from grants_wanted w where w.role is not distinct from g.role and w.privilege = g.privilege)
    union all
    select 10, p.name, format('drop role %I', p.name), format('drop role %I', p.name)
    from present p join varve_group.copied_role c on c.role = p.name
    where not wanted -> 'roles' ? p.name::text and not varve_group._is_internal(p.name)
  ) c order by c.step, c.name, c.command
$$;

-- Makes this member's globals like `wanted`. What fails is told and does not hold up the rest: the next round tries
-- again.
create or replace function varve_group.apply_globals(wanted jsonb) returns table (change text, error text)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  task record;
begin
  if varve_group.is_write_master() and exists (select from varve_group.local l where l.master is not null) then
    raise exception 'the write master''s roles are copied to the others, not changed' using errcode = '55000';
  end if;
  for task in select * from varve_group._global_changes(wanted) loop
    change := task.what;
    error := null;
    begin
      execute task.command;
    exception
      when others then
        error := sqlerrm;
    end;
    return next;
  end loop;
  insert into varve_group.copied_role (role)
    select w.key::name from jsonb_each(wanted -> 'roles') w where exists (select from pg_roles r where r.rolname = w.key)
    on conflict do nothing;
  delete from varve_group.copied_role c where not exists (select from pg_roles r where r.rolname = c.role);
end
$$;
revoke all on all tables in schema varve_group from public;
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
