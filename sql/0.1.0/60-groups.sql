-- Access nodes of a group share the registry: its rows are replicated from the write master (varve._group_tables),
-- and what is derived from them, foreign servers, user mappings and the foreign tables of shards, each has for itself.
-- It is made in the stream of changes where that is possible, and repaired by the daemon (varve._derive_group).

-- Tables of this extension whose rows are the group's, and which columns of them.
create function varve._group_tables() returns table (relation regclass, columns text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('varve.%I', t.name)::regclass, (
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
    where a.attrelid = format('varve.%I', t.name)::regclass and a.attnum > 0 and not a.attisdropped
      and a.attname <> all (t.own))
  from (values ('identity', '{}'::name[]), ('data_node', '{}'),
    -- A transaction of the write master, and how the table looks with that node's foreign tables.
    ('hypertable', '{changing,structure}'), ('hypertable_node', '{}'), ('hypertable_index', '{}'), ('shard', '{}')) as t(name, own)
$$;
revoke execute on function varve._group_tables() from public;

-- A member is given the identity of the group, in place of the one that it was made with.
create function varve._replace_identity() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  delete from varve.identity;
  return new;
end
$$;
create trigger varve_group before insert on varve.identity for each row execute function varve._replace_identity();
alter table varve.identity enable replica trigger varve_group;

-- The foreign table of a shard, here: made, or made anew where it leads elsewhere.
create function varve._derive_partition(p_shard varve.shard) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
  bound text;
  child record;
begin
  select * into hypertable from varve.hypertable h where h.uuid = p_shard.hypertable;
  if p_shard.state <> 'AVAILABLE' or hypertable.relation is null
    or not exists (select from pg_class c where c.oid = hypertable.relation and c.relkind = 'p') then
    return;
  end if;
  bound := format('FOR VALUES WITH (modulus %s, remainder %s)', hypertable.shard_count, p_shard.number);
  for i in 1 .. 2 loop
    select c.oid::regclass as partition, v.srvname = p_shard.node_name and f.ftoptions
        @> array['schema_name=' || p_shard.schema_name, 'table_name=' || p_shard.table_name] as is_right
      into child
      from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_foreign_table f on f.ftrelid = c.oid
        join pg_foreign_server v on v.oid = f.ftserver
      where i.inhparent = hypertable.relation and pg_get_expr(c.relpartbound, c.oid) = bound;
    exit when child.is_right;
    if child.partition is not null then
      delete from varve.shard_partition sp where sp.partition = child.partition;
      execute format('drop foreign table %s', child.partition);
    end if;
    perform varve._create_partition(hypertable.relation, hypertable, jsonb_build_object('number', p_shard.number,
      'node', p_shard.node_name, 'schema', p_shard.schema_name, 'table', p_shard.table_name));
  end loop;
  delete from varve.shard_partition sp where sp.partition = child.partition and sp.shard_id <> p_shard.id;
  insert into varve.shard_partition as sp (shard_id, partition) values (p_shard.id, child.partition)
    on conflict (shard_id) do update set partition = excluded.partition where sp.partition <> excluded.partition;
end
$$;
revoke execute on function varve._derive_partition(varve.shard) from public;

-- Foreign servers whose data node was deleted on the write master.
create table varve.leftover_server (
  node_name name primary key
);

-- Everything that this access node derives and does not have yet, or has no more use for. Says what could not be done.
create function varve._derive_group() returns table (what text, error text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  shard varve.shard;
  change record;
begin
  delete from varve.shard_partition sp
    where not exists (select from varve.shard s where s.id = sp.shard_id and s.state = 'AVAILABLE')
      or not exists (select from pg_class c where c.oid = sp.partition);
  for shard in
    select s.* from varve.shard s join varve.hypertable h on h.uuid = s.hypertable and h.relation is not null
      left join varve.shard_partition sp on sp.shard_id = s.id
      left join pg_foreign_table f on f.ftrelid = sp.partition left join pg_foreign_server v on v.oid = f.ftserver
    where s.state = 'AVAILABLE' and (v.srvname is distinct from s.node_name
      or not coalesce(f.ftoptions @> array['schema_name=' || s.schema_name, 'table_name=' || s.table_name], false))
    order by s.hypertable, s.number
  loop
    begin
      perform varve._derive_partition(shard);
    exception
      when others then
        what := format('foreign table of shard %s of %s', shard.number, shard.hypertable);
        error := sqlerrm;
        return next;
    end;
  end loop;
  for change in
    select p.oid::regclass as partition, pg_get_userbyid(c.relowner) as owner
    from varve.hypertable h join pg_class c on c.oid = h.relation join pg_inherits i on i.inhparent = c.oid
      join pg_class p on p.oid = i.inhrelid where p.relowner <> c.relowner
  loop
    execute format('alter foreign table %s owner to %I', change.partition, change.owner);
  end loop;
  for change in
    select l.node_name from varve.leftover_server l
  loop
    begin
      if not exists (select from varve.data_node n where n.node_name = change.node_name) then
        perform varve._drop_server(change.node_name);
      end if;
      delete from varve.leftover_server l where l.node_name = change.node_name;
    exception
      when others then
        what := format('foreign server %s of a deleted data node', change.node_name);
        error := sqlerrm;
        return next;
    end;
  end loop;
end
$$;
revoke execute on function varve._derive_group() from public;

-- A new write master, before clients are let in: what it derived is what changes are compared with from now on.
create function varve._become_write_master() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform varve._derive_group();
  -- The members of the first hour have each an identity of their own: this one's becomes that of all.
  update varve.identity set uuid = uuid;
  -- Numbers that the former one drew for calls that were never committed may still be in use on the data nodes.
  perform setval('varve.hypertable_index_number', 1000 + greatest((select s.last_value from varve.hypertable_index_number s),
    (select max(i.number) from varve.hypertable_index i)));
  update varve.hypertable h set changing = null, structure = varve._structure(h.relation)
    where exists (select from pg_class c where c.oid = h.relation);
end
$$;
revoke execute on function varve._become_write_master() from public;

-- Rows that come from the write master take effect here at once. What fails is left to the daemon: nothing here may
-- hold up the stream of changes.
create function varve._on_group_row() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  shard varve.shard;
begin
  if tg_table_name = 'data_node' and tg_op = 'DELETE' then
    insert into varve.leftover_server (node_name) values (old.node_name) on conflict do nothing;
    perform varve._drop_server(old.node_name);
    delete from varve.leftover_server l where l.node_name = old.node_name;
  elsif tg_table_name = 'data_node' then
    perform varve._derive_server(new, null, null);
  elsif tg_table_name = 'shard' then
    perform varve._derive_partition(new);
  else
    for shard in select * from varve.shard s where s.hypertable = new.uuid and s.state = 'AVAILABLE' loop
      perform varve._derive_partition(shard);
    end loop;
  end if;
  return null;
exception
  when others then
    raise log 'left to the daemon: %', sqlerrm;
    if tg_table_name = 'data_node' and tg_op = 'DELETE' then
      insert into varve.leftover_server (node_name) values (old.node_name) on conflict do nothing;
    end if;
    return null;
end
$$;
revoke execute on function varve._on_group_row() from public;

create trigger varve_group after insert or update or delete on varve.data_node
  for each row execute function varve._on_group_row();
create trigger varve_group after insert or update on varve.shard
  for each row execute function varve._on_group_row();
create trigger varve_group after insert or update on varve.hypertable
  for each row execute function varve._on_group_row();
alter table varve.data_node enable replica trigger varve_group;
alter table varve.shard enable replica trigger varve_group;
alter table varve.hypertable enable replica trigger varve_group;

-- What these make is each member's own, and not for the group's queue of structure. Only a superuser may tie a
-- setting that no library knows to a function; the servers of a group have one, and elsewhere nobody asks.
do $$
declare
  own regprocedure;
begin
  if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    return;
  end if;
  for own in
    select p.oid from pg_catalog.pg_proc p
     where p.pronamespace = 'varve'::regnamespace
       and p.proname in ('_derive_server', '_drop_server', '_create_partition', '_drop_partition',
                         '_follow_owner', '_derive_partition', '_derive_group', '_on_group_row')
  loop
    execute format('alter function %s set varve_group.ddl = %L', own, 'local');
  end loop;
end
$$;
