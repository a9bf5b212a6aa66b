-- create_distributed_hypertable. What touches the user's table runs as the caller, with the caller's rights; only
-- the catalog and the call to the daemon run as the owner of these functions.

-- The chunk interval as a number (see varve.hypertable.chunk_interval).
create function varve._chunk_interval(time_type text, value text, value_type text) returns bigint
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  is_integer boolean := time_type in ('bigint', 'integer', 'smallint');
  day constant numeric := 86400000000;
  number numeric;
begin
  if value is null then
    if is_integer then
      raise exception 'integer dimensions require an explicit interval' using errcode = '22023',
        hint = 'Pass chunk_time_interval in the units of the time column.';
    end if;
    value := '7 days';
    value_type := 'interval';
  end if;
  if value_type = 'interval' and is_integer then
    raise exception 'chunk_time_interval of a % column must be a number, not an interval', time_type
      using errcode = '22023';
  elsif value_type = 'interval' then
    -- As in TimescaleDB, a month has 30 days.
    number := extract(epoch from value::interval) * 1000000;
  elsif value_type in ('bigint', 'integer', 'smallint') then
    number := value::numeric;
  else
    raise exception 'invalid type "%" for chunk_time_interval', value_type using errcode = '22023',
      hint = 'Pass an interval, or a number: microseconds, or units of an integer time column.';
  end if;
  if is_integer then
    if number not between 1
      and (case time_type when 'smallint' then 32767 when 'integer' then 2147483647 else 4611686018427387904 end) then
      raise exception 'invalid chunk_time_interval % for a % column', value, time_type using errcode = '22023';
    end if;
  elsif number not between 1000000 and 36525 * day then
    raise exception 'invalid chunk_time_interval %', value using errcode = '22023',
      hint = 'It must be between one second and 100 years.';
  elsif time_type = 'date' and number % day <> 0 then
    raise exception 'chunk_time_interval of a date column must be whole days, not %', value using errcode = '22023';
  end if;
  return case when time_type = 'date' then number / day else number end;
end
$$;

-- What is on a table that a distributed hypertable could not keep, each with its remedy.
create function varve._obstacles(relation regclass) returns table (what text, remedy text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('%s "%s"', case k.contype when 'p' then 'primary key' when 'u' then 'unique constraint'
      when 'x' then 'exclusion constraint' when 'f' then 'foreign key' else 'constraint' end, k.conname),
    case when k.contype in ('p', 'u', 'x') then 'drop it: uniqueness cannot be checked across data nodes'
      when k.contype = 'f' then 'drop it: data nodes do not have the other table' else 'make it an ordinary CHECK' end
  from pg_constraint k
  where k.conrelid = relation and (k.contype in ('p', 'u', 'x', 'f')
    or k.contype in ('c', 'n') and k.connoinherit or to_jsonb(k) ->> 'conenforced' = 'false')
  union all
  select format('unique index "%s"', c.relname), 'drop it: uniqueness cannot be checked across data nodes'
  from pg_index i join pg_class c on c.oid = i.indexrelid
  where i.indrelid = relation and (i.indisunique or i.indisexclusion)
    and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.conrelid = relation)
  union all
  select format('foreign key "%s" of table %s to it', k.conname, k.conrelid::regclass), 'drop it'
  from pg_constraint k where k.confrelid = relation and k.contype = 'f'
  union all
  select format('generated column "%s"', a.attname), 'drop it, and compute it in a view'
  from pg_attribute a where a.attrelid = relation and a.attgenerated <> '' and not a.attisdropped
  union all
  select format('column "%s" of type %s', a.attname, format_type(a.atttypid, a.atttypmod)),
    'use a type of PostgreSQL itself: data nodes may not have this one, or another one of its name'
  from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and (t.typnamespace <> 'pg_catalog'::regnamespace or e.typnamespace <> 'pg_catalog'::regnamespace)
  union all
  select format('collation of column "%s"', a.attname), 'use a collation of PostgreSQL itself'
  from pg_attribute a join pg_collation c on c.oid = a.attcollation
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and c.collnamespace <> 'pg_catalog'::regnamespace
  union all
  select 'row level security', 'drop its policies and disable it: the data nodes would not enforce it'
  from pg_class c where c.oid = relation and (c.relrowsecurity or c.relforcerowsecurity
    or exists (select from pg_policy p where p.polrelid = relation))
  union all
  select format('publication "%s"', p.pubname), 'take the table out of it: its rows are on other servers'
  from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where r.prrelid = relation
  union all
  select case c.relpersistence when 't' then 'temporary table' else 'unlogged table' end, 'use an ordinary table'
  from pg_class c where c.oid = relation and c.relpersistence <> 'p'
  union all
  select 'inheritance', 'use a table without parents, children and partitions'
  from pg_class c where c.oid = relation and (c.relispartition
    or exists (select from pg_inherits i where relation in (i.inhrelid, i.inhparent)))
  union all
  select 'composite type that it was made of', 'ALTER TABLE … NOT OF'
  from pg_class c where c.oid = relation and c.reloftype <> 0
  union all
  select 'membership in an extension', 'use a table of your own'
  from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = relation and d.deptype = 'e'
