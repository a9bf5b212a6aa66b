-- What a member tells of its queue.

-- What the next statement that has not been carried out here would fail with; null when it would not. Nothing stays:
-- whatever it did is undone before this returns.
create or replace function varve_group.try_ddl(entry jsonb) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off' set lock_timeout = '2s'
as $$
declare
  reason text;
begin
  begin
    perform varve_group.apply_ddl(jsonb_populate_record(null::varve_group.ddl_queue, entry));
    raise exception using errcode = 'VAOK0', message = 'undo';
  exception
    when sqlstate 'VAOK0' then return null;
    when others then
      get stacked diagnostics reason = message_text;
      return reason;
  end;
end
$$;
-- Readers here may hold a table that a statement of the stream has to change, and with it all that comes behind:
-- those for whom it has waited longer than `patience` are ended, as on a standby.
create or replace function varve_group.end_blockers(patience interval)
returns table (pid integer, role name, query text)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  for pid, role, query in
    select distinct a.pid, a.usename, left(a.query, 200)
    from pg_stat_subscription s join pg_locks l on l.pid = s.pid and not l.granted
      cross join lateral unnest(pg_blocking_pids(l.pid)) b(pid)
      join pg_stat_activity a on a.pid = b.pid and a.backend_type = 'client backend'
    where l.waitstart < clock_timestamp() - patience and a.pid <> pg_backend_pid()
  loop
    -- One that does nothing in its transaction cannot be cancelled.
    if (select a.state = 'active' from pg_stat_activity a where a.pid = end_blockers.pid) then
      perform pg_cancel_backend(end_blockers.pid);
    else
      perform pg_terminate_backend(end_blockers.pid);
    end if;
    return next;
  end loop;
end
$$;
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
