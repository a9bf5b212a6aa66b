-- Which data nodes hold shards of a hypertable. A shard without rows can be put on another node in the caller's
-- transaction: its foreign table is replaced while the hypertable is locked, and the empty table left behind is
-- dropped after the commit. One with rows stays where it is.

-- The hypertable to be changed, in the name of `caller`, who must own it and may use the node.
create function varve._begin_change(caller name, p_node name, p_relation regclass) returns varve.hypertable
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  node varve.data_node;
  hypertable varve.hypertable;
begin
  perform varve._assume(caller);
  node := varve._node(p_node);
  hypertable := varve._hypertable(p_relation);
  perform varve._check_table_owner(caller, p_relation);
  if not has_server_privilege(caller, p_node::text, 'USAGE') then
    raise exception 'permission denied for foreign server %', p_node using errcode = '42501';
  end if;
  update varve.hypertable h set changing = pg_current_xact_id() where h.id = hypertable.id returning * into hypertable;
  return hypertable;
end
$$;

create function varve._end_change(caller name, p_hypertable varve.hypertable, p_node name, p_is_member boolean)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform varve._assume(caller);
  -- Not what the argument says: anybody may call this.
  select * into p_hypertable from varve.hypertable h where h.id = p_hypertable.id and h.changing = pg_current_xact_id();
  if not found then
    raise exception 'hypertable % is not being changed in this transaction', p_hypertable.uuid using errcode = '55000';
  end if;
  if p_is_member then
    insert into varve.hypertable_node (hypertable_id, node_name) values (p_hypertable.id, p_node) on conflict do nothing;
  elsif exists (select from varve.shard s
    where s.hypertable = p_hypertable.uuid and s.node_name = p_node and s.state <> 'LEAVING') then
    raise exception 'data node "%" still holds shards of "%"', p_node, p_hypertable.relation using errcode = 'XX000';
  else
    delete from varve.hypertable_node m where m.hypertable_id = p_hypertable.id and m.node_name = p_node;
  end if;
  update varve.hypertable h set changing = null where h.id = p_hypertable.id and h.structure = varve._structure(h.relation);
  if not found then
    raise exception 'hypertable "%" was changed otherwise', p_hypertable.relation using errcode = '55000';
  end if;
end
$$;

-- The indexes and shards of a hypertable, for the daemon.
create function varve._shard_facts(p_hypertable varve.hypertable) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'indexes', (
      select coalesce(jsonb_agg(jsonb_build_object('number', i.number, 'definition', i.definition, 'name', i.index_name)
        order by i.number), '[]')
      from varve.hypertable_index i where i.hypertable_id = p_hypertable.id and not i.dropped),
    'nodes', (select coalesce(jsonb_agg(m.node_name order by m.node_name), '[]')
      from varve.hypertable_node m where m.hypertable_id = p_hypertable.id),
    'shards', (
      select coalesce(jsonb_agg(jsonb_build_object('number', s.number, 'node', s.node_name, 'schema', s.schema_name,
        'table', s.table_name, 'owner', s.owner, 'password', varve._mapped_password(s.node_name, s.owner))
        order by s.number), '[]')
      from varve.shard s where s.hypertable = p_hypertable.uuid and s.state = 'AVAILABLE'))
$$;
revoke execute on function varve._shard_facts(varve.hypertable) from public;

