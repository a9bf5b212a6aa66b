-- What was typed, cut into statements. PostgreSQL tells an event trigger that a command was carried out, not its
-- text: that is found in the text that the client sent, which may hold several statements.

-- The statements of `script` without their comments. `words` are the first words of each outside of parentheses, in
-- capitals; `has_as` says whether AS stands outside of parentheses, `ends_at` where the statement's semicolon is; it
-- lies behind the text's end for one that has none.
create or replace function varve_group._statements(script text)
returns table (number integer, statement text, words text[], has_as boolean, ends_at integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $body$
declare
  token text;
  state text := '';
  comment_depth integer := 0;
  depth integer := 0;
  block_depth integer := 0;
  previous text := '';
  word text;
  parts text[] := '{}';
begin
  number := 0;
  ends_at := 0;
  words := '{}';
  has_as := false;
  for token in
    select m[1] from regexp_matches(script || E'\n;',
      '([^\x01-\x40\x5b-\x5e\x60\x7b-\x7f][^\x01-\x23\x25-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7f]*'
      '|\$(?:[^\x01-\x40\x5b-\x5e\x60\x7b-\x7f][^\x01-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7f]*)?\$'
      '|\\[''"\\]|--|/\*|\*/|\n|[ \t\r\f\v]+|[0-9.,]+|.)', 'g') m
  loop
    ends_at := ends_at + length(token);
    if state = '--' then
      continue when token <> E'\n';
      state := '';
    elsif state = '/*' then
      comment_depth := comment_depth + case token when '/*' then 1 when '*/' then -1 else 0 end;
      continue when comment_depth > 0;
      state := '';
      token := ' ';
    elsif state = '''' then
      parts := parts || token;
      if token = '''' or token = '\''' then
        state := '';
        previous := '';
      end if;
      continue;
    elsif state = 'E' then
      parts := parts || token;
      if token = '''' then
        state := '';
        -- A quote right behind it goes on with the same string.
        previous := 'E';
      end if;
      continue;
    elsif state = '"' then
      parts := parts || token;
      if token = '"' or token = '\"' then
        state := '';
        previous := '';
      end if;
      continue;
    elsif state <> '' then
      parts := parts || token;
      if strpos(token, state) > 0 then
        state := '';
        previous := '';
      end if;
      continue;
    end if;

    if token = '--' then
      state := '--';
      continue;
    elsif token = '/*' then
      state := '/*';
      comment_depth := 1;
      continue;
    elsif token = ';' and depth <= 0 and block_depth = 0 then
      statement := btrim(array_to_string(parts, ''), E' \n\t\r\f\x0b');
      if statement <> '' then
        number := number + 1;
        return next;
      end if;
      parts := '{}';
      words := '{}';
      has_as := false;
      depth := 0;
      continue;
    elsif token = '''' then
      state := case when upper(previous) = 'E' then 'E' else '''' end;
    elsif token = '"' then
      state := '"';
    elsif token ~ '^\$.*\$$' and length(token) > 1 then
      state := token;
    elsif token = '(' then
      depth := depth + 1;
    elsif token = ')' then
      depth := depth - 1;
    elsif token ~ '^[^\x01-\x40\x5b-\x5e\x60\x7b-\x7f]' then
      word := upper(token);
      if depth = 0 and cardinality(words) < 40 then
        words := words || word;
      end if;
      if depth = 0 and word = 'AS' then
        has_as := true;
      end if;
      -- BEGIN ATOMIC … END of a function holds semicolons of its own.
      if words[1] = 'CREATE' and ('FUNCTION' = any (words[1:4]) or 'PROCEDURE' = any (words[1:4])) then
        if word = 'BEGIN' or word = 'CASE' and block_depth > 0 then
          block_depth := block_depth + 1;
        elsif word = 'END' and block_depth > 0 then
          block_depth := block_depth - 1;
        end if;
      end if;
    end if;
    parts := parts || token;
    previous := token;
  end loop;
end
$body$;

-- Whether a statement that begins with `words` is one that PostgreSQL calls `tag`.
create or replace function varve_group._has_tag(words text[], has_as boolean, tag text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  noise text[] := array['OR', 'REPLACE', 'UNIQUE', 'TEMP', 'TEMPORARY', 'GLOBAL', 'LOCAL', 'UNLOGGED', 'RECURSIVE',
    'TRUSTED', 'PROCEDURAL', 'CONSTRAINT'];
  kept text[] := array(select w from unnest(words) with ordinality as u(w, n)
    where not (n between 2 and 5 and words[1] in ('CREATE', 'DROP', 'ALTER') and w = any (noise)) order by n);
  head text := array_to_string(kept, ' ') || ' ';
  object text;
begin
  if words[1] = 'CREATE' and words[2] = 'DEFAULT' then
    head := replace(head, 'CREATE DEFAULT CONVERSION', 'CREATE CONVERSION');
  end if;
  if tag = 'CREATE TABLE AS' then
    return starts_with(head, 'CREATE TABLE ') and has_as;
  elsif tag = 'CREATE TABLE' then
    return starts_with(head, 'CREATE TABLE ') and not has_as;
  elsif tag = 'SELECT INTO' then
    return words[1] in ('SELECT', 'WITH') and 'INTO' = any (words);
  elsif tag in ('GRANT', 'REVOKE', 'COMMENT', 'SECURITY LABEL') then
    object := words[array_position(words, 'ON') + 1];
    -- On roles and databases they tell nobody.
    return starts_with(head, tag || ' ') and object is not null
      and object not in ('DATABASE', 'ROLE', 'TABLESPACE', 'PARAMETER', 'EVENT');
  end if;
  return starts_with(head, tag || ' ');
end
$$;

-- What other members carry out in place of what was typed here.
create or replace function varve_group._portable(statement text, tag text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  parts text[];
begin
  -- Not possible in a transaction, and nobody but the stream of changes writes there.
  if tag = 'CREATE INDEX' then
    return regexp_replace(statement, '^(create\s+(?:unique\s+)?index\s+)concurrently\y', '\1', 'i');
  elsif tag = 'ALTER TABLE' then
    return regexp_replace(statement, '(\ydetach\s+partition\s+.*\S)\s+concurrently\s*$', '\1', 'i');
  elsif tag = 'REFRESH MATERIALIZED VIEW' then
    return regexp_replace(statement, '^(refresh\s+materialized\s+view\s+)concurrently\y', '\1', 'i');
  elsif tag like 'DROP %' and tag not in ('DROP OWNED') then
    -- What this member has and others do not (an index that was never finished) may go.
    parts := regexp_match(statement, '^(' || replace(tag, ' ', '\s+') || ')\s+(?:concurrently\s+)?(?:if\s+exists\s+)?(.*)$', 'is');
    if parts is not null then
      return parts[1] || ' if exists ' || parts[2];
    end if;
  end if;
  return statement;
end
$$;
revoke execute on all functions in schema varve_group from public;
grant execute on function varve_group.write_master(), varve_group.is_write_master() to public;
