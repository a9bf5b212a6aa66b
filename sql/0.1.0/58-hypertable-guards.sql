-- Other commands on distributed hypertables. What can be carried out on the data nodes is (indexes, grants, DROP);
-- what would make parent and shards differ is refused. Event triggers see to it, which only a superuser can make:
-- where the extension's owner is none, indexes and grants reach the data nodes only when told by
-- varve.sync_hypertable, dropped tables are found by the daemon, and nothing is refused.

-- Tells the daemon of something that it will find by itself later anyway. That it is not there is no reason to
-- refuse the user's command.
create function varve._tell(p_operation text, arguments jsonb, later text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  reason text;
begin
  perform varve._rpc(varve._request(p_operation, session_user, arguments));
exception
  when others then
    get stacked diagnostics reason = message_text;
    raise warning using message = reason, detail = later, errcode = '01000';
end
$$;
revoke execute on function varve._tell(text, jsonb, text) from public;

-- The table is gone or about to go: its shards are dropped when the transaction is committed.
create function varve._forget_hypertable(p_hypertable varve.hypertable) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from varve.shard_partition sp using varve.shard s where s.id = sp.shard_id and s.hypertable = p_hypertable.uuid;
  update varve.shard s set state = 'LEAVING' where s.hypertable = p_hypertable.uuid and s.state <> 'LEAVING';
  delete from varve.hypertable h where h.id = p_hypertable.id;
end
$$;
revoke execute on function varve._forget_hypertable(varve.hypertable) from public;

-- Makes the index of a parent on its shards.
create function varve._spread_index(p_hypertable varve.hypertable, p_name name, p_definition text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  next integer := nextval('varve.hypertable_index_number');
begin
  perform varve._rpc(varve._request('create_shard_index', session_user, jsonb_build_object(
    'table', p_hypertable.relation, 'number', next, 'definition', p_definition) || varve._shard_facts(p_hypertable)));
  insert into varve.hypertable_index (hypertable_id, number, index_name, definition)
    values (p_hypertable.id, next, p_name, p_definition);
end
$$;
revoke execute on function varve._spread_index(varve.hypertable, name, text) from public;

-- Indexes of the parent that its shards do not have yet are made there; one that only has a new name keeps its twins.
create function varve._follow_indexes(p_hypertable varve.hypertable) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  index record;
begin
  for index in
    select d.name, d.definition from varve._index_definitions(p_hypertable.relation) d
    where not exists (select from varve.hypertable_index i
      where i.hypertable_id = p_hypertable.id and not i.dropped and i.index_name = d.name)
  loop
    update varve.hypertable_index i set index_name = index.name
      where (i.hypertable_id, i.number) = (
        select t.hypertable_id, t.number from varve.hypertable_index t
        where t.hypertable_id = p_hypertable.id and not t.dropped and t.definition = index.definition
          and not exists (select from varve._index_definitions(p_hypertable.relation) d where d.name = t.index_name)
        limit 1);
    continue when found;
    perform varve._spread_index(p_hypertable, index.name, index.definition);
  end loop;
end
$$;
revoke execute on function varve._follow_indexes(varve.hypertable) from public;

create function varve._follow_grants(p_hypertable varve.hypertable) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  wanted jsonb := varve._shard_grants(p_hypertable.relation);
begin
  if wanted = p_hypertable.grants then
    return;
  end if;
  update varve.hypertable h set grants = wanted where h.id = p_hypertable.id;
  perform varve._tell('grant_shards', jsonb_build_object('table', p_hypertable.relation,
      'hypertable', p_hypertable.uuid, 'grants', wanted) || varve._shard_facts(p_hypertable),
    format('The data nodes learn of the changed rights on "%s" when the daemon is back.', p_hypertable.relation));
end
$$;
revoke execute on function varve._follow_grants(varve.hypertable) from public;

-- The foreign tables belong to the owner of the table.
create function varve._follow_owner(p_hypertable varve.hypertable) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  change record;
begin
  for change in
    select p.oid::regclass as partition, pg_get_userbyid(c.relowner) as owner
    from pg_class c join pg_inherits i on i.inhparent = c.oid join pg_class p on p.oid = i.inhrelid
    where c.oid = p_hypertable.relation and p.relowner <> c.relowner
  loop
    update varve.hypertable h set changing = pg_current_xact_id()
      where h.id = p_hypertable.id and h.changing is distinct from pg_current_xact_id();
    execute format('alter foreign table %s owner to %I', change.partition, change.owner);
  end loop;
  if found then
    update varve.hypertable h set changing = null where h.id = p_hypertable.id;
  end if;
end
$$;
revoke execute on function varve._follow_owner(varve.hypertable) from public;

-- Refuses what has made the table unlike its shards.
create function varve._refuse_changes(p_hypertable varve.hypertable) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  present jsonb := varve._structure(p_hypertable.relation);
begin
  if present is distinct from p_hypertable.structure then
    raise exception 'this change of distributed hypertable "%" is not supported', p_hypertable.relation
      using errcode = '0A000',
      detail = format('It would change: %s.', (
        select string_agg(key, ', ' order by key) from jsonb_each(p_hypertable.structure)
        where present -> key is distinct from value)),
      hint = 'Its shards on the data nodes would not follow. Distribute a new table and copy the rows.';
  end if;
end
$$;
revoke execute on function varve._refuse_changes(varve.hypertable) from public;

-- Whether a command on these objects may have changed the table: it, its shards, their indexes and triggers, and
-- any other table that has become its parent.
create function varve._is_concerned(p_hypertable varve.hypertable, objects oid[]) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select p_hypertable.relation = any (objects)
    or exists (select from pg_inherits i where i.inhparent = p_hypertable.relation and i.inhrelid = any (objects))
    or exists (select from pg_inherits i where i.inhrelid = p_hypertable.relation)
    or exists (select from pg_index i where i.indrelid = p_hypertable.relation and i.indexrelid = any (objects))
    or exists (select from pg_trigger t where t.oid = any (objects) and (t.tgrelid = p_hypertable.relation
      or exists (select from pg_inherits i where i.inhparent = p_hypertable.relation and i.inhrelid = t.tgrelid)))
$$;
revoke execute on function varve._is_concerned(varve.hypertable, oid[]) from public;

create function varve._on_ddl_command_end() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
begin
  for hypertable in
    select * from varve.hypertable h
    where h.relation is not null and h.changing is distinct from pg_current_xact_id()
  loop
    if tg_tag in ('DROP TRIGGER', 'CREATE PUBLICATION', 'ALTER PUBLICATION')
      or varve._is_concerned(hypertable, array(select c.objid from pg_event_trigger_ddl_commands() c)) then
      perform varve._refuse_changes(hypertable);
      perform varve._follow_owner(hypertable);
      perform varve._follow_indexes(hypertable);
    end if;
    -- GRANT does not say on what.
    perform varve._follow_grants(hypertable);
  end loop;
end
$$;

create function varve._on_sql_drop() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
  lost record;
  is_lost boolean := false;
begin
  for hypertable in
    select h.* from pg_event_trigger_dropped_objects() o join varve.hypertable h on h.relation = o.objid
    where o.classid = 'pg_class'::regclass and o.objsubid = 0
  loop
    perform varve._forget_hypertable(hypertable);
    is_lost := true;
  end loop;
  for lost in
    select o.object_identity, h.relation
    from pg_event_trigger_dropped_objects() o join varve.shard_partition sp on sp.partition = o.objid
      join varve.shard s on s.id = sp.shard_id
      join varve.hypertable h on h.uuid = s.hypertable
    where o.classid = 'pg_class'::regclass and o.objsubid = 0 and h.changing is distinct from pg_current_xact_id()
  loop
    raise exception 'cannot drop "%", which is a shard of distributed hypertable "%"', lost.object_identity, lost.relation
      using errcode = '0A000', hint = 'Drop the hypertable, or detach the data node (detach_data_node).';
  end loop;
  for lost in
    update varve.hypertable_index i set dropped = true
    from pg_event_trigger_dropped_objects() o, varve.hypertable h join pg_class c on c.oid = h.relation
      join pg_namespace n on n.oid = c.relnamespace
    where o.object_type = 'index' and i.hypertable_id = h.id and i.index_name = o.object_name
      and o.schema_name = n.nspname and not i.dropped
    returning i.index_name
  loop
    is_lost := true;
  end loop;
  if is_lost then
    perform varve._tell('collect_shards', '{}',
      'The daemon drops on the data nodes what belonged to it when it is back.');
  end if;
end
$$;

-- By hand, where no event trigger does it: brings grants and indexes of a table to its data nodes.
create function varve.sync_hypertable(hypertable regclass) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  row varve.hypertable := varve._hypertable(hypertable);
begin
  perform varve._check_table_owner(session_user, hypertable);
  perform varve._refuse_changes(row);
  perform varve._follow_grants(row);
  perform varve._follow_indexes(row);
end
$$;

do $$
begin
  if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user) then
    create event trigger varve_ddl on ddl_command_end
      when tag in ('ALTER TABLE', 'ALTER FOREIGN TABLE', 'ALTER INDEX', 'CREATE INDEX', 'ALTER TRIGGER', 'DROP TRIGGER',
        'GRANT', 'REVOKE', 'DROP OWNED', 'CREATE PUBLICATION', 'ALTER PUBLICATION')
      execute function varve._on_ddl_command_end();
    create event trigger varve_drop on sql_drop execute function varve._on_sql_drop();
  end if;
end
$$;

create function varve._mapped_password(node name, role name) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select o.option_value from pg_user_mappings m, pg_options_to_table(m.umoptions) o
  where m.srvname = node and m.usename = role and o.option_name = 'password'
$$;
revoke execute on function varve._mapped_password(name, name) from public;

-- What the daemon looks after, beginning with what no open transaction can change any more: shards of tables that
-- are gone, or that were made and not adopted.
create function varve._upkeep() returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  hypertable varve.hypertable;
begin
  perform varve._refuse_read_only('varve._upkeep');
  for hypertable in
    select * from varve.hypertable h where not exists (select from pg_class c where c.oid = h.relation)
    for update skip locked
  loop
    perform varve._forget_hypertable(hypertable);
  end loop;
  update varve.shard s set state = 'LEAVING' where s.state = 'INITIALIZING';
  return jsonb_build_object(
    'uuid', (select i.uuid from varve.identity i),
    'leaving', (
      select coalesce(jsonb_agg(jsonb_build_object('id', s.id, 'hypertable', s.hypertable,
        'node', coalesce(n.node_name, s.node_name), 'host', coalesce(n.host, s.host), 'port', coalesce(n.port, s.port),
        'database', coalesce(n.database, s.database), 'schema', s.schema_name, 'table', s.table_name,
        'owner', s.owner, 'onlyEmpty', s.only_empty, 'password', varve._mapped_password(n.node_name, s.owner))
        order by s.id), '[]')
      from varve.shard s left join varve.data_node n on n.node_uuid = s.node_uuid where s.state = 'LEAVING'),
    'hypertables', (
      select coalesce(jsonb_agg(jsonb_build_object('id', h.id, 'uuid', h.uuid, 'table', h.relation,
        'grants', varve._shard_grants(h.relation),
        'droppedIndexes', (select coalesce(jsonb_agg(i.number), '[]')
          from varve.hypertable_index i where i.hypertable_id = h.id and i.dropped),
        'shards', (
          select coalesce(jsonb_agg(jsonb_build_object('node', n.node_name, 'host', n.host, 'port', n.port,
            'database', n.database, 'available', n.available, 'schema', s.schema_name, 'table', s.table_name,
            'owner', s.owner, 'password', varve._mapped_password(n.node_name, s.owner)) order by s.number), '[]')
          from varve.shard s join varve.data_node n on n.node_name = s.node_name
          where s.hypertable = h.uuid and s.state = 'AVAILABLE')) order by h.id), '[]')
      from varve.hypertable h));
end
$$;
revoke execute on function varve._upkeep() from public;
