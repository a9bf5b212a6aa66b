-- What create_distributed_hypertable makes of its arguments, and what it refuses.

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
  from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
  where r.prrelid = relation and p.pubname <> 'varve'
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
    -- In a group, tables without a key have it by themselves.
    and (c.relreplident <> 'f' or to_regclass('varve_group.local') is null)
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
