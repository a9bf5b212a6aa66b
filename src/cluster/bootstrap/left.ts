import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import { addressOf, type GroupContext } from './context.ts';
import { isReinitAsked } from './join-running.ts';
import type { MemberRecord } from '../group-keys.ts';

/** A setting of the databases of a node that has left: the group that they were part of. */
const LEFT = 'varve_group.former_member_of';

/** Of a member that lives: it keeps its content, so it must not be taken for one that wants to join with that. */
export async function markAsLeft(
  { servers }: GroupContext,
  record: MemberRecord,
  groupUuid: string,
): Promise<void> {
  await servers.withConnection(addressOf(record), 'postgres', async (connection) => {
    for (const database of record.databases) {
      await connection.query(
        `alter database ${quoteIdent(database)} set ${LEFT} = ${quoteLiteral(groupUuid)}`,
      );
    }
  });
}

/**
 * Whether this node has left the group, still has what it kept, and nobody has asked it back: it is no member, and no
 * joiner either.
 */
export async function hasLeft(context: GroupContext): Promise<boolean> {
  return (await isOutside(context)) && !(await isReinitAsked(context));
}

/** Whether this node is in no group, and what it has is that of a former member of this one. */
export async function isOutside(context: GroupContext): Promise<boolean> {
  const { keys, deps, options } = context;
  const [group, record] = await Promise.all([keys.group.read(), keys.members.at(options.node).read()]);
  if (!group || record) return false;
  const marked = await deps.withAdmin('postgres', (connection) =>
    connection.maybeOne(
      `select 1 from pg_catalog.pg_db_role_setting s join pg_catalog.pg_database d on d.oid = s.setdatabase
        where s.setrole = 0 and d.datname = any ($1) and $2 = any (s.setconfig) limit 1`,
      [context.databases, `${LEFT}=${group.value.uuid}`],
    ),
  );
  return marked !== undefined;
}
