import { VarveError } from '../../core/errors.ts';
import { groupIdentity, type GroupIdentity } from '../ddl/install.ts';
import type { GroupRecord } from '../group-keys.ts';
import type { BootstrapOptions, GroupContext } from './context.ts';

/** Of each of this node's replicated databases. */
export async function readIdentities(context: GroupContext): Promise<ReadonlyMap<string, GroupIdentity>> {
  const found = await Promise.all(
    context.databases.map(
      async (database) => [database, await context.onSelf(database, groupIdentity)] as const,
    ),
  );
  return new Map(found.filter((entry): entry is [string, GroupIdentity] => entry[1] !== undefined));
}

export interface IdentityFacts {
  readonly cluster: string;
  readonly node: string;
  readonly local: ReadonlyMap<string, GroupIdentity>;
  /** What the coordinator has. */
  readonly group: Pick<GroupRecord, 'uuid'> | undefined;
}

/**
 * Pure: whether this server's databases may be part of that group. Nothing is a part of two, and a group that the
 * coordinator has forgotten is not made a second time.
 * @throws GROUP_FOREIGN, GROUP_FORGOTTEN
 */
export function judgeIdentity({ cluster, node, local, group }: IdentityFacts): void {
  for (const [database, identity] of local) {
    if (group && identity.groupUuid !== group.uuid) {
      throw new VarveError('GROUP_FOREIGN', `database ${database} of ${node} belongs to another group`, {
        detail: `Its group is ${identity.groupUuid}; group ${cluster} at the coordinator is ${group.uuid}.`,
        hint: 'Check name of the cluster, data folder and coordinator. Nothing was changed.',
      });
    }
    if (identity.node !== node) {
      throw new VarveError(
        'GROUP_FOREIGN',
        `database ${database} belongs to node ${identity.node}, and this is ${node}`,
        { hint: 'Start the node under its former name, or reinitialise it. Nothing was changed.' },
      );
    }
  }
  const [some] = local;
  if (some && !group) {
    throw new VarveError('GROUP_FORGOTTEN', `the coordinator knows no group ${cluster}`, {
      detail: `Database ${some[0]} of ${node} is a part of group ${some[1].groupUuid}.`,
      hint: `Bring the coordinator’s data back, or correct its URL. If they are lost for good, write ${some[1].groupUuid} into its key varve/cluster/${cluster}/recover and start the members again.`,
    });
  }
}

/** @throws GROUP_SHAPE when the group was made as something else than this node is configured for */
export function judgeShape(
  cluster: string,
  group: Pick<GroupRecord, 'kind' | 'accessDatabase'>,
  options: Pick<BootstrapOptions, 'kind' | 'accessDatabase' | 'node'>,
): void {
  const shown = (shape: Pick<GroupRecord, 'kind'> & { accessDatabase?: string | undefined }): string =>
    shape.accessDatabase === undefined
      ? `${shape.kind} group`
      : `${shape.kind} group with access database ${shape.accessDatabase}`;
  if (shown(group) === shown(options)) return;
  throw new VarveError('GROUP_SHAPE', `group ${cluster} is not what ${options.node} is configured for`, {
    detail: `It is a ${shown(group)}; this node is configured for a ${shown(options)}.`,
    hint: 'Correct the configuration of this node.',
  });
}
