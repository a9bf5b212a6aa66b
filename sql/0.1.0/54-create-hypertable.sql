-- create_distributed_hypertable. What touches the user's table runs as the caller, with the caller's rights; only
-- the catalog and the call to the daemon run as the owner of these functions.

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
  update varve.shard s set state = 'LEAVING', only_empty = true
    where s.hypertable = p_hypertable and s.state = 'AVAILABLE' and exists (
      select from varve.shard t where t.hypertable = p_hypertable and t.number = s.number and t.state = 'INITIALIZING');
  delete from varve.shard_partition sp using varve.shard s
    where s.id = sp.shard_id and s.hypertable = p_hypertable and s.state = 'LEAVING';
  with adopted as (
    update varve.shard s set state = 'AVAILABLE'
    from pg_inherits i join pg_class p on p.oid = i.inhrelid join pg_foreign_table f on f.ftrelid = p.oid
      join pg_foreign_server v on v.oid = f.ftserver
    where s.hypertable = p_hypertable and s.state = 'INITIALIZING' and i.inhparent = p_relation
      and v.srvname = s.node_name
      and f.ftoptions @> array['schema_name=' || s.schema_name, 'table_name=' || s.table_name]
      and pg_get_expr(p.relpartbound, p.oid)
        = format('FOR VALUES WITH (modulus %s, remainder %s)', hypertable.shard_count, s.number)
    returning s.id, p.oid as partition
  )
  insert into varve.shard_partition (shard_id, partition) select a.id, a.partition from adopted a;
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

-- The foreign table for one shard. `shard` is an element of the daemon's list. Access nodes of a group have one each.
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
