import type { Connection } from '../../postgres/connection.ts';

/**
 * Gives an empty database of a joiner the structure of the donor's: the roles, then every statement of the donor's
 * queue in order, each in a transaction of its own. The rows of the queue themselves come with the content; `replayed` tells
 * the joiner which of them are carried out already.
 */
export async function replayDdl(donor: Connection, joiner: Connection): Promise<void> {
  const { roles } = await donor.one<{ roles: object }>('select varve_group._roles() as roles');
  const { rows } = await donor.query<{ row: object }>(
    'select pg_catalog.to_jsonb(q) as row from varve_group.ddl_queue q order by id',
  );
  await joiner.query('select varve_group._make_roles($1)', [JSON.stringify(roles)]);
  for (const { row } of rows) await joiner.query('select varve_group.replay_ddl($1)', [JSON.stringify(row)]);
}