-- Has the daemon choose and make the shards that move, and puts their foreign tables in the place of the old ones.
-- Returns how many moved, and how many would have but hold rows. The caller holds an exclusive lock on the table.
create function varve._move_shards(caller name, p_operation text, p_node name, p_hypertable varve.hypertable)
returns table (moved integer, kept integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  made jsonb := varve._place_shards(caller, p_operation, p_hypertable.uuid,
    varve._table_spec(p_hypertable.relation, p_hypertable) || jsonb_build_object('node', p_node));
  place jsonb;
begin
  for place in select * from jsonb_array_elements(made -> 'shards') loop
    perform varve._drop_partition(s.partition) from varve.shards s
      where s.hypertable_uuid = p_hypertable.uuid and s.state = 'AVAILABLE' and s.shard = (place ->> 'number')::integer;
    perform varve._create_partition(p_hypertable.relation, p_hypertable, place);
  end loop;
  moved := jsonb_array_length(made -> 'shards');
  kept := (made ->> 'kept')::integer;
  if moved > 0 then
    perform varve._adopt_shards(caller, p_hypertable.relation, p_hypertable.uuid);
    perform varve._begin_change(caller, p_node, p_hypertable.relation);
  end if;
  return next;
end
$$;

create function varve._drop_partition(partition regclass) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$ begin execute format('drop foreign table %s', partition); end $$;

create function varve._attach_data_node(
  caller name, p_node name, p_relation regclass, p_if_not_attached boolean, p_repartition boolean)
returns table (r_hypertable_id integer, r_node_hypertable_id integer, r_node name)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
  change record;
begin
  perform varve._refuse_read_only('attach_data_node');
  perform varve._check_table_owner(caller, p_relation);
  if p_repartition and exists (select from varve.hypertables h where h.relation = p_relation) then
    execute format('lock table %s in access exclusive mode', p_relation);
  end if;
  hypertable := varve._begin_change(caller, p_node, p_relation);
  r_hypertable_id := hypertable.id;
  r_node_hypertable_id := hypertable.id;
  r_node := p_node;
  if exists (select from varve.hypertables h where h.id = hypertable.id and p_node = any (h.data_nodes)) then
    if not p_if_not_attached then
      raise exception 'data node "%" is already attached to hypertable "%"', p_node, p_relation using errcode = 'TS172';
    end if;
    raise notice using errcode = 'TS172',
      message = format('data node "%s" is already attached to hypertable "%s", skipping', p_node, p_relation);
    perform varve._end_change(caller, hypertable, p_node, true);
    return next;
    return;
  end if;
  perform varve._choose_nodes(caller, array[p_node]);
  if p_repartition then
    select * into change from varve._move_shards(caller, 'attach_data_node', p_node, hypertable);
    if change.kept > 0 then
      raise notice using message = format('%s shards of "%s" hold rows and stay where they are', change.kept, p_relation),
        detail = format('%s shards without rows were put on data node "%s".', change.moved, p_node),
        hint = 'This version moves shards without rows only.';
    end if;
  end if;
  perform varve._end_change(caller, hypertable, p_node, true);
  return next;
end
$$;

create function @extschema@.attach_data_node(
  node_name name, hypertable regclass, if_not_attached boolean default false, repartition boolean default true)
returns table (hypertable_id integer, node_hypertable_id integer, node_name name)
language sql volatile
begin atomic
  select * from varve._attach_data_node(current_user::name, $1, $2, coalesce($3, false), coalesce($4, true));
end;

-- Takes a node out of one hypertable. Force does not help: each shard has one copy, and the last copy of rows is
-- never given up.
create function varve._leave_hypertable(caller name, p_node name, p_relation regclass) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
begin
  execute format('lock table %s in access exclusive mode', p_relation);
  hypertable := varve._begin_change(caller, p_node, p_relation);
  if not exists (select from varve.hypertables h where h.id = hypertable.id and h.data_nodes <> array[p_node]) then
    raise exception 'insufficient number of data nodes for distributed hypertable "%"', p_relation using errcode = 'TS170',
      detail = format('Data node "%s" is its only one.', p_node),
      hint = 'Attach another data node first, or drop the table.';
  end if;
  if exists (select from varve.shards s
    where s.hypertable_uuid = hypertable.uuid and s.node_name = p_node and s.state = 'AVAILABLE') then
    perform varve._move_shards(caller, 'detach_data_node', p_node, hypertable);
  end if;
  perform varve._end_change(caller, hypertable, p_node, false);
end
$$;

create function varve._detach_data_node(
  caller name, p_node name, p_relation regclass, p_if_attached boolean, p_force boolean, p_repartition boolean,
  p_drop_remote_data boolean)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  relation regclass;
  count integer := 0;
begin
  perform varve._refuse_read_only('detach_data_node');
  if p_node is null then
    raise exception 'data node name cannot be NULL' using errcode = '22023';
  elsif not exists (select from varve.data_nodes n where n.node_name = p_node) then
    raise exception 'data node "%" does not exist', p_node using errcode = '42704',
      hint = 'SELECT * FROM varve.data_nodes lists those that do.';
  end if;
  if p_relation is not null then
    if not exists (select from varve.hypertables h where h.relation = p_relation) then
      raise exception 'table "%" is not a distributed hypertable', p_relation using errcode = 'TS001',
        hint = 'SELECT * FROM varve.hypertables lists those that are.';
    end if;
    perform varve._check_table_owner(caller, p_relation);
    if not exists (select from varve.hypertables h where h.relation = p_relation and p_node = any (h.data_nodes)) then
      if not p_if_attached then
        raise exception 'data node "%" is not attached to hypertable "%"', p_node, p_relation using errcode = 'TS173';
      end if;
      raise notice using errcode = 'TS173',
        message = format('data node "%s" is not attached to hypertable "%s", skipping', p_node, p_relation);
      return 0;
    end if;
    perform varve._leave_hypertable(caller, p_node, p_relation);
    return 1;
  end if;
  for relation in
    select h.relation from varve.hypertables h where p_node = any (h.data_nodes) order by h.id
  loop
    if (select pg_has_role(caller, c.relowner, 'USAGE') from pg_class c where c.oid = relation) then
      perform varve._leave_hypertable(caller, p_node, relation);
      count := count + 1;
    else
      raise notice using errcode = '42501', message = format('skipping hypertable "%s" due to missing permissions', relation);
    end if;
  end loop;
  return count;
end
$$;

create function @extschema@.detach_data_node(
  node_name name, hypertable regclass default null, if_attached boolean default false, force boolean default false,
  repartition boolean default true, drop_remote_data boolean default false)
returns integer
language sql volatile
begin atomic
  select varve._detach_data_node(current_user::name, $1, $2, coalesce($3, false), coalesce($4, false),
    coalesce($5, true), coalesce($6, false));
end;

-- delete_data_node: the node must hold nothing. With force, shards without rows go to other nodes.
create function varve._release_shards(caller name, node varve.data_node, p_force boolean, p_repartition boolean)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  member record;
begin
  for member in
    select h.relation, c.relowner, exists (
        select from varve.shard s
        where s.hypertable = h.uuid and s.node_name = node.node_name and s.state = 'AVAILABLE') as holds_shards
    from varve.hypertable h join varve.hypertable_node m on m.hypertable_id = h.id
      join pg_class c on c.oid = h.relation
    where m.node_name = node.node_name order by h.id
  loop
    if not pg_has_role(caller, member.relowner, 'USAGE') then
      raise exception 'permission denied for hypertable "%"', member.relation using errcode = '42501',
        detail = 'The data node is attached to hypertables that the current user lacks permissions for.';
    elsif member.holds_shards and not coalesce(p_force, false) then
      raise exception 'data node "%" still holds data for distributed hypertable "%"', node.node_name, member.relation
        using errcode = 'TS504',
        hint = 'detach_data_node, or force => true, puts shards without rows on other data nodes. One with rows is never given up.';
    end if;
    perform varve._leave_hypertable(caller, node.node_name, member.relation);
  end loop;
end
$$;
revoke execute on function varve._release_shards(name, varve.data_node, boolean, boolean) from public;
