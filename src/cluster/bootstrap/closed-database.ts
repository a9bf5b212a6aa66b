import type { Connection } from '../../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import { endSessions } from '../master/client-sessions.ts';
import { makeReadOnly } from '../master/read-only.ts';
import { CONTROL_DATABASE, GROUP_ROLE, type GroupContext } from './context.ts';

/**
 * A database that is being filled from the group is closed to clients: what they wrote would spread, or be lost, and
 * what they read is a part of the truth. Closed means, from before the first row arrives until the node is a member:
 *
 * - no connections but superusers' (`connection limit 0`, from the moment on at which the database is made)
 * - none of theirs either, unless the session says that it is the daemon's: by a trigger on login, which PostgreSQL has
 *   since version 17. It answers 57P03, at which libpq goes on to the next host
 * - read-only by default; that stays, until the member is write master
 *
 * The group's role is let in, as are those who replicate: they log in as it.
 */
const GATE = 'varve_closed';
/** Of a database that was not made anew; reset with the gate. */
const LIMIT = 'varve_group.connection_limit';
const LOGIN_TRIGGERS_SINCE = 170_000;
const UNLIMITED = -1;

/** Where clients work; in the control database there are none. May be repeated. The group's schema is there. */
export async function closeDatabase(context: GroupContext, database: string): Promise<void> {
  if (database === CONTROL_DATABASE) return;
  const name = quoteIdent(database);
  await context.onSelf(database, async (connection) => {
    const { limit, version } = await connection.one<{ limit: number; version: number }>(
      `select datconnlimit as limit, pg_catalog.current_setting('server_version_num')::int4 as version
         from pg_catalog.pg_database where datname = pg_catalog.current_database()`,
    );
    await makeReadOnly(connection, database);
    if (limit > 0)
      await connection.query(`alter database ${name} set ${LIMIT} = ${quoteLiteral(String(limit))}`);
    await connection.query(`alter database ${name} connection limit 0`);
    if (version >= LOGIN_TRIGGERS_SINCE) await shutGate(connection, context.options.node);
    await endSessions({ clock: context.deps.clock, except: GROUP_ROLE }, connection, {
      node: context.options.node,
      databases: [database],
    });
  });
}

/** May be repeated; of one that was never closed it changes nothing. */
export async function openDatabase(context: GroupContext, database: string): Promise<void> {
  if (database === CONTROL_DATABASE) return;
  const name = quoteIdent(database);
  await context.onSelf(database, async (connection) => {
    await connection.transaction(async () => {
      await connection.query(
        `set local client_min_messages = warning; set local varve_group.ddl = off;
         drop event trigger if exists ${GATE}; drop function if exists varve_group.${GATE}()`,
      );
    });
    const { limit, before } = await connection.one<{ limit: number; before: string | null }>(
      `select d.datconnlimit as limit,
              (select pg_catalog.substring(c.line, '=(.*)$')
                 from pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) as c (line)
                where s.setdatabase = d.oid and s.setrole = 0 and c.line like $1 || '=%') as before
         from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()`,
      [LIMIT],
    );
    if (limit === 0) await connection.query(`alter database ${name} connection limit ${before ?? UNLIMITED}`);
    await connection.query(`alter database ${name} reset ${LIMIT}`);
  });
}

async function shutGate(connection: Connection, node: string): Promise<void> {
  const message = `${node} is being filled from its group, and takes no clients yet`;
  await connection.transaction(async () => {
    await connection.query('set local varve_group.ddl = off');
    await connection.query(
      `create or replace function varve_group.${GATE}() returns event_trigger language plpgsql set search_path = pg_catalog
       as $gate$
       begin
         if session_user <> ${quoteLiteral(GROUP_ROLE)}
            and current_setting('varve_group.daemon', true) is distinct from 'on' then
           raise exception using errcode = 'cannot_connect_now', message = ${quoteLiteral(message)},
             hint = 'Connect to another member.';
         end if;
       end
       $gate$`,
    );
    const there = await connection.maybeOne('select 1 from pg_catalog.pg_event_trigger where evtname = $1', [
      GATE,
    ]);
    if (there) return;
    await connection.query(`create event trigger ${GATE} on login execute function varve_group.${GATE}()`);
    await connection.query(`alter event trigger ${GATE} enable always`);
  });
}
