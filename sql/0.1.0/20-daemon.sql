-- The way to the daemon: one connection a call, opened under a random name and closed before the function
-- returns, because dblink's connections are shared by all roles of a session.

-- A wrong caller name would let one role act as another. It is believed when the session could become that
-- role by itself.
create function varve._assume(caller name) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  -- A role may be a member without being allowed to SET ROLE since 16.
  privilege text := case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end;
begin
  if not pg_has_role(session_user, caller, privilege) then
    raise exception 'role "%" may not act as "%"', session_user, caller using errcode = '42501';
  end if;
end
$$;

-- Raises what the daemon said. RAISE cannot leave an option out at run time, hence four shapes.
create function varve._raise(error jsonb) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  code text := coalesce(error ->> 'sqlstate', 'XX000');
  message text := coalesce(error ->> 'message', 'unknown error');
  detail text := error ->> 'detail';
  hint text := error ->> 'hint';
begin
  if detail is not null and hint is not null then
    raise exception using errcode = code, message = message, detail = detail, hint = hint;
  elsif detail is not null then
    raise exception using errcode = code, message = message, detail = detail;
  elsif hint is not null then
    raise exception using errcode = code, message = message, hint = hint;
  end if;
  raise exception using errcode = code, message = message;
end
$$;

create function varve._notice(notice jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  code text := coalesce(notice ->> 'sqlstate', '00000');
  message text := notice ->> 'message';
  detail text := notice ->> 'detail';
begin
  if notice ->> 'severity' = 'warning' then
    if detail is null then
      raise warning using errcode = code, message = message;
    else
      raise warning using errcode = code, message = message, detail = detail;
    end if;
  elsif detail is null then
    raise notice using errcode = code, message = message;
  else
    raise notice using errcode = code, message = message, detail = detail;
  end if;
end
$$;

create function varve._conninfo_value(value text) returns text
language sql immutable
begin atomic
  select '''' || replace(replace(value, '\', '\\'), '''', '\''') || '''';
end;

-- Waits for the daemon's answer. Before 17, depending on the minor version, dblink_get_result itself sees
-- neither a cancel nor what other sessions wait for (DROP DATABASE waits for all of them). Sleeping does.
create function varve._await_answer(dblink name, connection text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  busy integer;
  pause double precision := 0.0005;
begin
  if current_setting('server_version_num')::integer >= 170000 then
    return;
  end if;
  loop
    execute format('select %I.dblink_is_busy($1)', dblink) into busy using connection;
    exit when busy = 0;
    perform pg_sleep(pause);
    pause := least(pause * 1.3, 0.05);
  end loop;
end
$$;

-- One request, one reply. Sent asynchronously, because the synchronous form of dblink ignores a cancel until
-- the other side answers.
create function varve._rpc(request jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  address varve.endpoint;
  dblink name;
  connection text := 'varve_' || replace(gen_random_uuid()::text, '-', '');
  conninfo text;
  reply jsonb;
  notice jsonb;
  reason text;
begin
  select * into address from varve.endpoint;
  if not found then
    raise exception 'no Varve daemon has introduced itself to database "%"', current_database()
      using errcode = '08001',
      hint = 'Start the access node''s daemon (varve node, or varve up) and see varve status; it finds a new database within seconds.';
  end if;
  select n.nspname into dblink
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'dblink';
  if not found then
    raise exception 'extension "dblink" is not installed in database "%"', current_database()
      using errcode = '55000', hint = 'An administrator has to run CREATE EXTENSION dblink in this database.';
  end if;

  conninfo := format(
    'host=%s port=%s user=varve dbname=varve password=%s connect_timeout=5 sslmode=%s application_name=varve',
    varve._conninfo_value(address.host), address.port, varve._conninfo_value(address.secret),
    case when address.host like '/%' or address.host in ('127.0.0.1', '::1', 'localhost') then 'disable' else 'require' end);
  if current_setting('server_version_num')::integer >= 160000 then
    conninfo := conninfo || ' require_auth=scram-sha-256';
  end if;
  begin
    execute format('select %I.dblink_connect($1, $2)', dblink) using connection, conninfo;
  exception
    when sqlclient_unable_to_establish_sqlconnection then
      get stacked diagnostics reason = pg_exception_detail;
      raise exception 'the Varve daemon does not answer'
        using errcode = '08001', detail = reason,
        hint = 'Look at varve status, start the access node''s daemon and repeat the call. Nothing was changed.';
  end;

  begin
    execute format('select %I.dblink_send_query($1, $2)', dblink) using connection, request::text;
    perform varve._await_answer(dblink, connection);
    execute format('select r::jsonb from %I.dblink_get_result($1) as t(r text)', dblink) into reply using connection;
    execute format('select %I.dblink_disconnect($1)', dblink) using connection;
  exception
    when query_canceled then
      execute format('select %I.dblink_disconnect($1)', dblink) using connection;
      raise;
    when others then
      get stacked diagnostics reason = message_text;
      execute format('select %I.dblink_disconnect($1)', dblink) using connection;
      raise exception 'the Varve daemon stopped answering in the middle of the call'
        using errcode = '08006', detail = reason,
        hint = 'What it had made is taken back as soon as it is up again. Repeat the call.';
  end;

  if reply is null then
    raise exception 'the Varve daemon closed the connection without an answer' using errcode = '08006',
      hint = 'What it had made is taken back as soon as it is up again. Repeat the call.';
  end if;
  for notice in select * from jsonb_array_elements(coalesce(reply -> 'notices', '[]')) loop
    perform varve._notice(notice);
  end loop;
  if reply ? 'error' then
    perform varve._raise(reply -> 'error');
  end if;
  if reply ? 'operation' then
    insert into varve.operation (id) values ((reply ->> 'operation')::uuid);
  end if;
  return reply -> 'result';
end
$$;
revoke execute on function varve._rpc(jsonb) from public;

-- What every request says: on whose behalf, in which transaction, from which database. Nodes and operations
-- that this transaction sees are listed, because the daemon cannot see its uncommitted rows.
create function varve._request(op text, caller name, arguments jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'op', op,
    'caller', caller,
    'database', current_database(),
    'xid', pg_current_xact_id()::text,
    'access', varve._describe_database(),
    'nodes', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'name', n.node_name, 'host', n.host, 'port', n.port, 'database', n.database,
        'uuid', n.node_uuid, 'token', n.token, 'available', n.available,
        'password', (
          select o.option_value from pg_user_mappings m, pg_options_to_table(m.umoptions) o
          where m.srvname = n.node_name and m.usename = caller and o.option_name = 'password'))), '[]')
      from varve.data_node n),
    'operations', (select coalesce(jsonb_agg(o.id), '[]') from varve.operation o),
    'arguments', arguments);
end
$$;
revoke execute on function varve._request(text, name, jsonb) from public;