$$;

-- The same for what is lost when an ordinary table is replaced by a partitioned one.
create function varve._obstacles_to_replace(relation regclass) returns table (what text, remedy text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('trigger "%s"', t.tgname), 'drop it, and create it anew afterwards'
  from pg_trigger t where t.tgrelid = relation and not t.tgisinternal
  union all
  select format('rule "%s"', r.rulename), 'drop it, and create it anew afterwards'
  from pg_rewrite r where r.ev_class = relation
  union all
  select format('statistics object "%s"', s.stxname), 'drop it'
  from pg_statistic_ext s where s.stxrelid = relation
  union all
  select 'storage parameters', 'reset them: they would not apply to the data nodes'
  from pg_class c where c.oid = relation and c.reloptions is not null
  union all
  select 'tablespace', 'move it to the default one: that is where the data nodes put it'
  from pg_class c where c.oid = relation and c.reltablespace <> 0
  union all
  select 'replica identity', 'ALTER TABLE … REPLICA IDENTITY DEFAULT'
  from pg_class c where c.oid = relation and c.relreplident <> 'd'
  union all
  select 'security label', 'remove it'
  where exists (select from pg_seclabel s where s.classoid = 'pg_class'::regclass and s.objoid = relation)
  union all
  select distinct pg_describe_object(d.classid, d.objid, 0) || ', which uses it', 'drop it, and create it anew afterwards'
  from pg_depend d join pg_class c on c.oid = relation left join pg_type t on t.oid = c.reltype
  where d.deptype = 'n'
    and (d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
      or d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray))
    and not (d.classid = 'pg_class'::regclass and d.objid = c.oid)
    and d.classid <> 'pg_trigger'::regclass and d.classid <> 'pg_policy'::regclass
    and not exists (select from pg_constraint k where d.classid = 'pg_constraint'::regclass and k.oid = d.objid
      and (k.conrelid = relation or k.contype = 'f'))
    and not exists (select from pg_rewrite r where d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      and r.ev_class = relation)
$$;

