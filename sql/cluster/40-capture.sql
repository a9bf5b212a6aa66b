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

-- The statement of the client's string that is being carried out at its top level, and what speaks against
-- relying on it. Statements of one string are carried out in their order, so each is the next one of its kind: that
-- holds only if every event asks, also one of which nothing is queued. Of a long string only the part behind the
-- last one is looked at. An extension's script looks (before 18) as if its commands stood here, too: they come before
-- the event of the statement that has it run.
create or replace function varve_group._next_typed(
  tag text, is_off boolean, out statement text, out obstacle text, out in_extension boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  script text := current_query();
  key text;
  place text := '0';
  width integer := 2000;
  ends_at integer;
begin
  if strpos(rtrim(script, E'; \n\r\t'), ';') = 0 then
    if not is_off then
      select s.statement, s.words[2] = 'EXTENSION' and tag not like '% EXTENSION' into statement, in_extension
        from varve_group._statements(script) s
        where varve_group._has_tag(s.words, s.has_as, tag) or s.words[2] = 'EXTENSION';
    end if;
  else
    key := md5(script) || statement_timestamp();
    if starts_with(coalesce(current_setting('varve_group.script', true), ''), key || ' ') then
      place := split_part(current_setting('varve_group.script'), ' ', -1);
    end if;
    if is_off or place = 'off' then
      perform set_config('varve_group.script', key || ' off', false);
      obstacle := 'It was sent together with statements under varve_group.ddl = off in one string.';
      return;
    end if;
    loop
      select s.statement, s.ends_at, s.words[2] = 'EXTENSION' and tag not like '% EXTENSION'
        into statement, ends_at, in_extension
        from varve_group._statements(substr(script, place::integer + 1, width)) s
        where (varve_group._has_tag(s.words, s.has_as, tag) or s.words[1] in ('CREATE', 'ALTER') and s.words[2] = 'EXTENSION')
          and (s.ends_at <= width or place::integer + width >= length(script))
        order by s.number limit 1;
      exit when found or place::integer + width >= length(script);
      width := width * 4;
    end loop;
    if in_extension then
      return;
    end if;
    perform set_config('varve_group.script', key || ' ' || (place::integer + ends_at), false);
    if script ~* '\y(rollback|abort|savepoint|release|prepare)\y' and exists (
      select from varve_group._statements(script) s where s.words[1] in ('ROLLBACK', 'ABORT', 'SAVEPOINT', 'RELEASE')
        or s.words[1] = 'PREPARE' and s.words[2] = 'TRANSACTION') then
      obstacle := 'It was sent together with SAVEPOINT, ROLLBACK or PREPARE TRANSACTION in one string.';
    end if;
  end if;
  if statement is null and obstacle is null then
    obstacle := 'Its text could not be found in what was sent: ' || left(script, 200);
  end if;
end
$$;

-- The same for a command in a function. `context` is where it stands: the calling functions, innermost first, behind
-- the event trigger's own line.
create or replace function varve_group._nested(
  tag text, context text, out statement text, out obstacle text, out in_extension boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  frames text := regexp_replace(context, '^[^\n]*\n', '');
  script text;
  place integer;
  count integer;
begin
  if not starts_with(frames, 'SQL statement "') then
    obstacle := 'It is part of a function whose text is not known here: ' || split_part(frames, E'\n', 1);
    return;
  end if;
  script := substr(frames, 16);
  place := (select min(nullif(strpos(script, p), 0)) from unnest(array[E'"\nPL/pgSQL function ', E'"\nSQL function ',
    E'"\nSQL statement "', E'"\nextension script file ']) p);
  script := left(script, coalesce(place - 1, length(script) - 1));
  in_extension := strpos(frames, E'"\nextension script file ') > 0
    or tag not like '% EXTENSION' and exists (select from varve_group._statements(script) s where s.words[2] = 'EXTENSION');
  if in_extension then
    return;
  end if;
  select count(*), (array_agg(s.statement))[1] into count, statement
    from varve_group._statements(script) s where varve_group._has_tag(s.words, s.has_as, tag);
  if count <> 1 then
    statement := null;
    obstacle := 'It could not be told from others in one string of a function: ' || left(script, 200);
  end if;
end
$$;

create or replace function varve_group._require(tag text, statement text, obstacle text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if obstacle is not null or statement is null then
    perform varve_group._refuse(tag, obstacle,
      'Send each statement by itself; in a function use one EXECUTE for each. A superuser may also call varve_group.replicate_ddl with the whole text.');
  end if;
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

drop function if exists varve_group._enqueue(text, text, jsonb, jsonb);
create or replace function varve_group._enqueue(
  tag text, statement text, missing jsonb, owners jsonb default null, dropped jsonb default null) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  present jsonb := varve_group._roles();
  last jsonb;
begin
  perform varve_group._lock_ddl();
  select q.roles into last from varve_group.ddl_queue q where q.roles is not null order by q.id desc limit 1;
  insert into varve_group.ddl_queue (id, node, role, tag, statement, settings, missing, roles, owners, dropped)
    select nextval('varve_group.ddl_queue_id_seq'), l.node, current_setting('varve_group.caller'), _enqueue.tag,
      _enqueue.statement,
      (select coalesce(jsonb_object_agg(s.name, current_setting(s.name, true)), '{}')
          || jsonb_build_object('search_path', current_setting('varve_group.caller_path'))
        from unnest(varve_group._setting_names()) s(name) where current_setting(s.name, true) is not null),
      coalesce(_enqueue.missing, '[]'), case when present is distinct from last then present end,
      coalesce(_enqueue.owners, '[]'), _enqueue.dropped
    from varve_group.local l;
end
$$;

-- Who owns what a command has changed: tables, for what is part of a table, and the schemas of all of it.
create or replace function varve_group._owners(addresses jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with touched as (
    select (a ->> 'class')::oid as class, (a ->> 'object')::oid as object from jsonb_array_elements(addresses) a
  ), tables as (
    select t.object from touched t where t.class = 'pg_class'::regclass
    union select i.indrelid from touched t join pg_index i on i.indexrelid = t.object where t.class = 'pg_class'::regclass
    union select g.tgrelid from touched t join pg_trigger g on g.oid = t.object where t.class = 'pg_trigger'::regclass
    union select p.polrelid from touched t join pg_policy p on p.oid = t.object where t.class = 'pg_policy'::regclass
    union select w.ev_class from touched t join pg_rewrite w on w.oid = t.object where t.class = 'pg_rewrite'::regclass
    union select k.conrelid from touched t join pg_constraint k on k.oid = t.object where t.class = 'pg_constraint'::regclass
  )
  select jsonb_agg(jsonb_build_object('type', i.type, 'identity', i.identity, 'owner', pg_get_userbyid(o.owner)))
  from (
    select 'pg_class'::regclass::oid as class, c.oid as object, c.relowner as owner
      from tables t join pg_class c on c.oid = t.object where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    select t.class, t.object, p.proowner from touched t join pg_proc p on p.oid = t.object where t.class = 'pg_proc'::regclass
    union all
    select t.class, t.object, p.typowner from touched t join pg_type p on p.oid = t.object where t.class = 'pg_type'::regclass
    union all
    select 'pg_namespace'::regclass, n.oid, n.nspowner from pg_namespace n
    where n.nspname !~ '^pg_' and n.oid in (
      select t.object from touched t where t.class = 'pg_namespace'::regclass
      union select c.relnamespace from tables t join pg_class c on c.oid = t.object
      union select p.pronamespace from touched t join pg_proc p on p.oid = t.object where t.class = 'pg_proc'::regclass
      union select p.typnamespace from touched t join pg_type p on p.oid = t.object where t.class = 'pg_type'::regclass)
  ) o cross join lateral pg_identify_object(o.class, o.object, 0) i
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

-- Only for superusers, in whose commands nothing is looked at then.
create or replace function varve_group._is_off() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(current_setting('varve_group.ddl', true), '') = 'off'
    and (select r.rolsuper from pg_roles r where r.rolname = current_setting('varve_group.caller'))
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
  if varve_group._is_off() then
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

-- CREATE EXTENSION with the version that was made here.
create or replace function varve_group._with_version(statement text, extension oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  made pg_extension := (select e from pg_extension e where e.oid = extension);
  words text[] := (select s.words from varve_group._statements(statement) s);
begin
  perform varve_group._check_extension(made.extname, made.extversion);
  if 'VERSION' = any (words) then
    return statement;
  end if;
  return regexp_replace(statement, '\s+cascade\s*$', '', 'i') || format(' version %L', made.extversion)
    || case when words[cardinality(words)] = 'CASCADE' then ' cascade' else '' end;
end
$$;

-- What makes a table that was made from a query, and so is nothing but its columns, elsewhere.
create or replace function varve_group._table_definition(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('create %s table %I.%I (%s) using %I%s', case c.relpersistence when 'u' then 'unlogged' else '' end,
      n.nspname, c.relname, (
        select string_agg(format('%I %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
          case when a.attcollation not in (0, t.typcollation) then ' collate ' || a.attcollation::regcollation else '' end),
          ', ' order by a.attnum)
        from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = c.oid and a.attnum > 0),
      m.amname, coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', ''))
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_am m on m.oid = c.relam
  where c.oid = relation
$$;

-- The rows of such a table were written before it was published: they are written once more.
create or replace function varve_group._publish_rows(relation regclass) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set varve_group.ddl = 'off'
as $$
begin
  perform varve_group.adopt_tables();
  if exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname = 'varve' and r.prrelid = relation) then
    execute format('create temp table varve_rows as table %s; truncate %1$s; insert into %1$s table pg_temp.varve_rows; drop table pg_temp.varve_rows', relation);
  end if;
end
$$;

-- In sql_drop: what is dropped, but for what is part of a table and goes with it.
create or replace function varve_group._dropped_objects() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with dropped as (select o.object_type as type, o.object_identity as identity from pg_event_trigger_dropped_objects() o)
  select coalesce(jsonb_agg(jsonb_build_object('type', d.type, 'identity', d.identity)), '[]') from dropped d
  where d.type not in ('table column', 'table constraint', 'default value', 'index', 'trigger', 'rule', 'policy',
      'toast table', 'publication relation')
    -- Of its rows, and arrays of them.
    and not (d.type = 'type' and exists (select from dropped r
      where r.type <> 'type' and d.identity in (r.identity, r.identity || '[]')))
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
  perform set_config('varve_group.dropped', case when temporary > 0 then 'temporary' else 'kept' end, true),
    set_config('varve_group.dropped_objects', varve_group._dropped_objects()::text, true);
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
  dropped_objects jsonb := coalesce(nullif(current_setting('varve_group.dropped_objects', true), ''), '[]');
  objects oid[];
  addresses jsonb;
  of_extension boolean;
  ours integer;
  extension oid;
  found_text record;
begin
  get diagnostics context = pg_context;
  perform set_config('varve_group.dropped', '', true), set_config('varve_group.dropped_objects', '', true);
  select bool_and(c.in_extension), count(*) filter (where not c.in_extension
        and not (coalesce(c.schema_name, '') = 'pg_temp' or coalesce(c.object_identity, '') ~ '\ypg_temp\.')),
      array_agg(c.objid) filter (where c.classid = 'pg_class'::regclass),
      coalesce(jsonb_agg(distinct jsonb_build_object('class', c.classid, 'object', c.objid))
        filter (where c.objid is not null), '[]'),
      max(c.objid) filter (where c.classid = 'pg_extension'::regclass)
    into of_extension, ours, objects, addresses, extension from pg_event_trigger_ddl_commands() c;
  if of_extension then
    return;
  end if;
  if strpos(context, E'\n') = 0 then
    select * into found_text from varve_group._next_typed(tg_tag, varve_group._is_off());
  elsif varve_group._is_off() then
    -- Taking the text apart costs ten milliseconds for a long one, which a script of a hundred commands is.
    return;
  else
    select * into found_text from varve_group._nested(tg_tag, context);
  end if;
  if found_text.in_extension or varve_group._is_off() then
    return;
  end if;
  -- Nothing came of it (IF [NOT] EXISTS), it is PostgreSQL's own way of doing something else, or temporary.
  if (case when tg_tag = 'DROP OWNED' then false when tg_tag like 'DROP %' then dropped <> 'kept' else ours = 0 end) then
    return;
  elsif not varve_group._is_queued(tg_tag) then
    if current_setting('varve_group.ddl', true) = 'local' then
      insert into varve_group.local_table (relation)
        select c.oid from pg_class c
        where c.oid = any (objects) and c.relkind = 'r' and tg_tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
        on conflict do nothing;
    end if;
    return;
  elsif tg_tag in ('CREATE TABLE AS', 'SELECT INTO') then
    -- Queued before its rows are written again.
    perform varve_group._enqueue(tg_tag, varve_group._table_definition(objects[1]), null,
      varve_group._owners(addresses), '[]');
    perform varve_group._publish_rows(objects[1]);
    return;
  end if;
  if tg_tag = 'DROP OWNED' then
    -- REASSIGN OWNED, which usually comes before it, tells no event trigger: elsewhere it would drop what was kept here.
    perform varve_group._refuse(tg_tag, 'Which objects the role owns may differ from member to member, because REASSIGN OWNED is not replicated.',
      'ALTER … OWNER TO, DROP and REVOKE for each object, then DROP ROLE.');
  end if;
  perform varve_group._require(tg_tag, found_text.statement, found_text.obstacle);
  if tg_tag in ('GRANT', 'REVOKE') and varve_group._is_on_temporary(found_text.statement) then
    return;
  end if;
  if tg_tag = 'CREATE EXTENSION' then
    found_text.statement := varve_group._with_version(found_text.statement, extension);
  end if;
  perform varve_group._enqueue(tg_tag, varve_group._portable(found_text.statement, tg_tag),
    case when tg_tag = 'ALTER TABLE' then varve_group._missing_values(objects) end, varve_group._owners(addresses),
    dropped_objects);
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

revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
