import { messageOf, VarveError } from '../../core/errors.ts';
import type { MemberRecord } from '../group-keys.ts';
import { addressOf, CONTROL_DATABASE, type GroupContext } from './context.ts';
import { checkClocks } from './prepare-server.ts';

/**
 * Whether this node gets on with a member: it lets us in with the group's password, and has the same time.
 * @throws LOGIN_FAILED, GROUP_CLOCKS_APART
 * @throws GROUP_MEMBER_AWAY when it does not answer
 */
export async function checkPeer(context: GroupContext, member: MemberRecord): Promise<void> {
  const { deps, options, servers } = context;
  try {
    await servers.withConnection(addressOf(member), CONTROL_DATABASE, async (connection) => {
      const beforeMs = deps.clock.nowMs();
      const { now } = await connection.one<{ now: Date }>('select pg_catalog.clock_timestamp() as now');
      const own = { beforeMs, afterMs: deps.clock.nowMs(), maxSkewMs: options.maxClockSkewMs };
      checkClocks({ name: `the server of ${member.node}`, nowMs: now.getTime() }, own);
    });
  } catch (error) {
    if (!(error instanceof VarveError)) throw error;
    if (error.code === 'LOGIN_FAILED') {
      throw new VarveError('LOGIN_FAILED', `${member.node} does not let ${options.node} in`, {
        detail: `${error.message}\n${error.detail ?? ''}`.trim(),
        hint: 'Every member needs the same password of the group, and lines for the others in pg_hba.conf.',
        sqlstate: error.sqlstate,
        cause: error,
      });
    }
    if (error.code === 'CONNECTION_FAILED' || error.code === 'CONNECTION_LOST') {
      throw memberAway(member, error);
    }
    throw error;
  }
}

export function memberAway(member: MemberRecord, cause: unknown): VarveError {
  const { node, host, port } = member;
  return new VarveError('GROUP_MEMBER_AWAY', `member ${node} at ${host}:${port} does not answer`, {
    detail: messageOf(cause),
    hint: `Start ${node}; or, when it is gone for good: varve cluster leave ${node}`,
    cause,
  });
}