create function varve._refuse_obstacles(relation regclass, is_replaced boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  lines text[] := array(
    select o.what || ': ' || o.remedy from varve._obstacles(relation) o
    union all
    select o.what || ': ' || o.remedy from varve._obstacles_to_replace(relation) o where is_replaced);
begin
  if cardinality(lines) > 0 then
    raise exception 'table "%" has what a distributed hypertable cannot keep', relation using errcode = '0A000',
      detail = array_to_string(lines, E'\n'), hint = 'Nothing was changed. Do what stands behind each colon, and repeat the call.';
  end if;
end
$$;

-- Arguments of TimescaleDB that this version does not carry out are refused, never passed over.
create function varve._refuse_unsupported(arguments jsonb) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  argument text;
  hint text;
begin
  if (arguments ->> 'replication_factor')::integer > 1 then
    argument := 'replication_factor > 1';
    hint := 'Each shard has one copy in this version: pass 1 or leave it out, and let the data nodes'' servers be replicated.';
  elsif (arguments ->> 'replication_factor')::integer < 1 then
    raise exception 'invalid replication_factor %', arguments ->> 'replication_factor' using errcode = '22023',
      hint = 'It must be 1.';
  elsif arguments ->> 'partitioning_func' is not null then
    argument := 'partitioning_func';
    hint := 'Rows are spread by PostgreSQL''s hash partitioning: leave it out.';
  elsif arguments ->> 'time_partitioning_func' is not null then
    argument := 'time_partitioning_func';
    hint := 'Use a time column of a timestamp, date or integer type.';
  elsif arguments ->> 'chunk_target_size' is not null or arguments ->> 'chunk_sizing_func' is not null then
    argument := 'adaptive chunk size';
    hint := 'Pass chunk_time_interval, and leave chunk_target_size and chunk_sizing_func out.';
  end if;
  if argument is not null then
    raise exception '% is not supported by create_distributed_hypertable', argument
      using errcode = '0A000', hint = hint;
  end if;
end
$$;

-- The time column's type, checked.
create function varve._time_type(relation regclass, time_column name) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  type text;
begin
  if time_column is null then
    raise exception 'time column cannot be NULL' using errcode = '22023';
  end if;
  select format_type(a.atttypid, null) into type
    from pg_attribute a where a.attrelid = relation and a.attname = time_column and a.attnum > 0 and not a.attisdropped;
  if not found then
    raise exception 'column "%" does not exist', time_column using errcode = '42703';
  elsif type not in ('timestamp with time zone', 'timestamp without time zone', 'date', 'bigint', 'integer', 'smallint') then
    raise exception 'invalid type "%" for time column "%"', type, time_column using errcode = '22023',
      hint = 'Use timestamptz, timestamp, date, bigint, integer or smallint.';
  end if;
  return type;
end
$$;

-- The column to spread an ordinary table by: the given one, or else the first that looks like a name of what is
-- measured. Never the time column: its hash would scatter each series over all data nodes.
create function varve._partitioning_column(relation regclass, time_column name, given name) returns name
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  chosen name := given;
begin
  if given = time_column then
    raise exception 'the partitioning column cannot be the time column "%"', given using errcode = '22023',
      hint = 'Name a column that tells series apart, such as a device, host or location.';
  elsif given is not null then
    if not exists (select from pg_attribute a
      where a.attrelid = relation and a.attname = given and a.attnum > 0 and not a.attisdropped) then
      raise exception 'column "%" does not exist', given using errcode = '42703';
    end if;
    return given;
  end if;
  select a.attname into chosen
    from pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attname <> time_column
      and a.atttypid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype, 'uuid'::regtype,
        'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'inet'::regtype, 'macaddr'::regtype)
    order by a.attnum limit 1;
  if not found then
    raise exception 'no column to spread table "%" by was found', relation using errcode = '22023',
      hint = 'Name one with partitioning_column, or create the table with PARTITION BY HASH (…).';
  end if;
  raise notice using message = format('table "%s" is spread over the data nodes by column "%s"', relation, chosen),
    hint = 'Pass partitioning_column to choose another one.';
  return chosen;
end
$$;

-- Indexes of a table as its shards get them.
create function varve._index_definitions(relation regclass)
returns table (index_oid oid, name name, definition text, note text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  prefix text;
  whole text;
begin
  for index_oid, name, note, whole, prefix in
    select c.oid, c.relname, obj_description(c.oid, 'pg_class'), pg_get_indexdef(c.oid),
      format('CREATE INDEX %I ON %s%I.%I ', c.relname, case t.relkind when 'p' then 'ONLY ' else '' end, n.nspname, t.relname)
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
      join pg_namespace n on n.oid = t.relnamespace
    where i.indrelid = relation order by c.oid
  loop
    if not starts_with(whole, prefix) then
      raise exception 'index "%" cannot be made on the data nodes', name using errcode = '0A000',
        detail = whole, hint = 'Drop it, and create it anew afterwards.';
    end if;
    definition := substr(whole, length(prefix) + 1);
    return next;
  end loop;
end
$$;

-- The indexes of a table that becomes a hypertable, numbered, and the one on time where it has none:
-- [{number, name, definition, note}]
create function varve._planned_indexes(relation regclass, time_column name, create_default boolean) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  indexes jsonb;
  has_time boolean;
  table_name name;
  schema name;
  base text;
  free text;
begin
  select n.nspname, c.relname into schema, table_name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
  select coalesce(jsonb_agg(jsonb_build_object('number', d.number, 'name', d.name, 'definition', d.definition,
      'note', d.note) order by d.number), '[]') into indexes
    from (select row_number() over () as number, * from varve._index_definitions(relation)) d;
  select exists (
    select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = relation and a.attname = time_column) into has_time;
  if create_default and not has_time then
    base := varve._cut(table_name || '_' || time_column, 55) || '_idx';
    select n into free from (select base as n, 0 as k union all select base || k, k from generate_series(1, 999) k) names
      where to_regclass(format('%I.%I', schema, n)) is null order by k limit 1;
    indexes := indexes || jsonb_build_object('number', jsonb_array_length(indexes) + 1, 'name', free,
      'definition', format('USING btree (%I DESC)', time_column), 'note', null);
  end if;
  return indexes;
end
$$;

-- The index on the parent; it has no rows of its own, and shows what the shards have.
create function varve._create_parent_index(relation regclass, index jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  schema name := (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
begin
  if to_regclass(format('%I.%I', schema, index ->> 'name')) is null then
    execute format('create index %I on %s %s', index ->> 'name', relation, index ->> 'definition');
    if index ->> 'note' is not null then
      execute format('comment on index %I.%I is %L', schema, index ->> 'name', index ->> 'note');
    end if;
  end if;
end
$$;

-- The nodes that a hypertable is put on: the given ones, or all that are available and that the caller may use.
create function varve._choose_nodes(caller name, given name[]) returns name[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node varve.data_node;
  name name;
  chosen name[];
begin
  if cardinality(given) = 0 or array_position(given, null) is not null then
    raise exception 'data_nodes must name data nodes or be NULL for all' using errcode = '22023';
  end if;
  foreach name in array coalesce(given, '{}') loop
    node := varve._node(name);
    if not has_server_privilege(caller, name::text, 'USAGE') then
      raise exception 'permission denied for foreign server %', name using errcode = '42501',
        hint = format('GRANT USAGE ON FOREIGN SERVER %I TO %I lets this role use the data node.', name, caller);
    elsif not node.available then
      raise exception 'data node "%" is not available', name using errcode = '55000',
        hint = format('SELECT alter_data_node(%L, available => true) when it is up again, or leave it out.', name);
    end if;
  end loop;
  if given is not null then
    return array(select distinct n from unnest(given) n order by n);
  end if;
  chosen := array(select n.node_name from varve.data_node n
    where n.available and has_server_privilege(caller, n.node_name::text, 'USAGE') order by n.node_name);
  if cardinality(chosen) = 0 then
    raise exception 'no data nodes can be assigned to the hypertable' using errcode = 'TS170',
      detail = case when exists (select from varve.data_node) then 'Data nodes exist, but none is available to this role.'
        else 'There are no data nodes.' end,
      hint = case when exists (select from varve.data_node)
        then format('GRANT USAGE ON FOREIGN SERVER … TO %I lets this role use a data node; varve.data_nodes shows which are available.', caller)
        else 'Add data nodes with add_data_node.' end;
  end if;
  return chosen;
end
$$;

-- Has the daemon make the shards' tables. They are INITIALIZING until varve._adopt_shards has seen the foreign
-- tables that lead to them; what is committed before that is dropped by the daemon. `spec` is the request's part
-- about the table; the result is the daemon's list of what it made.
create function varve._place_shards(caller name, p_operation text, p_hypertable uuid, spec jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
  made jsonb;
  login record;
begin
  perform varve._assume(caller);
  select * into strict hypertable from varve.hypertable h where h.uuid = p_hypertable;
  -- Anybody may call this function; it must not lend the daemon to more than what its caller could do.
  if hypertable.changing is distinct from pg_current_xact_id()
    or p_operation not in ('create_distributed_hypertable', 'attach_data_node', 'detach_data_node') then
    raise exception 'hypertable % is not being changed in this transaction', p_hypertable using errcode = '55000';
  end if;
  if p_operation <> 'create_distributed_hypertable' then
    spec := spec || varve._shard_facts(hypertable);
  end if;
  made := varve._rpc(varve._request(p_operation, caller, spec || jsonb_build_object('hypertable', p_hypertable)));
  insert into varve.hypertable_index (hypertable_id, number, index_name, definition)
    select hypertable.id, i.number, i.name, i.definition
    from jsonb_to_recordset(spec -> 'indexes') as i(number integer, name name, definition text)
    on conflict do nothing;
  insert into varve.shard (hypertable, number, state, node_name, node_uuid, host, port, database, schema_name,
      table_name, owner)
    select p_hypertable, s.number, 'INITIALIZING', n.node_name, n.node_uuid, n.host, n.port, n.database, s.schema,
      s.table, caller
    from jsonb_to_recordset(made -> 'shards') as s(number integer, node name, schema name, "table" name)
      join varve.data_node n on n.node_name = s.node;
  -- Whoever could make the tables there can have a user mapping for its queries.
  for login in
    select n as node, l.login
    from jsonb_to_recordset(made -> 'logins') as l(node name, login jsonb) join varve.data_node n on n.node_name = l.node
    where not exists (select from pg_user_mappings m where m.srvname = n.node_name and m.usename in (caller, 'public'))
  loop
    perform varve._derive_server(login.node, caller, login.login);
  end loop;
  return made;
end
$$;

-- A row for the table that is being made, without the table: that comes with varve._adopt_shards.
create function varve._prepare_hypertable(caller name, facts jsonb, nodes name[]) returns varve.hypertable
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
begin
  perform varve._assume(caller);
  insert into varve.hypertable (uuid, time_column, time_type, chunk_interval, shard_count, table_prefix, table_schema,
      changing)
    values (gen_random_uuid(), facts ->> 'timeColumn', facts ->> 'timeType', (facts ->> 'chunkInterval')::bigint,
      (facts ->> 'shardCount')::integer, facts ->> 'prefix', facts ->> 'schema', pg_current_xact_id())
    returning * into hypertable;
  insert into varve.hypertable_node (hypertable_id, node_name)
    select hypertable.id, n from unnest(varve._choose_nodes(caller, nodes)) n;
  return hypertable;
end
$$;

-- Takes the foreign tables of `relation` as the shards' ways in, when they lead where the daemon made tables, and
-- lets go of those that were replaced.
create function varve._adopt_shards(caller name, p_relation regclass, p_hypertable uuid) returns varve.hypertable
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
  count integer;
begin
  perform varve._assume(caller);
  perform varve._check_table_owner(caller, p_relation);
  select * into strict hypertable from varve.hypertable h where h.uuid = p_hypertable for update;
  if hypertable.changing is distinct from pg_current_xact_id()
    or hypertable.relation is distinct from p_relation and hypertable.relation is not null then
    raise exception 'hypertable % is not being changed in this transaction', p_hypertable using errcode = '55000';
  end if;
  update varve.shard s set partition = null, state = 'LEAVING', only_empty = true
    where s.hypertable = p_hypertable and s.state = 'AVAILABLE' and exists (
      select from varve.shard t where t.hypertable = p_hypertable and t.number = s.number and t.state = 'INITIALIZING');
  update varve.shard s set partition = p.oid, state = 'AVAILABLE'
    from pg_inherits i join pg_class p on p.oid = i.inhrelid join pg_foreign_table f on f.ftrelid = p.oid
      join pg_foreign_server v on v.oid = f.ftserver
    where s.hypertable = p_hypertable and s.state = 'INITIALIZING' and i.inhparent = p_relation
      and v.srvname = s.node_name
      and f.ftoptions @> array['schema_name=' || s.schema_name, 'table_name=' || s.table_name]
      and pg_get_expr(p.relpartbound, p.oid)
        = format('FOR VALUES WITH (modulus %s, remainder %s)', hypertable.shard_count, s.number);
  select count(*) into count from varve.shard s where s.hypertable = p_hypertable and s.state = 'AVAILABLE';
  if count <> hypertable.shard_count
    or exists (select from varve.shard s where s.hypertable = p_hypertable and s.state = 'INITIALIZING') then
    raise exception 'the foreign tables of "%" do not lead to its shards', p_relation using errcode = 'XX000';
  end if;
  update varve.hypertable h
    set relation = p_relation, changing = null, structure = varve._structure(p_relation),
      grants = varve._shard_grants(p_relation)
    where h.uuid = p_hypertable returning * into hypertable;
  return hypertable;
end
$$;

-- The parts of a request that describe a table to its shards.
create function varve._table_spec(relation regclass, hypertable varve.hypertable) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'table', jsonb_build_object('schema', n.nspname, 'name', c.relname),
    'timeColumn', hypertable.time_column, 'timeType', hypertable.time_type,
    'chunkInterval', hypertable.chunk_interval::text, 'shardCount', hypertable.shard_count,
    'columns', (
      select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
          'collation', case when a.attcollation not in (0, t.typcollation) then a.attcollation::regcollation::text end,
          'notNull', a.attnotnull or a.attname = hypertable.time_column) order by a.attnum)
      from pg_attribute a join pg_type t on t.oid = a.atttypid
      where a.attrelid = relation and a.attnum > 0 and not a.attisdropped),
    'checks', (
      select coalesce(jsonb_agg(jsonb_build_object('name', k.conname, 'definition',
          'CHECK (' || pg_get_expr(k.conbin, k.conrelid) || ')') order by k.conname), '[]')
      from pg_constraint k where k.conrelid = relation and k.contype = 'c'),
    'grants', varve._shard_grants(relation))
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation
$$;

-- Puts a partitioned table in the place of an ordinary, empty one: same name, columns, defaults, constraints,
-- comments, sequences, owner and grants. Its indexes are made afterwards.
create function varve._replace_table(relation regclass, key_column name) returns regclass
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  schema name;
  name name;
  owner name;
  old name := 'varve_' || replace(gen_random_uuid()::text, '-', '');
  replaced regclass;
  part record;
begin
  select n.nspname, c.relname, pg_get_userbyid(c.relowner) into schema, name, owner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
  execute format('alter table %I.%I rename to %I', schema, name, old);
  execute format('create table %1$I.%2$I (like %1$I.%3$I including defaults including constraints including comments including storage including compression including identity) partition by hash (%4$I)',
    schema, name, old, key_column);
  replaced := format('%I.%I', schema, name)::regclass;
  if owner <> current_user then
    execute format('alter table %s owner to %I', replaced, owner);
  end if;
  for part in
    select d.objid::regclass as sequence, a.attname, d.deptype
    from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S'
      join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = relation
      and d.deptype in ('a', 'i')
  loop
    if part.deptype = 'a' then
      execute format('alter sequence %s owned by %s.%I', part.sequence, replaced, part.attname);
    else
      execute format('select setval(%L, s.last_value, s.is_called) from %s s',
        pg_get_serial_sequence(replaced::text, part.attname), part.sequence);
    end if;
  end loop;
  for part in
    select a.attname, (to_jsonb(a) ->> 'attstattarget')::integer as target, array_to_string(a.attoptions, ', ') as options
    from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
  loop
    if part.target >= 0 then
      execute format('alter table %s alter column %I set statistics %s', replaced, part.attname, part.target);
    end if;
    if part.options <> '' then
      execute format('alter table %s alter column %I set (%s)', replaced, part.attname, part.options);
    end if;
  end loop;
  if obj_description(relation, 'pg_class') is not null then
    execute format('comment on table %s is %L', replaced, obj_description(relation, 'pg_class'));
  end if;
  perform varve._copy_grants(relation, replaced);
  execute format('drop table %I.%I', schema, old);
  return replaced;
end
$$;

-- Default privileges may have granted things on the new table that the old one did not have.
create function varve._copy_grants(source regclass, target regclass) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  entry record;
begin
  for entry in
    select distinct case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role
    from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a where c.oid = target
  loop
    execute format('revoke all on %s from %s', target, entry.role);
  end loop;
  for entry in
    select a.privilege_type as privilege, a.is_grantable, '' as columns,
      case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role
    from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a where c.oid = source
    union all
    select a.privilege_type, a.is_grantable, format('(%I)', t.attname),
      case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
    from pg_attribute t, aclexplode(t.attacl) a where t.attrelid = source and not t.attisdropped
  loop
    execute format('grant %s %s on %s to %s %s', entry.privilege, entry.columns, target, entry.role,
      case when entry.is_grantable then 'with grant option' else '' end);
  end loop;
end
$$;

-- The foreign table for one shard. `shard` is an element of the daemon's list.
create function varve._create_partition(relation regclass, hypertable varve.hypertable, shard jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  number text := shard ->> 'number';
  suffix text := '_s' || lpad(number, greatest(2, length((hypertable.shard_count - 1)::text)), '0');
  name text := format('%I.%I', hypertable.table_schema,
    varve._cut(hypertable.table_prefix, 63 - length(suffix)) || suffix);
  owner name := (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = relation);
begin
  execute format('create foreign table %s partition of %s for values with (modulus %s, remainder %s) server %I options (schema_name %L, table_name %L)',
    name, relation, hypertable.shard_count, number, shard ->> 'node', shard ->> 'schema', shard ->> 'table');
  execute format('create trigger varve_shard before insert or update or delete on %s for each statement execute function varve._refuse_direct_write()', name);
  if owner <> current_user then
    execute format('alter foreign table %s owner to %I', name, owner);
  end if;
end
$$;

-- The facts of the table that a call asks for: {timeColumn, timeType, chunkInterval, shardCount, key, isReplaced,
-- prefix, schema}. Refuses what cannot be.
create function varve._check_new_hypertable(relation regclass, arguments jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  class pg_class;
  facts jsonb;
  keys name[];
  time_column name := arguments ->> 'time_column_name';
  given name := arguments ->> 'partitioning_column';
  shard_count integer := coalesce((arguments ->> 'number_partitions')::integer, 32);
  filled boolean;
begin
  select * into class from pg_class c where c.oid = relation;
  if shard_count not between 1 and 4096 then
    raise exception 'invalid number_partitions %', shard_count using errcode = '22023',
      hint = 'It is the number of shards, between 1 and 4096; 32 when left out.';
  end if;
  facts := jsonb_build_object('timeColumn', time_column, 'timeType', varve._time_type(relation, time_column),
    'shardCount', shard_count, 'isReplaced', class.relkind = 'r',
    'schema', coalesce(arguments ->> 'associated_schema_name',
      (select n.nspname from pg_namespace n where n.oid = class.relnamespace)),
    'prefix', coalesce(arguments ->> 'associated_table_prefix', class.relname));
  facts := facts || jsonb_build_object('chunkInterval', varve._chunk_interval(facts ->> 'timeType',
    arguments ->> 'chunk_time_interval', arguments ->> 'chunk_interval_type')::text);
  if class.relkind = 'p' then
    select array(select a.attname from unnest(p.partattrs) with ordinality k(attnum, o)
        join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum order by k.o) into keys
      from pg_partitioned_table p where p.partrelid = relation and p.partstrat = 'h' and not (0 = any (p.partattrs));
    if not found then
      raise exception 'table "%" is not partitioned by the hash of columns', relation using errcode = '0A000',
        detail = format('Its partition key is %s.', pg_get_partkeydef(relation)),
        hint = 'Declare it PARTITION BY HASH (…) with the columns that tell series apart, or as an ordinary table.';
    elsif given is not null and keys <> array[given] then
      raise exception 'table "%" has a partition key of its own: %', relation, pg_get_partkeydef(relation)
        using errcode = '22023', hint = 'Leave partitioning_column out.';
    end if;
  else
    keys := array[varve._partitioning_column(relation, time_column, given)];
  end if;
  perform varve._refuse_obstacles(relation, class.relkind = 'r');
  execute format('select exists (select from %s)', relation) into filled;
  if filled and (arguments ->> 'migrate_data')::boolean then
    raise exception 'migrate_data is not supported by create_distributed_hypertable' using errcode = '0A000',
      hint = 'Rename the table, distribute an empty one of its name, and INSERT INTO new SELECT * FROM old.';
  elsif filled then
    raise exception 'table "%" is not empty', relation using errcode = '0A000',
      hint = 'Rename the table, distribute an empty one of its name, and INSERT INTO new SELECT * FROM old.';
  end if;
  return facts || jsonb_build_object('key', keys);
end
$$;

create function varve._create_distributed_hypertable(caller name, p_relation regclass, arguments jsonb)
returns table (r_id integer, r_schema name, r_table name, r_created boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  relation regclass := p_relation;
  kind "char";
  hypertable varve.hypertable;
  nodes name[] := case when arguments ->> 'data_nodes' is not null
    then array(select n::name from jsonb_array_elements_text(arguments -> 'data_nodes') n) end;
  facts jsonb;
  made jsonb;
  indexes jsonb;
begin
  perform varve._refuse_read_only('create_distributed_hypertable');
  if relation is null then
    raise exception 'relation cannot be NULL' using errcode = '22023';
  end if;
  perform varve._refuse_unsupported(arguments);
  select n.nspname, c.relname, c.relkind into r_schema, r_table, kind
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
  if not found then
    raise exception 'table with OID % does not exist', relation::oid using errcode = '42P01';
  elsif kind not in ('r', 'p') then
    raise exception '"%" is not a table', relation using errcode = '42809';
  end if;
  perform varve._check_table_owner(caller, relation);
  execute format('lock table %I.%I in access exclusive mode', r_schema, r_table);
  -- Another call may have replaced the table while this one waited.
  relation := format('%I.%I', r_schema, r_table)::regclass;
  select h.id into r_id from varve.hypertables h
    where h.hypertable_schema = r_schema and h.hypertable_name = r_table;
  if found then
    if not (arguments ->> 'if_not_exists')::boolean then
      raise exception 'table "%" is already a distributed hypertable', relation using errcode = 'TS110';
    end if;
    raise notice using errcode = 'TS110', message = format('table "%s" is already a distributed hypertable, skipping', relation);
    r_created := false;
    return next;
    return;
  end if;

  facts := varve._check_new_hypertable(relation, arguments);
  if not has_schema_privilege(facts ->> 'schema', 'CREATE') then
    raise exception 'permission denied for schema %', facts ->> 'schema' using errcode = '42501';
  end if;
  if not (select a.attnotnull from pg_attribute a
    where a.attrelid = relation and a.attname = facts ->> 'timeColumn') then
    raise notice using message = format('adding not-null constraint to column "%s"', facts ->> 'timeColumn'),
      detail = 'Time dimensions cannot have NULL values.';
    execute format('alter table %s alter column %I set not null', relation, facts ->> 'timeColumn');
  end if;
  nodes := varve._choose_nodes(caller, nodes);
  hypertable := varve._prepare_hypertable(caller, facts, nodes);
  indexes := varve._planned_indexes(relation, hypertable.time_column, (arguments ->> 'create_default_indexes')::boolean);
  -- What can go wrong here goes wrong before the daemon is asked.
  if (facts ->> 'isReplaced')::boolean then
    relation := varve._replace_table(relation, facts #>> '{key,0}');
  end if;
  execute format('create trigger varve_key before update of %s on %s for each statement execute function varve._refuse_key_update()',
    (select string_agg(format('%I', k), ', ') from jsonb_array_elements_text(facts -> 'key') k), relation);
  perform varve._create_parent_index(relation, i) from jsonb_array_elements(indexes) i;
  made := varve._place_shards(caller, 'create_distributed_hypertable', hypertable.uuid,
    varve._table_spec(relation, hypertable) || jsonb_build_object('indexes', indexes, 'nodes', to_jsonb(nodes)));
  perform varve._create_partition(relation, hypertable, s) from jsonb_array_elements(made -> 'shards') s;
  r_id := (varve._adopt_shards(caller, relation, hypertable.uuid)).id;
  r_created := true;
  return next;
end
$$;

create function @extschema@.create_distributed_hypertable(
  relation regclass, time_column_name name, partitioning_column name default null,
  number_partitions integer default null, associated_schema_name name default null,
  associated_table_prefix name default null, chunk_time_interval anyelement default null::bigint,
  create_default_indexes boolean default true, if_not_exists boolean default false,
  partitioning_func regproc default null, migrate_data boolean default false, chunk_target_size text default null,
  chunk_sizing_func regproc default null, time_partitioning_func regproc default null,
  replication_factor integer default null, data_nodes name[] default null)
returns table (hypertable_id integer, schema_name name, table_name name, created boolean)
-- The standard's form of body cannot have an argument of any type.
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select * from varve._create_distributed_hypertable(current_user::name, $1, jsonb_build_object(
    'time_column_name', $2, 'partitioning_column', $3, 'number_partitions', $4, 'associated_schema_name', $5,
    'associated_table_prefix', $6, 'chunk_time_interval', $7::text, 'chunk_interval_type', pg_typeof($7)::text,
    'create_default_indexes', coalesce($8, true), 'if_not_exists', coalesce($9, false), 'partitioning_func', $10,
    'migrate_data', coalesce($11, false), 'chunk_target_size', $12, 'chunk_sizing_func', $13,
    'time_partitioning_func', $14, 'replication_factor', $15, 'data_nodes', $16))
$$;
