-- Sequences are not in the stream of changes. Members take their values over every few seconds; a new write master
-- then sets each beyond what its columns hold, and ahead by what may have been drawn since the last look.

-- How fast sequences go, by what members saw.
create table if not exists varve_group.sequence_pace (
  sequence oid primary key,
  -- The most values that were drawn between two looks.
  drawn bigint not null default 0
);

create or replace function varve_group.sequence_values() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_object_agg(format('%I.%I', s.schemaname, s.sequencename), s.last_value), '{}')
  from pg_sequences s
  where s.last_value is not null and s.schemaname !~ '^pg_' and s.schemaname <> 'varve_group'
$$;

-- On a member that is not write master. Values only go forward, except where the write master's sequence was set back.
create or replace function varve_group.take_sequence_values(there jsonb) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  sequence record;
  changed integer := 0;
begin
  for sequence in
    select to_regclass(w.key) as relation, s.last_value, w.value::bigint as wanted, s.increment_by
    from jsonb_each_text(there) w
      join pg_sequences s on format('%I.%I', s.schemaname, s.sequencename) = w.key
    where s.last_value is distinct from w.value::bigint and w.value::bigint between s.min_value and s.max_value
  loop
    perform setval(sequence.relation, sequence.wanted);
    insert into varve_group.sequence_pace as p (sequence, drawn)
      values (sequence.relation, coalesce(abs(sequence.wanted - sequence.last_value) / abs(sequence.increment_by), 0))
      on conflict on constraint sequence_pace_pkey do update set drawn = greatest(p.drawn, excluded.drawn);
    changed := changed + 1;
  end loop;
  delete from varve_group.sequence_pace p where not exists (select from pg_class c where c.oid = p.sequence);
  return changed;
end
$$;

-- Columns that a sequence fills: it belongs to them, or is in their default.
create or replace function varve_group._sequence_columns() returns table (sequence regclass, relation regclass, name name)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select d.objid::regclass, d.refobjid::regclass, a.attname
  from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
    join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
  where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
  union
  select d.refobjid::regclass, t.adrelid::regclass, a.attname
  from pg_depend d join pg_attrdef t on t.oid = d.objid join pg_class s on s.oid = d.refobjid and s.relkind = 'S'
    join pg_attribute a on a.attrelid = t.adrelid and a.attnum = t.adnum
  where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
$$;

-- The last value that is in a column of numbers; null where looking would take long: no index and many rows, or rows
-- on other servers.
create or replace function varve_group._last_in_column(relation regclass, name name, is_rising boolean) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  last bigint;
begin
  if not exists (
    select from pg_attribute a join pg_type t on t.oid = a.atttypid join pg_class c on c.oid = a.attrelid
    where a.attrelid = relation and a.attname = name and t.typcategory = 'N' and c.relkind in ('r', 'p')
      and c.relpersistence <> 't'
      and not exists (select from pg_partition_tree(relation) p join pg_class f on f.oid = p.relid where f.relkind = 'f')
      and (c.relkind = 'r' and c.relpages < 8192
        or exists (select from pg_index i where i.indrelid = relation and i.indisvalid and i.indkey[0] = a.attnum
          and i.indpred is null))) then
    return null;
  end if;
  execute format('select %s(%I)::numeric::bigint from %s', case when is_rising then 'max' else 'min' end, name, relation)
    into last;
  return last;
exception
  when numeric_value_out_of_range then
    return null;
end
$$;

-- On a new write master, before anybody writes: no value of a sequence comes twice.
create or replace function varve_group.advance_sequences() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  sequence record;
  next numeric;
  changed integer := 0;
begin
  perform setval('varve_group.ddl_queue_id_seq', q.id)
    from (select max(id) as id from varve_group.ddl_queue) q, varve_group.ddl_queue_id_seq s
    where q.id > s.last_value or q.id = s.last_value and not s.is_called;
  for sequence in
    select c.oid::regclass as relation, s.last_value, s.min_value, s.max_value, s.increment_by, s.cycle,
      coalesce(p.drawn, 0) as drawn, f.filled, f.last
    from pg_sequences s join pg_namespace n on n.nspname = s.schemaname
      join pg_class c on c.relnamespace = n.oid and c.relname = s.sequencename and c.relpersistence <> 't'
      left join varve_group.sequence_pace p on p.sequence = c.oid
      left join lateral (
        select bool_and(k.last is not null) as filled,
          case when s.increment_by > 0 then max(k.last) else min(k.last) end as last
        from (select varve_group._last_in_column(t.relation, t.name, s.increment_by > 0) as last
          from varve_group._sequence_columns() t where t.sequence = c.oid) k) f on true
    where s.schemaname !~ '^pg_' and s.schemaname <> 'varve_group' and not s.cycle
  loop
    -- Never drawn here nor anywhere.
    continue when sequence.last_value is null and sequence.last is null;
    next := case when sequence.increment_by > 0 then greatest(sequence.last_value, sequence.last)
      else least(sequence.last_value, sequence.last) end;
    -- What was drawn since the last look and is in no row that came here may be in hands of clients.
    next := next + sequence.increment_by::numeric * (32 + 10 * sequence.drawn + case when sequence.filled then 0 else 1000 end);
    if next not between sequence.min_value and sequence.max_value then
      next := case when sequence.increment_by > 0 then greatest(sequence.last_value, sequence.last)
        else least(sequence.last_value, sequence.last) end;
    end if;
    continue when next not between sequence.min_value and sequence.max_value;
    perform setval(sequence.relation, next::bigint);
    changed := changed + 1;
  end loop;
  return changed;
end
$$;

-- Whether this write master has done what comes before clients are let in.
alter table varve_group.local add column if not exists is_taken_over boolean not null default false;
create or replace function varve_group._on_master() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  new.is_taken_over := false;
  return new;
end
$$;
drop trigger if exists varve_master on varve_group.local;
create trigger varve_master before update of master on varve_group.local for each row
  when (old.master is distinct from new.master) execute function varve_group._on_master();

-- On a new write master that has all changes of the former one, before clients are let in. May be repeated.
create or replace function varve_group.take_over() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform varve_group.advance_sequences();
  if to_regprocedure('varve._become_write_master()') is not null then
    execute 'select varve._become_write_master()';
  end if;
  update varve_group.local set is_taken_over = true;
end
$$;

-- Says who is write master: one that is active already, so that on itself what it has not done yet is done.
drop function if exists varve_group.set_write_master(text);
create function varve_group.set_write_master(master text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  update varve_group.local l set master = set_write_master.master where l.master is distinct from set_write_master.master;
  perform varve_group.take_over() from varve_group.local l where l.node = l.master and not l.is_taken_over;
end
$$;
revoke all on all tables in schema varve_group from public;
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
