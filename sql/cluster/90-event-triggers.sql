-- Last, because from here on every command of this script would be looked at as well.
do $$
declare
  present text[] := array(select e.evtname from pg_catalog.pg_event_trigger e);
begin
  -- Triggers run in the order of their names; these before those of extension varve.
  if not 'varve_capture_1_caller' = any (present) then
    create event trigger varve_capture_1_caller on ddl_command_end execute function varve_group._note_caller();
  end if;
  if not 'varve_capture_2_queue' = any (present) then
    create event trigger varve_capture_2_queue on ddl_command_end execute function varve_group._on_ddl_end();
  end if;
  if not 'varve_capture_drop_1_caller' = any (present) then
    create event trigger varve_capture_drop_1_caller on sql_drop execute function varve_group._note_caller();
  end if;
  if not 'varve_capture_drop_2' = any (present) then
    create event trigger varve_capture_drop_2 on sql_drop execute function varve_group._on_drop();
  end if;
  if not 'varve_capture_rewrite_1_caller' = any (present) then
    create event trigger varve_capture_rewrite_1_caller on table_rewrite execute function varve_group._note_caller();
  end if;
  if not 'varve_capture_rewrite_2' = any (present) then
    create event trigger varve_capture_rewrite_2 on table_rewrite execute function varve_group._on_rewrite();
  end if;
end
$$;
