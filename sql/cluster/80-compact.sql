-- The queue is made shorter: which statements nobody needs any more is worked out by src/cluster/ddl/compaction.ts.

-- Removes statements; what their rows tell about roles goes to the next one that stays. False, and nothing is done,
-- while DDL is held for a join or carried out: a joiner replays what it has read. On other members the rows go as they
-- came, in the stream, so behind the statements themselves.
create or replace function varve_group.compact_ddl(ids bigint[]) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  moved record;
begin
  if not pg_try_advisory_xact_lock(1986097782, 1684302960) then
    return false;
  end if;
  for moved in
    select distinct on (n.id) n.id, q.roles
    from varve_group.ddl_queue q cross join lateral (
      select k.id, k.roles from varve_group.ddl_queue k where k.id > q.id and not k.id = any (ids) order by k.id limit 1) n
    where q.id = any (ids) and q.roles is not null and n.roles is null
    order by n.id, q.id desc
  loop
    update varve_group.ddl_queue q set roles = moved.roles where q.id = moved.id;
  end loop;
  delete from varve_group.ddl_queue q
    where q.id = any (ids) and q.id < (select max(m.id) from varve_group.ddl_queue m);
  return true;
end
$$;
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
