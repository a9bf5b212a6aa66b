-- On the write master, event triggers put every statement that changes the structure into the queue. Two of them,
-- because the one that may write there does not know any more whose command it was.

-- Runs as whoever issued the command, with that role's search_path: nothing here may be looked up in it.
create or replace function varve_group._note_caller() returns event_trigger
language plpgsql
as $$
begin
  perform pg_catalog.set_config('varve_group.caller', current_user::pg_catalog.text, true),
    pg_catalog.set_config('varve_group.caller_path', pg_catalog.current_setting('search_path'), true);
end
$$;

create or replace function varve_group._refuse(tag text, why text, remedy text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% cannot be replicated to the other members of the group', tag
    using errcode = '0A000', detail = why, hint = remedy;
end
$$;

-- The text of the command that is being carried out. `context` is where it stands: the calling functions, innermost
-- first, behind the event trigger's own line. Null when an extension's script does it.
create or replace function varve_group._typed(tag text, context text) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  frames text := nullif(regexp_replace(context, '^[^\n]*\n?', ''), '');
  one_by_one constant text := 'Send each statement by itself, or let a superuser call varve_group.replicate_ddl(…) with the whole text.';
  script text := current_query();
  key text;
  consumed integer := 0;
  found_one record;
  count integer;
begin
  if frames is not null then
    if not starts_with(frames, 'SQL statement "') then
      perform varve_group._refuse(tag, 'It is part of a function whose text is not known here: ' || split_part(frames, E'\n', 1),
        'Use EXECUTE in a function of PL/pgSQL, or send the statement by itself.');
    end if;
    script := regexp_replace(substr(frames, 16), '"(\n(PL/pgSQL|SQL) function .*|\n(SQL statement|extension script) .*)?$', '');
    -- The pattern takes the longest tail; what is left ends before the first caller.
    count := (select count(*) from varve_group._statements(script) s where varve_group._has_tag(s.words, s.has_as, tag));
    if count <> 1 then
      perform varve_group._refuse(tag, format('It is one of several statements in one string in a function, or could not be found in it: %s', left(script, 200)),
        'Give each EXECUTE one statement.');
    end if;
    return (select s.statement from varve_group._statements(script) s where varve_group._has_tag(s.words, s.has_as, tag));
  end if;

  -- Statements of one string are carried out in their order, so each is the next one of its kind.
  key := md5(script) || statement_timestamp();
  if coalesce(current_setting('varve_group.script', true), '') like key || ' %' then
    consumed := split_part(current_setting('varve_group.script'), ' ', -1)::integer;
  end if;
  select s.* into found_one from varve_group._statements(script) s
    where s.number > consumed and varve_group._has_tag(s.words, s.has_as, tag) order by s.number limit 1;
  if not found then
    if exists (select from varve_group._statements(script) s
      where s.words[1] in ('CREATE', 'ALTER', 'DROP') and s.words[2] = 'EXTENSION') then
      return null;
    end if;
    perform varve_group._refuse(tag, 'Its text could not be found in what was sent: ' || left(script, 200), one_by_one);
  end if;
  if exists (select from varve_group._statements(script) s
    having count(*) > 1 and bool_or(s.words[1] in ('ROLLBACK', 'ABORT', 'SAVEPOINT', 'RELEASE')
      or s.words[1] = 'PREPARE' and s.words[2] = 'TRANSACTION')) then
    perform varve_group._refuse(tag, 'It was sent together with SAVEPOINT, ROLLBACK or PREPARE TRANSACTION in one string.', one_by_one);
  end if;
  perform set_config('varve_group.script', key || ' ' || found_one.number, false);
  return found_one.statement;
end
$$;

-- Members that could not carry this out, as far as is known.
create or replace function varve_group._check_extension(name text, version text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  lacking text := (select string_agg(m.node, ', ' order by m.node) from varve_group.member m
    where not coalesce(m.extensions -> _check_extension.name ? _check_extension.version, false)
      and m.node <> (select l.node from varve_group.local l));
begin
  if lacking is not null then
    raise exception 'extension "%" version % is not available on every member of the group', name, version
      using errcode = '0A000', detail = format('It is missing on: %s.', lacking),
      hint = 'Install its files on the servers of all members first.';
  end if;
end
$$;

create or replace function varve_group._enqueue(tag text, statement text, missing jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  present jsonb := varve_group._roles();
  last jsonb;
begin
  perform varve_group._lock_ddl();
  select q.roles into last from varve_group.ddl_queue q where q.roles is not null order by q.id desc limit 1;
  insert into varve_group.ddl_queue (id, node, role, tag, statement, settings, missing, roles)
    select nextval('varve_group.ddl_queue_id_seq'), l.node, current_setting('varve_group.caller'), _enqueue.tag,
      _enqueue.statement,
      (select coalesce(jsonb_object_agg(s.name, current_setting(s.name, true)), '{}')
          || jsonb_build_object('search_path', current_setting('varve_group.caller_path'))
        from unnest(varve_group._setting_names()) s(name) where current_setting(s.name, true) is not null),
      coalesce(_enqueue.missing, '[]'), case when present is distinct from last then present end
    from varve_group.local l;
end
$$;

-- Columns whose default was given to rows that were there: what was put into them.
create or replace function varve_group._missing_values(objects oid[]) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp set datestyle = 'ISO' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = 3 set bytea_output = 'hex'
as $$
  select jsonb_agg(jsonb_build_object('schema', n.nspname, 'table', c.relname, 'column', a.attname,
    'value', (a.attmissingval::text::text[])[1]))
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
  where (c.oid = any (objects) or c.oid in (select t.relid from unnest(objects) o
      cross join lateral pg_partition_tree(o::regclass) t where exists (select from pg_class p where p.oid = o and p.relkind = 'p')))
    and c.relkind = 'r' and a.atthasmissing and not a.attisdropped
    and c.xmin::text::bigint = (pg_current_xact_id()::text::bigint & 4294967295)
$$;

-- Refuses what only the write master may do; says whether the command is to be queued.
create or replace function varve_group._is_queued(tag text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  mode text := coalesce(current_setting('varve_group.ddl', true), '');
  caller_is_superuser boolean := (select r.rolsuper from pg_roles r where r.rolname = current_setting('varve_group.caller'));
  me varve_group.local;
begin
  if mode = 'off' and caller_is_superuser then
    return false;
  end if;
  select * into me from varve_group.local;
  if me.group_uuid is null or tag in ('REINDEX', 'CREATE PUBLICATION', 'ALTER PUBLICATION', 'DROP PUBLICATION',
    'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION', 'DROP SUBSCRIPTION', 'ALTER LARGE OBJECT') then
    return false;
  elsif me.master is not null and me.master <> me.node and not (mode = 'local' and caller_is_superuser) then
    raise exception 'cannot execute % on a member that is not the write master', tag using errcode = '25006',
      hint = format('The write master is "%s": connect there, or through the group''s write port.', me.master);
  end if;
  return mode <> 'local';
end
$$;

-- What fills tables while it is carried out has to be in the queue before its rows.
create or replace function varve_group._on_ddl_start() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lc_messages = 'C'
as $$
declare
  context text;
  statement text;
  words text[];
  name text;
  version text;
begin
  get diagnostics context = pg_context;
  if coalesce(current_setting('varve_group.ddl', true), '') <> '' and not varve_group._is_queued(tg_tag) then
    return;
  end if;
  if tg_tag = 'CREATE TABLE AS' then
    if position(E'\n' in context) > 0 and context !~ E'\nPL/pgSQL function [^\n]* at EXECUTE(\n|$)' then
      statement := null;
    end if;
    statement := varve_group._typed(tg_tag, context);
    select s.words into words from varve_group._statements(statement) s;
    if words && array['TEMP', 'TEMPORARY'] and array_position(words, 'TABLE') > least(array_position(words, 'TEMP'), array_position(words, 'TEMPORARY')) then
      return;
    elsif not varve_group._is_queued(tg_tag) then
      return;
    elsif words[array_length(words, 1)] = 'EXECUTE' or 'EXECUTE' = any (words) or statement ~ '\$\d' then
      perform varve_group._refuse(tg_tag, 'Its query is a prepared one or has parameters.',
        'CREATE TABLE with its columns, then INSERT … SELECT.');
    elsif position(E'\n' in context) > 0 and split_part(regexp_replace(context, '.*?\nPL/pgSQL function ', ''), E'\n', 1) ~ ' at SQL statement$' then
      perform varve_group._refuse(tg_tag, 'In a function its query may have the function''s variables.',
        'CREATE TABLE with its columns, then INSERT … SELECT; or EXECUTE.');
    end if;
    perform varve_group._enqueue(tg_tag, varve_group._portable(statement, tg_tag), null);
  elsif tg_tag = 'CREATE EXTENSION' then
    if not varve_group._is_queued(tg_tag) then
      return;
    end if;
    statement := varve_group._typed(tg_tag, context);
    if statement is null then
      return;
    end if;
    name := coalesce((regexp_match(statement, '^create\s+extension\s+(?:if\s+not\s+exists\s+)?"((?:[^"]|"")+)"', 'i'))[1],
      lower((regexp_match(statement, '^create\s+extension\s+(?:if\s+not\s+exists\s+)?([^\s";]+)', 'i'))[1]));
    if exists (select from pg_extension e where e.extname = name) then
      return;
    end if;
    select s.words into words from varve_group._statements(statement) s;
    version := coalesce((regexp_match(statement, '\yversion\s+[''"]?([^''"\s]+)', 'i'))[1],
      (select a.default_version from pg_available_extensions a where a.name = _on_ddl_start.name));
    perform varve_group._check_extension(name, version);
    if not 'VERSION' = any (words) then
      statement := regexp_replace(statement, '\s+cascade\s*$', '', 'i') || format(' version %L', version)
        || case when words[cardinality(words)] = 'CASCADE' then ' cascade' else '' end;
    end if;
    perform varve_group._enqueue(tg_tag, statement, null);
  end if;
end
$$;

-- Whether what was dropped was temporary: 'temporary' or 'kept'; '' when nothing was dropped.
create or replace function varve_group._on_drop() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  originals integer;
  temporary integer;
begin
  select count(*), count(*) filter (where o.is_temporary) into originals, temporary
    from pg_event_trigger_dropped_objects() o where o.original;
  if temporary > 0 and temporary < originals and varve_group._is_queued(tg_tag) then
    perform varve_group._refuse(tg_tag, 'It drops temporary and other objects at once.', 'Drop them by two statements.');
  end if;
  perform set_config('varve_group.dropped', case when temporary > 0 then 'temporary' else 'kept' end, true);
end
$$;

create or replace function varve_group._on_rewrite() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  reason integer := pg_event_trigger_table_rewrite_reason();
  relation regclass := pg_event_trigger_table_rewrite_oid();
  filled boolean;
begin
  if reason & 3 = 0 or not exists (select from pg_class c where c.oid = relation and c.relpersistence <> 't')
    or not varve_group._is_queued(tg_tag) then
    return;
  end if;
  execute format('select exists (select from %s)', relation) into filled;
  if filled and reason & 2 > 0 then
    perform varve_group._refuse(tg_tag, format('The default of a new column of table "%s" gives every row another value, on each member others.', relation),
      'Add the column without a default, then set it (ALTER COLUMN … SET DEFAULT), then UPDATE the rows.');
  elsif filled then
    perform varve_group._refuse(tg_tag, format('Rows of unlogged table "%s" are on this member only.', relation),
      'Create a new table, and INSERT INTO new SELECT * FROM old.');
  end if;
end
$$;

-- GRANT does not say on what. On temporary tables it concerns nobody else.
create or replace function varve_group._is_on_temporary(statement text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  names text := (regexp_match(statement, '\yon\s+(?:table\s+)?(.*?)\s+(?:to|from)\s', 'i'))[1];
begin
  if pg_my_temp_schema() = 0 or names is null then
    return false;
  end if;
  return exists (select from regexp_split_to_table(names, '\s*,\s*') n, pg_class c
    where c.relnamespace = pg_my_temp_schema() and quote_ident(c.relname) = regexp_replace(n, '^pg_temp\.', ''));
end
$$;

create or replace function varve_group._on_ddl_end() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set lc_messages = 'C'
as $$
declare
  context text;
  dropped text := coalesce(current_setting('varve_group.dropped', true), '');
  objects oid[];
  total integer;
  temporary integer;
  of_extension integer;
  statement text;
begin
  get diagnostics context = pg_context;
  perform set_config('varve_group.dropped', '', true);
  select count(*), count(*) filter (where c.schema_name = 'pg_temp' or c.object_identity ~ '\ypg_temp\.'),
      count(*) filter (where c.in_extension), array_agg(c.objid) filter (where c.classid = 'pg_class'::regclass)
    into total, temporary, of_extension, objects from pg_event_trigger_ddl_commands() c;
  if total > 0 and total in (temporary, of_extension) or dropped = 'temporary' then
    return;
  elsif tg_tag like 'DROP %' and tg_tag <> 'DROP OWNED' and dropped = '' then
    return;
  elsif tg_tag in ('CREATE TABLE AS', 'CREATE EXTENSION') then
    if varve_group._is_queued(tg_tag) then
      perform varve_group.adopt_tables();
    end if;
    return;
  elsif not varve_group._is_queued(tg_tag) then
    if current_setting('varve_group.ddl', true) = 'local' then
      insert into varve_group.local_table (relation)
        select c.oid from pg_class c where c.oid = any (objects) and c.relkind in ('r', 'p') and tg_tag like 'CREATE %'
        on conflict do nothing;
    end if;
    return;
  elsif tg_tag = 'SELECT INTO' then
    perform varve_group._refuse(tg_tag, 'Its rows would come before its table.', 'Use CREATE TABLE … AS SELECT ….');
  end if;
  statement := varve_group._typed(tg_tag, context);
  if statement is null or tg_tag in ('GRANT', 'REVOKE') and varve_group._is_on_temporary(statement) then
    return;
  end if;
  perform varve_group._enqueue(tg_tag, varve_group._portable(statement, tg_tag),
    case when tg_tag = 'ALTER TABLE' then varve_group._missing_values(objects) end);
  perform varve_group.adopt_tables();
end
$$;

-- For superusers: carries out a text of any number of statements here and, as one, on every other member. What it
-- does to rows it does on each member anew: it is for structure.
create or replace function varve_group.replicate_ddl(statement text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  before text := coalesce(current_setting('varve_group.ddl', true), '');
  path text := current_setting('search_path');
begin
  perform set_config('varve_group.caller', current_user, true), set_config('varve_group.caller_path', 'public', true);
  if not varve_group._is_queued('DDL') and before = '' then
    raise exception 'this database belongs to no group' using errcode = '55000';
  end if;
  perform set_config('varve_group.ddl', 'off', true);
  -- As the others will: with the names of schema public without their schema, all else with it.
  perform set_config('search_path', 'public', true);
  execute statement;
  perform set_config('search_path', path, true);
  perform set_config('varve_group.ddl', before, true);
  perform varve_group._enqueue('DDL', statement, null);
  perform varve_group.adopt_tables();
end
$$;

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
  if not 'varve_capture_start_1_caller' = any (present) then
    create event trigger varve_capture_start_1_caller on ddl_command_start
      when tag in ('CREATE TABLE AS', 'CREATE EXTENSION') execute function varve_group._note_caller();
  end if;
  if not 'varve_capture_start_2_queue' = any (present) then
    create event trigger varve_capture_start_2_queue on ddl_command_start
      when tag in ('CREATE TABLE AS', 'CREATE EXTENSION') execute function varve_group._on_ddl_start();
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
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
