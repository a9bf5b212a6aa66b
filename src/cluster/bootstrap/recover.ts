import type { GroupIdentity } from '../ddl/install.ts';
import type { GroupRecord, Versioned } from '../group-keys.ts';
import type { GroupContext } from './context.ts';
import { readIdentities } from './identity.ts';

/**
 * Records a group anew that the coordinator has lost, when somebody has said that it is lost for good: by the group's
 * UUID in the key `recover`. Only a node whose databases are all part of that very group does it. Undefined when that
 * is not so.
 */
export async function recoverGroup(
  context: GroupContext,
  local: ReadonlyMap<string, GroupIdentity>,
): Promise<Versioned<GroupRecord> | undefined> {
  const { keys, options, deps, databases } = context;
  if (local.size === 0) return undefined;
  const uuid = (await keys.coordinator.get(keys.recoverKey))?.value.toString('utf8').trim();
  if (uuid === undefined || !databases.every((name) => local.get(name)?.groupUuid === uuid)) return undefined;
  const record: GroupRecord = {
    uuid,
    kind: options.kind,
    state: 'complete',
    owner: options.node,
    ownerUuid: options.nodeUuid,
    token: '0',
    committed: 'schema',
    size: options.size,
    ...(options.accessDatabase === undefined ? {} : { accessDatabase: options.accessDatabase }),
    schemaVersion: deps.controlSchema.version,
    recovered: true,
    createdAt: new Date(deps.clock.nowMs()).toISOString(),
  };
  // Another member may be faster: it is the same group.
  if (await keys.group.create(record)) {
    deps.log.warn({ node: options.node, group: uuid }, 'the record of the group was lost, and is made anew');
  }
  return keys.group.read();
}

/**
 * Whether this node is a member by what its databases say, because the coordinator has lost who is one. Whether it has
 * all changes is looked at like after any absence.
 */
export async function isRecovered(context: GroupContext): Promise<boolean> {
  const group = await context.keys.group.read();
  if (!group?.value.recovered) return false;
  const local = await readIdentities(context);
  return context.databases.every((name) => local.get(name)?.groupUuid === group.value.uuid);
}
