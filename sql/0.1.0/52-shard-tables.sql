-- The shards' tables on a data node. One schema holds what one call made here for one hypertable. Everything runs
-- as the role that the access node's caller is here, who owns the tables: nothing is done for it that it could not
-- do itself.
--
-- A shard is partitioned by time into chunks, and has a default partition for rows without a chunk. Its partition
-- key is an expression over the time column, not the column itself, on purpose: a query on the column then always
-- looks into the default partition as well, and leaves chunks out by their CHECK constraint. Otherwise a
-- transaction with a snapshot from before rows were moved into a new chunk (every session of postgres_fdw has one
-- snapshot) would look for them only in the chunk, where it cannot see them yet.

-- Operations that were taken back. A session that was given up by its daemon may still be at work here; what it
-- would make afterwards has to fail.
create table varve.undone_operation (
  id uuid primary key,
  at timestamptz not null default now()
);

create function varve._enter_operation(operation uuid) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_advisory_xact_lock(hashtext('varve.operation'), hashtext(operation::text));
  if exists (select from varve.undone_operation u where u.id = operation) then
    raise exception 'operation % was taken back', operation using errcode = '57014';
  end if;
end
$$;

create function varve._undo_operation(operation uuid) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_advisory_xact_lock(hashtext('varve.operation'), hashtext(operation::text));
  insert into varve.undone_operation (id) values (operation) on conflict do nothing;
  delete from varve.undone_operation u where u.at < now() - interval '7 days';
end
$$;

-- Points in time as numbers: microseconds since 1970 for timestamps (of UTC), days for dates, else the value. Null
-- at the far end of what the type holds.
create function varve._time_number(type text, value text) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
  select case when number between -9000000000000000000 and 9000000000000000000 then number::bigint end
  from (select case
    when type = 'timestamp with time zone' then extract(epoch from value::timestamptz) * 1000000
    when type = 'timestamp without time zone' then extract(epoch from value::timestamp) * 1000000
    when type = 'date' then (value::date - date '1970-01-01')::numeric
    else value::numeric end as number) as n
$$;

create function varve._time_text(type text, number bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
  select case
    when type = 'timestamp with time zone' then (t at time zone 'UTC')::text
    when type = 'timestamp without time zone' then t::text
    when type = 'date' then (date '1970-01-01' + number::integer)::text
    else number::text end
  from (select case when type like 'timestamp%' then
      timestamp '1970-01-01' + make_interval(days => floor(number / 86400000000.0)::integer)
        + make_interval(secs => (number - floor(number / 86400000000.0) * 86400000000)::float8 / 1000000)
    end as t) as stamp
$$;

-- The partition key, and the type of its bounds.
create function varve._time_key(type text, time_column name) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when type = 'timestamp with time zone' then format('timezone(''UTC'', %I)', time_column)
    when type = 'timestamp without time zone' then format('%I + interval ''0''', time_column)
    else format('%I + 0', time_column) end
$$;

create function varve._time_key_type(type text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select case when type like 'timestamp%' then 'timestamp without time zone' else type end $$;

-- What is known of a schema of shards. It is kept in the schema's comment, because there it lives and dies with
-- the schema and can be read without this extension.
create function varve._shard_schema(schema name) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when d like '{"varve": "shards"%' then d::jsonb end
  from obj_description(to_regnamespace(quote_ident(schema)), 'pg_namespace') d
$$;

-- postgres_fdw addresses a row by its ctid where it cannot send the whole condition, and several partitions have
-- rows of the same ctid: such a statement would hit the wrong ones.
create function varve._refuse_row_by_row() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_query() ~ 'WHERE ctid = \$1( RETURNING .*)?$' then
    raise exception 'this % on a distributed hypertable cannot be carried out on the data nodes as a whole', tg_op
      using errcode = '0A000',
      detail = 'Its condition or its new values need the access node (now(), random(), a join, a row trigger), and rows of data nodes cannot be addressed one by one.',
      hint = 'Use constants, parameters, or a scalar subquery such as WHERE time < (SELECT now() - interval ''7 days''). EXPLAIN VERBOSE shows the statement that is sent.';
  end if;
  return null;
end
$$;

-- The chunks of a shard with their bounds as numbers.
create function varve._chunks(shard regclass, type text) returns table (chunk regclass, lower bigint, upper bigint)
language sql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
  select c.oid::regclass, varve._time_number(varve._time_key_type(type), b[1]),
    varve._time_number(varve._time_key_type(type), b[2])
  from pg_inherits i join pg_class c on c.oid = i.inhrelid,
    regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES FROM \(''?([^'')]+)''?\) TO \(''?([^'')]+)''?\)$') b
  where i.inhparent = shard and b is not null
