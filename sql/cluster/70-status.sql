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
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
