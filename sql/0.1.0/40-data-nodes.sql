-- Data nodes: names, arguments, defaults and result columns are those of TimescaleDB 2.13. The outer functions
-- are plain SQL run as the caller (SQL lets an argument and a result column share a name, PL/pgSQL does not);
-- they tell the inner ones, which run as the owner, who calls.

-- In a group only one access node takes changes. Its name; null outside of groups, or where none is known.
create function varve._write_master() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  master text;
begin
  if to_regprocedure('varve_group.write_master()') is not null then
    execute 'select varve_group.write_master()' into master;
  end if;
  return master;
end
$$;

create function varve._is_write_master() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  is_master boolean := true;
begin
  if to_regprocedure('varve_group.is_write_master()') is not null then
    execute 'select varve_group.is_write_master()' into is_master;
  end if;
  return is_master;
end
$$;

create function varve._refuse_read_only(what text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if not varve._is_write_master() then
    raise exception 'cannot execute %() on an access node that is not the write master', what using errcode = '25006',
      hint = format('The write master is "%s": call it there, or through the group''s write port.', varve._write_master());
  end if;
  if current_setting('transaction_read_only')::boolean then
    raise exception 'cannot execute %() in a read-only transaction', what using errcode = '25006',
      hint = 'A standby, a fenced node or a READ ONLY transaction cannot change the registry: call it on the write master.';
  end if;
end
$$;

create function varve._node(name name) returns varve.data_node
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node varve.data_node;
begin
  if name is null then
    raise exception 'data node name cannot be NULL' using errcode = '22023';
  end if;
  select * into node from varve.data_node n where n.node_name = name;
  if not found then
    raise exception 'data node "%" does not exist', name using errcode = '42704',
      hint = 'SELECT * FROM varve.data_nodes lists those that do.';
  end if;
  return node;
end
$$;
revoke execute on function varve._node(name) from public;

-- One name at a time: the second caller waits for the first one's transaction, in view of the deadlock detector.
create function varve._lock_node(name name) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select pg_advisory_xact_lock(hashtext('varve.data_node'), hashtext(name)) $$;

create function varve._check_node_owner(caller name, node varve.data_node) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_has_role(caller, node.owner, 'MEMBER') then
    raise exception 'must be owner of data node "%"', node.node_name using errcode = '42501',
      detail = format('Its owner is "%s".', node.owner);
  end if;
end
$$;

-- The foreign server and the caller's user mapping of a node, made or brought up to date. `login` holds the
-- options by which sessions of this server log in: {"server": {option: value}, "user": {option: value}}.
create function varve._derive_server(node varve.data_node, role name, login jsonb) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  wanted jsonb := jsonb_build_object('host', node.host, 'port', node.port::text, 'dbname', node.database,
    'fetch_size', '10000', 'batch_size', '1000', 'async_capable', 'true') || coalesce(login -> 'server', '{}');
  wanted_user jsonb := login -> 'user';
  present jsonb;
begin
  if not (select r.rolsuper from pg_roles r where r.rolname = current_user) then
    -- Only a superuser may let a role in without a password of its own.
    wanted_user := wanted_user - array['password_required', 'sslcert', 'sslkey'];
  end if;
  select coalesce((select jsonb_object_agg(o.option_name, o.option_value) from pg_options_to_table(s.srvoptions) o), '{}')
    into present from pg_foreign_server s where s.srvname = node.node_name;
  if not found then
    execute format('create server %I foreign data wrapper postgres_fdw options (%s)',
      node.node_name, varve._options('', wanted));
    execute format('grant usage on foreign server %I to %I with grant option', node.node_name, node.owner);
  elsif varve._option_changes(present, wanted) <> '' then
    execute format('alter server %I options (%s)', node.node_name, varve._option_changes(present, wanted));
  end if;
  if role is not null and wanted_user is not null then
    select coalesce((select jsonb_object_agg(o.option_name, o.option_value) from pg_options_to_table(m.umoptions) o), '{}')
      into present from pg_user_mappings m where m.srvname = node.node_name and m.usename = role;
    if not found then
      execute format('create user mapping for %I server %I options (%s)', role, node.node_name,
        varve._options('', wanted_user));
    elsif not present ? 'password' and varve._option_changes(present, wanted_user) <> '' then
      execute format('alter user mapping for %I server %I options (%s)', role, node.node_name,
        varve._option_changes(present, wanted_user));
    end if;
  end if;
end
$$;
revoke execute on function varve._derive_server(varve.data_node, name, jsonb) from public;

-- What nobody else uses goes silently; anything that hangs on the server besides its user mappings is an error.
create function varve._drop_server(name name) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  mapped name;
begin
  for mapped in select m.usename from pg_user_mappings m where m.srvname = name loop
    execute format('drop user mapping for %s server %I',
      case when mapped = 'public' then 'public' else quote_ident(mapped) end, name);
  end loop;
  execute format('drop server if exists %I', name);
end
$$;
revoke execute on function varve._drop_server(name) from public;

-- Roles that may use a node's server and have no user mapping of their own there: each gets one.
create function varve._unmapped_roles() returns table (node_name name, role name)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select n.node_name, r.rolname
  from varve.data_node n
    join pg_foreign_server s on s.srvname = n.node_name
    join pg_roles r on r.rolcanlogin and has_server_privilege(r.oid, s.oid, 'USAGE')
  where not exists (select from pg_user_mappings m where m.srvid = s.oid and m.umuser in (r.oid, 0))
$$;
revoke execute on function varve._unmapped_roles() from public;

create function varve._options(verb text, options jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select string_agg(format('%s %I %L', verb, key, value), ', ' order by key) from jsonb_each_text(options) $$;

-- What turns the options that are there into those that are wanted. Options that nobody asked for stay.
create function varve._option_changes(present jsonb, wanted jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(string_agg(
    format('%s %I %L', case when present ? key then 'set' else 'add' end, key, value), ', ' order by key), '')
  from jsonb_each_text(wanted) where present ->> key is distinct from value
$$;

create function varve._add_data_node(
  caller name, p_name name, p_host text, p_database name, p_port integer, p_if_not_exists boolean,
  p_bootstrap boolean, p_password text)
returns table (r_name name, r_host text, r_port integer, r_database name,
  r_node_created boolean, r_database_created boolean, r_extension_created boolean)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  me varve.identity;
  node varve.data_node;
  port integer := coalesce(p_port, current_setting('port')::integer);
  database name := coalesce(p_database, current_database());
  made jsonb;
begin
  perform varve._assume(caller);
  perform varve._refuse_read_only('add_data_node');
  if p_host is null or btrim(p_host) = '' then
    raise exception 'a host needs to be specified' using errcode = '22023',
      hint = 'Provide a host name or IP address of a data node to add.';
  elsif p_name is null then
    raise exception 'data node name cannot be NULL' using errcode = '22023';
  elsif p_name = '' then
    raise exception 'data node name cannot be empty' using errcode = '22023';
  elsif port not between 1 and 65535 then
    raise exception 'invalid port number %', port using errcode = '22023',
      hint = 'The port number must be between 1 and 65535.';
  elsif database = '' then
    raise exception 'database name cannot be empty' using errcode = '22023';
  elsif p_if_not_exists is null or p_bootstrap is null then
    raise exception 'if_not_exists and bootstrap must be true or false, not NULL' using errcode = '22023';
  end if;
  select * into strict me from varve.identity;
  if me.dist_id <> me.uuid then
    raise exception 'unable to assign data nodes from an existing distributed database' using errcode = 'TS171',
      detail = format('Database "%s" is itself a data node of %s.', current_database(), coalesce(me.dist_owner, me.dist_id::text)),
      hint = 'Call add_data_node on the access node.';
  end if;
  if not exists (select from pg_foreign_data_wrapper where fdwname = 'postgres_fdw') then
    raise exception 'extension "postgres_fdw" is not installed in database "%"', current_database()
      using errcode = '55000', hint = 'An administrator has to run CREATE EXTENSION postgres_fdw in this database.';
  elsif not has_foreign_data_wrapper_privilege(caller, 'postgres_fdw', 'USAGE') then
    raise exception 'permission denied for foreign-data wrapper postgres_fdw' using errcode = '42501',
      hint = format('GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO %I lets this role add data nodes.', caller);
  end if;

  perform varve._lock_node(p_name);
  select * into node from varve.data_node n where n.node_name = p_name;
  if found and p_if_not_exists then
    raise notice using errcode = '42710', message = format('data node "%s" already exists, skipping', p_name);
    return query select node.node_name, node.host, node.port, node.database, false, false, false;
    return;
  elsif found then
    raise exception 'data node "%" already exists', p_name using errcode = '42710',
      detail = format('It is database "%s" on %s:%s.', node.database, node.host, node.port),
      hint = 'Choose another name, or pass if_not_exists => true.';
  elsif exists (select from pg_foreign_server where srvname = p_name) then
    raise exception 'server "%" already exists', p_name using errcode = '42710',
      hint = 'A foreign server that is no data node has this name: drop it or choose another name.';
  end if;

  made := varve._rpc(varve._request('add_data_node', caller, jsonb_build_object(
    'name', p_name, 'host', p_host, 'port', port, 'database', database,
    'bootstrap', p_bootstrap, 'password', p_password)));

  begin
    insert into varve.data_node (node_name, host, port, database, node_uuid, owner, token)
      values (p_name, p_host, port, database, (made ->> 'uuid')::uuid, caller, (made ->> 'token')::uuid)
      returning * into node;
  exception
    when unique_violation then
      -- A snapshot from before the other add (REPEATABLE READ) does not show its row.
      raise exception 'data node "%" or its database was added by another transaction', p_name
        using errcode = '42710', hint = 'SELECT * FROM varve.data_nodes in a new transaction shows it.';
  end;
  update varve.identity i set dist_id = i.uuid where i.dist_id is null;
  perform varve._derive_server(node, caller, made -> 'login');
  return query select node.node_name, node.host, node.port, node.database, true,
    (made ->> 'databaseCreated')::boolean, (made ->> 'extensionCreated')::boolean;
end
$$;

create function @extschema@.add_data_node(
  node_name name, host text, database name default null, port integer default null,
  if_not_exists boolean default false, bootstrap boolean default true, password text default null)
returns table (node_name name, host text, port integer, database name,
  node_created boolean, database_created boolean, extension_created boolean)
language sql volatile
begin atomic
  select * from varve._add_data_node(current_user::name, $1, $2, $3, $4, $5, $6, $7);
end;

-- What add_data_node would find and do with these arguments. It looks, and changes nothing.
create function varve._plan_data_node(
  caller name, p_name name, p_host text, p_database name, p_port integer, p_bootstrap boolean, p_password text)
returns table (r_kind text, r_message text, r_detail text, r_hint text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  seen jsonb;
  plan jsonb;
begin
  perform varve._assume(caller);
  seen := varve._rpc(varve._request('plan_data_node', caller, jsonb_build_object(
    'name', p_name, 'host', p_host, 'port', coalesce(p_port, current_setting('port')::integer),
    'database', coalesce(p_database, current_database()), 'bootstrap', p_bootstrap, 'password', p_password)));
  plan := seen -> 'plan';
  return query
    select 'problem', f ->> 'message', f ->> 'detail', f ->> 'hint'
    from jsonb_array_elements(seen -> 'findings') f
    union all
    select 'notice', n ->> 'message', n ->> 'detail', null from jsonb_array_elements(seen -> 'notices') n
    union all
    select 'action', 'create database', null, null where (plan ->> 'createDatabase')::boolean
    union all
    select 'action', format('create schema "%s"', s), null, null from jsonb_array_elements_text(plan -> 'schemas') s
    union all
    select 'action', format('create extension "%s" version %s', e ->> 'name', e ->> 'version'),
      format('In schema "%s".', e ->> 'schema'),
      case when e ->> 'method' = 'script' then 'By script: the server has no control file of it.' end
    from jsonb_array_elements(plan -> 'extensions') e
    union all
    select 'action', 'set dist_id and register the data node', null, null
    where jsonb_array_length(seen -> 'findings') = 0;
end
$$;

create function @extschema@.plan_data_node(
  node_name name, host text, database name default null, port integer default null,
  bootstrap boolean default true, password text default null)
returns table (kind text, message text, detail text, hint text)
language sql volatile
begin atomic
  select * from varve._plan_data_node(current_user::name, $1, $2, $3, $4, $5, $6);
end;

create function varve._delete_data_node(
  caller name, p_name name, p_if_exists boolean, p_force boolean, p_repartition boolean, p_drop_database boolean)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node varve.data_node;
begin
  perform varve._assume(caller);
  perform varve._refuse_read_only('delete_data_node');
  if p_name is null then
    raise exception 'data node name cannot be NULL' using errcode = '22023';
  end if;
  perform varve._lock_node(p_name);
  if p_if_exists and not exists (select from varve.data_node n where n.node_name = p_name) then
    raise notice using errcode = '42704', message = format('data node "%s" does not exist, skipping', p_name);
    return false;
  end if;
  node := varve._node(p_name);
  perform varve._check_node_owner(caller, node);
  perform varve._release_shards(caller, node, p_force, p_repartition);
  perform varve._rpc(varve._request('delete_data_node', caller, jsonb_build_object(
    'name', node.node_name, 'host', node.host, 'port', node.port, 'database', node.database,
    'uuid', node.node_uuid, 'token', node.token, 'dropDatabase', p_drop_database)));
  delete from varve.data_node n where n.node_name = p_name;
  perform varve._drop_server(p_name);
  update varve.identity i set dist_id = null
    where i.dist_id = i.uuid and not exists (select from varve.data_node);
  return true;
end
$$;

create function @extschema@.delete_data_node(
  node_name name, if_exists boolean default false, force boolean default false,
  repartition boolean default true, drop_database boolean default false)
returns boolean
language sql volatile
begin atomic
  select varve._delete_data_node(current_user::name, $1, $2, $3, $4, $5);
end;

create function varve._alter_data_node(
  caller name, p_name name, p_host text, p_database name, p_port integer, p_available boolean)
returns table (r_name name, r_host text, r_port integer, r_database name, r_available boolean)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node varve.data_node;
  found_there jsonb;
begin
  perform varve._assume(caller);
  perform varve._refuse_read_only('alter_data_node');
  perform varve._lock_node(p_name);
  node := varve._node(p_name);
  perform varve._check_node_owner(caller, node);
  if btrim(p_host) = '' then
    raise exception 'a host cannot be empty' using errcode = '22023';
  elsif p_port not between 1 and 65535 then
    raise exception 'invalid port number %', p_port using errcode = '22023',
      hint = 'The port number must be between 1 and 65535.';
  end if;
  if coalesce(p_host, node.host) <> node.host or coalesce(p_port, node.port) <> node.port
    or coalesce(p_database, node.database) <> node.database then
    node.host := coalesce(p_host, node.host);
    node.port := coalesce(p_port, node.port);
    node.database := coalesce(p_database, node.database);
    -- A wrong address would be found by the next query of somebody else: it is tried now.
    found_there := varve._rpc(varve._request('check_address', caller, jsonb_build_object(
      'name', node.node_name, 'host', node.host, 'port', node.port, 'database', node.database,
      'uuid', node.node_uuid)));
    update varve.data_node n set host = node.host, port = node.port, database = node.database
      where n.node_name = p_name;
    perform varve._derive_server(node, null, found_there -> 'login');
  end if;
  if p_available is not null and p_available <> node.available then
    node.available := p_available;
    update varve.data_node n set available = p_available where n.node_name = p_name;
  end if;
  return query select node.node_name, node.host, node.port, node.database, node.available;
end
$$;

create function @extschema@.alter_data_node(
  node_name name, host text default null, database name default null, port integer default null,
  available boolean default null)
returns table (node_name name, host text, port integer, database name, available boolean)
language sql volatile
begin atomic
  select * from varve._alter_data_node(current_user::name, $1, $2, $3, $4, $5);
end;

create function varve._ping_data_node(caller name, p_name name, p_timeout interval) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node varve.data_node;
begin
  perform varve._assume(caller);
  if p_timeout <= interval '0' then
    raise exception 'timeout must be positive' using errcode = '22023';
  end if;
  node := varve._node(p_name);
  return (varve._rpc(varve._request('ping_data_node', caller, jsonb_build_object(
    'name', node.node_name, 'timeoutMs', extract(epoch from p_timeout) * 1000))) ->> 'alive')::boolean;
end
$$;

create function @extschema@.ping_data_node(node_name name, timeout interval default null) returns boolean
language sql volatile
begin atomic
  select varve._ping_data_node(current_user::name, $1, $2);
end;

create function varve._health(caller name)
returns table (r_name name, r_healthy boolean, r_in_recovery boolean, r_error text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform varve._assume(caller);
  return query
    select null::name, true, pg_is_in_recovery(), null::text
    union all
    select h.name, h.healthy, h."inRecovery", h.error
    from jsonb_to_recordset(varve._rpc(varve._request('health', caller, '{}')) -> 'nodes')
      as h(name name, healthy boolean, "inRecovery" boolean, error text);
end
$$;

create function @extschema@.health()
returns table (node_name name, healthy boolean, in_recovery boolean, error text)
language sql volatile
begin atomic
  select * from varve._health(current_user::name);
end;

create procedure @extschema@.distributed_exec(
  query text, node_list name[] default null, transactional boolean default true)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform varve._distributed_exec(current_user::name, query, node_list, transactional);
end
$$;

create function varve._distributed_exec(caller name, p_query text, p_nodes name[], p_transactional boolean)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node name;
begin
  perform varve._assume(caller);
  perform varve._refuse_read_only('distributed_exec');
  if p_query is null or btrim(p_query) = '' then
    raise exception 'empty command string' using errcode = '22023';
  elsif cardinality(p_nodes) = 0 or array_position(p_nodes, null) is not null then
    raise exception 'node_list must name data nodes or be NULL for all' using errcode = '22023';
  end if;
  foreach node in array coalesce(p_nodes, array(select n.node_name from varve.data_node n)) loop
    perform varve._node(node);
    if not has_server_privilege(caller, node::text, 'USAGE') then
      raise exception 'permission denied for foreign server %', node using errcode = '42501';
    end if;
  end loop;
  perform varve._rpc(varve._request('distributed_exec', caller, jsonb_build_object(
    'query', p_query, 'nodes', to_jsonb(p_nodes), 'transactional', p_transactional)));
end
$$;

create view varve.data_nodes as
  select n.node_name, n.owner, n.host, n.port, n.database, n.available, n.added_at, s.srvoptions as options
  from varve.data_node n left join pg_catalog.pg_foreign_server s on s.srvname = n.node_name;

-- Runs of the daemon: who added, deleted or changed what, and how it ended.
create function varve._runs()
returns table (run uuid, operation text, database name, caller name, target text, state text,
  begun_at timestamptz, ended_at timestamptz, error text)
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select r.id, r.op, r.database, r.caller, r.target, r.state, r."begunAt", r."endedAt", r.error
  from jsonb_to_recordset(varve._rpc(jsonb_build_object('op', 'runs', 'database', current_database())) -> 'runs')
    as r(id uuid, op text, database name, caller name, target text, state text,
      "begunAt" timestamptz, "endedAt" timestamptz, error text)
$$;
create view varve.runs as select * from varve._runs();

grant usage on schema varve to public;
grant select on varve.data_nodes, varve.runs to public;