$$;

-- The range around `number` in which a chunk can be made: its place in the grid of intervals, less what other
-- chunks have of it. No row when it has a chunk, or when the range has bounds that the type cannot hold.
create function varve._chunk_gap(shard regclass, facts jsonb, number bigint)
returns table (lower bigint, upper bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  type text := facts ->> 'timeType';
  step numeric := (facts ->> 'chunkInterval')::numeric;
  first numeric := floor(number / step) * step;
begin
  if number is null then
    return;
  end if;
  select greatest(first, max(c.upper) filter (where c.upper <= number)),
      least(first + step, min(c.lower) filter (where c.lower > number))
    into _chunk_gap.lower, _chunk_gap.upper
    from varve._chunks(shard, type) c
    having count(*) filter (where c.lower <= number and number < c.upper) = 0;
  if found then
    perform varve._time_text(type, _chunk_gap.lower), varve._time_text(type, _chunk_gap.upper);
    return next;
  end if;
exception
  when numeric_value_out_of_range or datetime_field_overflow then return;
end
$$;

-- Makes the chunk [from_number, to_number) and moves the rows into it that the default partition has of it. Readers
-- and writers of the shard wait while it runs, and it waits no longer than the session's lock_timeout for them.
create function varve._make_chunk(shard regclass, facts jsonb, from_number bigint, to_number bigint)
returns table (chunk regclass, moved bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
declare
  time_column name := facts ->> 'timeColumn';
  type text := facts ->> 'timeType';
  key_type text := varve._time_key_type(type);
  schema name;
  parent name;
  name name;
  rest name;
  condition text := format('%1$I >= %2$L and %1$I < %3$L', time_column,
    varve._time_text(type, from_number), varve._time_text(type, to_number));
begin
  select n.nspname, c.relname into schema, parent
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = shard;
  rest := parent || '_default';
  name := parent || '_' || case
    when key_type like 'timestamp%' then
      translate(replace(varve._time_text(key_type, from_number), ' 00:00:00', ''), ' -:', '_')
    else varve._time_text(type, from_number) end;
  -- The whole shard, not the default partition alone: a writer that had chosen that one before it had to wait for
  -- it would fail.
  execute format('lock table %I.%I in access exclusive mode', schema, parent);
  execute format('create table %1$I.%2$I (like %1$I.%3$I including constraints including storage including compression, constraint varve_time check (%4$s))',
    schema, name, parent, condition);
  execute format('with gone as (delete from only %1$I.%2$I where %4$s returning *) insert into %1$I.%3$I select * from gone',
    schema, rest, name, condition);
  get diagnostics moved = row_count;
  execute format('alter table %1$I.%2$I attach partition %1$I.%3$I for values from (%4$L) to (%5$L)', schema, parent,
    name, varve._time_text(key_type, from_number), varve._time_text(key_type, to_number));
  chunk := format('%I.%I', schema, name)::regclass;
  return next;
end
$$;

-- `now` as the shards of this type count it; null for integers, which have no clock.
create function varve._time_now(type text) returns bigint
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when type like 'timestamp%' then (extract(epoch from clock_timestamp()) * 1000000)::bigint
    when type = 'date' then ((clock_timestamp() at time zone 'UTC')::date - date '1970-01-01')::bigint end
$$;

create function varve._create_shard(spec jsonb, name name) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
declare
  schema name := spec ->> 'schema';
  facts jsonb := spec -> 'facts';
  type text := facts ->> 'timeType';
  columns text := (
    select string_agg(format('%I %s%s%s', c ->> 'name', c ->> 'type', coalesce(' collate ' || (c ->> 'collation'), ''),
      case when (c ->> 'notNull')::boolean then ' not null' else '' end), ', ' order by o)
    from jsonb_array_elements(spec -> 'columns') with ordinality as e(c, o));
  checks text := (
    select coalesce(string_agg(format(', constraint %I %s', k ->> 'name', k ->> 'definition'), ''), '')
    from jsonb_array_elements(spec -> 'checks') k);
  timescale name := (
    select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'timescaledb' and (spec ->> 'timescaledb')::boolean);
  shard regclass;
  step bigint := (facts ->> 'chunkInterval')::bigint;
  gap record;
begin
  execute format('create table %I.%I (%s%s)%s', schema, name, columns, checks, case when timescale is null then
    format(' partition by range ((%s))', varve._time_key(type, facts ->> 'timeColumn')) else '' end);
  shard := format('%I.%I', schema, name)::regclass;
  execute format('create trigger varve_whole before update or delete on %s for each statement execute function varve._refuse_row_by_row()', shard);
  if timescale is not null then
    execute format('select %I.create_hypertable($1, $2, chunk_time_interval => $3, create_default_indexes => false)', timescale)
      using shard, (facts ->> 'timeColumn')::name, case when type = 'date' then step * 86400000000 else step end;
  else
    execute format('create table %1$I.%2$I partition of %1$I.%3$I default', schema, name || '_default', name);
    -- The chunk before the present one, this one and the next.
    for gap in
      select g.* from generate_series(-1, 1) k, varve._chunk_gap(shard, facts, varve._time_now(type) + k * step) g
    loop
      perform varve._make_chunk(shard, facts, gap.lower, gap.upper);
    end loop;
  end if;
  perform varve._create_shard_index(shard, (i ->> 'number')::integer, i ->> 'definition')
    from jsonb_array_elements(spec -> 'indexes') i;
end
$$;

create function varve._create_shard_index(shard regclass, number integer, definition text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('create index %I on %s %s',
    (select c.relname from pg_class c where c.oid = shard) || '_i' || number, shard, definition);
end
$$;

-- Makes shards in `spec.schema`, and the schema when it is missing. Called several times for many shards, so that
-- no transaction holds more locks than the server has room for. `spec`:
--   operation, schema, facts {operation, hypertable, table, timeColumn, timeType, chunkInterval}, timescaledb,
--   columns [{name, type, collation, notNull}], checks [{name, definition}], indexes [{number, definition}],
--   tables [name]
create function varve.create_shards(spec jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  schema name := spec ->> 'schema';
begin
  perform varve._enter_operation((spec ->> 'operation')::uuid);
  if to_regnamespace(quote_ident(schema)) is null then
    execute format('create schema %I', schema);
    execute format('comment on schema %I is %L', schema,
      '{"varve": "shards", ' || substr((spec -> 'facts')::text, 2));
  elsif varve._shard_schema(schema) ->> 'operation' is distinct from spec ->> 'operation' then
    raise exception 'schema "%" already exists', schema using errcode = '42P06';
  end if;
  perform varve._create_shard(spec, t::name) from jsonb_array_elements_text(spec -> 'tables') t;
end
$$;

-- A further index on shards.
create function varve.create_shard_index(operation uuid, schema name, tables name[], number integer, definition text)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform varve._enter_operation(operation);
  perform varve._create_shard_index(format('%I.%I', schema, t)::regclass, number, definition)
    from unnest(tables) t;
end
$$;

-- Grants on the shards of a schema what `grants` lists (see varve._shard_grants), and with `revoke` nothing else.
-- Roles that this server does not have are returned.
create function varve.grant_shards(schema name, grants jsonb, revoke boolean) returns name[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  change record;
  shard regclass;
begin
  -- Two who grant on one table at once would fail.
  perform pg_advisory_xact_lock(hashtext('varve.grants'), hashtext(schema));
  for shard in
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = schema and c.relkind in ('r', 'p') and not c.relispartition order by c.relname
  loop
    for change in
      with wanted as (
        select coalesce(r.oid, 0) as grantee, g.privilege, g."column"
        from jsonb_to_recordset(grants) as g(role name, privilege text, "column" name)
          left join pg_roles r on r.rolname = g.role, pg_class c
        where (r.oid is not null or g.role is null) and c.oid = shard and r.oid is distinct from c.relowner
      ), present as (
        select a.grantee, a.privilege_type as privilege, null::name as "column"
          from pg_class c, aclexplode(c.relacl) a where c.oid = shard and a.grantee <> c.relowner
        union
        select a.grantee, a.privilege_type, t.attname
          from pg_attribute t, aclexplode(t.attacl) a where t.attrelid = shard
      )
      select 'grant' as verb, 'to' as whom, w.* from (table wanted except table present) w
      union all
      select 'revoke', 'from', p.* from (table present except table wanted) p where revoke
    loop
      execute format('%s %s %s on %s %s %s', change.verb, change.privilege,
        coalesce('(' || quote_ident(change."column") || ')', ''), shard, change.whom,
        case when change.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(change.grantee)) end);
    end loop;
  end loop;
  for change in
    select distinct coalesce(r.oid, 0) as grantee
    from jsonb_to_recordset(grants) as g(role name) left join pg_roles r on r.rolname = g.role, pg_namespace n
    where (r.oid is not null or g.role is null) and n.nspname = schema
      and not exists (select from aclexplode(n.nspacl) a
        where a.grantee = coalesce(r.oid, 0) and a.privilege_type = 'USAGE')
      and r.oid is distinct from n.nspowner
  loop
    execute format('grant usage on schema %I to %s', schema,
      case when change.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(change.grantee)) end);
  end loop;
  return array(
    select distinct g.role from jsonb_to_recordset(grants) as g(role name)
    where g.role is not null and not exists (select from pg_roles r where r.rolname = g.role) order by 1);
end
$$;

-- Brings the chunks of one shard that the caller owns up to date by one step: makes a chunk for the present or the
-- next interval, or one for rows in the default partition, of which at most about `max_rows` are moved. Returns
-- what it made; no row when there is nothing to do, or when all that is to be done is locked right now. The daemon
-- calls it again and again, each call a transaction, so that readers and writers never wait long.
create function varve.maintain_chunks(max_rows integer default 50000)
returns table (shard regclass, chunk regclass, moved bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
  -- Below deadlock_timeout: where somebody waits for us and we for them, it is us who give way.
  set lock_timeout = '500ms'
as $$
declare
  facts jsonb;
  gap record;
begin
  for shard, facts in
    select c.oid::regclass, f from pg_namespace n join pg_class c on c.relnamespace = n.oid,
      varve._shard_schema(n.nspname) f
    where n.nspname like 'varve\_%' and c.relkind = 'p' and not c.relispartition and f is not null
      and pg_has_role(c.relowner, 'USAGE')
    order by random()
  loop
    begin
      select g.* into gap from varve._next_gap(shard, facts, max_rows) g;
      continue when not found;
      select m.chunk, m.moved into chunk, moved from varve._make_chunk(shard, facts, gap.lower, gap.upper) m;
      return next;
      return;
    exception
      -- Somebody uses it just now, or has dropped it meanwhile.
      when lock_not_available or undefined_table or null_value_not_allowed then null;
    end;
  end loop;
end
$$;

-- The next chunk that a shard needs.
create function varve._next_gap(shard regclass, facts jsonb, max_rows integer)
returns table (lower bigint, upper bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
as $$
declare
  type text := facts ->> 'timeType';
  time_column name := facts ->> 'timeColumn';
  step bigint := (facts ->> 'chunkInterval')::bigint;
  rest text := (select format('%I.%I', n.nspname, c.relname || '_default')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = shard);
  finite text := case when type like 'timestamp%' or type = 'date'
    then format('%1$I > %2$L and %1$I < %3$L', time_column, '-infinity', 'infinity') else 'true' end;
  row_time text;
  last_time text;
begin
  for lower, upper in
    select g.lower, g.upper from generate_series(0, 1) k,
      varve._chunk_gap(shard, facts, varve._time_now(type) + k * step) g
  loop
    return next;
    return;
  end loop;
  -- Rows that no chunk can be made for (at the ends of what the type holds) stay, and those behind them are next.
  for attempt in 1 .. 100 loop
    execute format('select %1$I::text from only %2$s where %3$s%4$s order by %1$I limit 1', time_column, rest, finite,
      case when row_time is null then '' else format(' and %I > %L', time_column, row_time) end) into row_time;
    if row_time is null then
      return;
    end if;
    select g.lower, g.upper into lower, upper
      from varve._chunk_gap(shard, facts, varve._time_number(type, row_time)) g;
    exit when found;
  end loop;
  if upper is null then
    return;
  end if;
  -- Where too many rows would have to be moved at once, the chunk ends behind as many as may be.
  execute format('select (select t.%1$I::text from only %2$s t where t.%1$I > s.%1$I and t.%1$I < %3$L order by t.%1$I limit 1)
      from (select %1$I from only %2$s where %1$I >= %4$L and %1$I < %3$L order by %1$I offset %5$s limit 1) s',
    time_column, rest, varve._time_text(type, upper), varve._time_text(type, lower), max_rows) into last_time;
  upper := coalesce(varve._time_number(type, last_time), upper);
  return next;
end
$$;

-- Which of these shards have no rows, and no session that is writing any.
create function varve.empty_shards(schema name, tables name[]) returns name[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- Autovacuum gives way to who waits for longer than deadlock_timeout, a second; who writes does not.
set lock_timeout = '2s'
as $$
declare
  name name;
  filled boolean;
  empty name[] := '{}';
begin
  foreach name in array tables loop
    begin
      execute format('lock table %I.%I in share mode', schema, name);
      execute format('select exists (select from %I.%I)', schema, name) into filled;
      if not filled then
        empty := empty || name;
      end if;
    exception
      when lock_not_available then null;
    end;
  end loop;
  return empty;
end
$$;
