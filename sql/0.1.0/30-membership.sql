-- What one node asks of another's database. Everything is a function, because the tables belong to whoever
-- the server runs extension scripts as, which is not always the extension's owner.

create function varve._installed() returns table (version text, schema name, schema_owner name, owner name, method text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select e.extversion, n.nspname, pg_get_userbyid(n.nspowner), pg_get_userbyid(e.extowner), 'extension'
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'varve'
  union all
  select i.version, i.schema, pg_get_userbyid(n.nspowner), i.owner, 'script'
    from varve.installation i join pg_namespace n on n.nspname = i.schema
$$;

create function varve._describe_database() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'uuid', i.uuid,
    'distId', i.dist_id,
    'distOwner', i.dist_owner,
    'distToken', i.dist_token,
    'distMade', i.dist_made,
    'database', d.datname,
    'encoding', pg_encoding_to_char(d.encoding),
    'collation', d.datcollate,
    'characterType', d.datctype,
    'provider', d.datlocprovider,
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
    'icuRules', to_jsonb(d) ->> 'daticurules',
    'collationVersion', d.datcollversion,
    'serverVersion', current_setting('server_version_num')::integer,
    'serverPort', current_setting('port')::integer,
    'varve', (select to_jsonb(v) from varve._installed() v),
    'timescaledb', (
      select jsonb_build_object('version', e.extversion, 'schema', n.nspname, 'owner', pg_get_userbyid(e.extowner))
      from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'timescaledb'))
  from varve.identity i, pg_database d
  where d.datname = current_database()
$$;

-- Only the owner of the extension may say to whom the database belongs.
create function varve._check_owner() returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  owner name;
begin
  select v.owner into strict owner from varve._installed() v;
  if not pg_has_role(session_user, owner, 'MEMBER') then
    raise exception 'role "%" does not own extension varve', session_user using errcode = '42501',
      detail = format('Its owner is "%s".', owner);
  end if;
end
$$;

-- Marks this database as a data node of the access database `dist_id`. A member of another one is refused, and
-- so is a mark that changed since the caller looked (`seen` is the token that it saw); the row lock decides
-- between two who come at once. `made` says what the call made here besides, so that it can be taken back.
create function varve.set_dist_id(dist_id uuid, token uuid, owner text, made jsonb, seen uuid) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  mine varve.identity;
begin
  perform varve._check_owner();
  select * into strict mine from varve.identity for update;
  if mine.dist_id is not null and mine.dist_id <> set_dist_id.dist_id
    or mine.dist_token is distinct from set_dist_id.seen then
    raise exception 'database "%" is already a member of a distributed database', current_database()
      using errcode = 'TS171', detail = format('It belongs to %s.', coalesce(mine.dist_owner, mine.dist_id::text));
  end if;
  update varve.identity i
    set dist_id = set_dist_id.dist_id, dist_token = set_dist_id.token, dist_owner = set_dist_id.owner,
        dist_made = set_dist_id.made || jsonb_build_object('before', jsonb_build_object(
          'dist_id', mine.dist_id, 'dist_token', mine.dist_token, 'dist_owner', mine.dist_owner,
          'dist_made', mine.dist_made));
  return mine.uuid;
end
$$;

-- Takes the mark away when `token` set it; says whether it did. With `restore`, what was there before that call
-- is put back.
create function varve.clear_dist_id(token uuid, restore boolean default false) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  before jsonb := '{}';
begin
  perform varve._check_owner();
  if restore then
    select coalesce(i.dist_made -> 'before', '{}') into before from varve.identity i;
  end if;
  update varve.identity i
    set dist_id = (before ->> 'dist_id')::uuid, dist_token = (before ->> 'dist_token')::uuid,
        dist_owner = before ->> 'dist_owner', dist_made = nullif(before -> 'dist_made', 'null')
    where i.dist_token = clear_dist_id.token;
  return found;
end
$$;
