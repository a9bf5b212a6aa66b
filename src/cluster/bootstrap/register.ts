import { VarveError } from '../../core/errors.ts';
import { done, todo, type Check, type Step, type StepWork } from '../../run/step.ts';
import type { MemberRecord } from '../group-keys.ts';
import type { GroupContext } from './context.ts';
import { judgeIdentity, judgeShape, readIdentities } from './identity.ts';
import { readRoster, type Roster } from './members.ts';
import { isRecovered, recoverGroup } from './recover.ts';
import { met, waitsFor, waitUntil, type Look } from './wait.ts';

/** Registration with the coordinator, and the wait for the nodes of the cluster. */
export const REGISTER_STEPS: readonly Step<GroupContext>[] = [
  {
    name: 'check-identity',
    check: async (context) => {
      await checkIdentity(context);
      return done;
    },
    apply: () => Promise.resolve(),
  },
  {
    name: 'register-node',
    check: () => Promise.resolve(todo('so that the others know it')),
    apply: registerNode,
  },
  { name: 'wait-for-nodes', check: nodesNeeded, apply: waitForNodes },
];

/** @throws GROUP_FOREIGN, GROUP_FORGOTTEN, GROUP_SHAPE */
export async function checkIdentity(context: GroupContext): Promise<void> {
  const { keys, options } = context;
  const local = await readIdentities(context);
  const group = (await keys.group.read()) ?? (await recoverGroup(context, local));
  judgeIdentity({ cluster: keys.cluster, node: options.node, local, group: group?.value });
  if (group) judgeShape(keys.cluster, group.value, options);
}

/** @throws GROUP_NAME_TAKEN */
async function registerNode(context: GroupContext): Promise<void> {
  const { keys, options } = context;
  await claimName(context);
  context.registration ??= await keys.coordinator.register(
    {
      id: keys.serviceId(options.node),
      name: keys.serviceName,
      address: options.host,
      port: options.port,
      meta: { node: options.node, nodeUuid: options.nodeUuid, cluster: keys.cluster },
    },
    { kind: 'ttl', ttlMs: options.registrationTtlMs, status: 'passing' },
  );
}

/** This node's record at the coordinator, as a joiner's where there is none. @throws GROUP_NAME_TAKEN */
export async function claimName(context: GroupContext): Promise<MemberRecord | undefined> {
  const { keys, options, deps, databases } = context;
  const state = (await isRecovered(context)) ? 'member' : 'joining';
  const { node, nodeUuid, host, port, httpUrl, poolerPort, nofailover } = options;
  const claimed = await keys.members.at(node).update((present) => {
    if (present && present.nodeUuid !== nodeUuid) {
      throw new VarveError('GROUP_NAME_TAKEN', `another node is called ${node} in group ${keys.cluster}`, {
        detail: `It is at ${present.host}:${present.port}, a ${present.state} since ${present.joinedAt}.`,
        hint: `Choose another name; or, if that node is gone for good: varve cluster leave ${node}`,
      });
    }
    const record: MemberRecord = {
      ...(present ?? {
        node,
        nodeUuid,
        state,
        databases,
        joinedAt: new Date(deps.clock.nowMs()).toISOString(),
      }),
      host,
      port,
      ...(httpUrl === undefined ? {} : { httpUrl }),
      ...(poolerPort === undefined ? {} : { poolerPort }),
      tags: { ...present?.tags, nofailover: nofailover ?? false },
    };
    return record;
  });
  await refuseCopy(keys.members.list(), options);
  return claimed;
}

/** A folder that was copied, and started under another name. */
async function refuseCopy(
  listing: ReturnType<GroupContext['keys']['members']['list']>,
  { node, nodeUuid }: GroupContext['options'],
): Promise<void> {
  for (const { value } of (await listing).values()) {
    if (value.nodeUuid !== nodeUuid || value.node === node) continue;
    throw new VarveError('GROUP_NAME_TAKEN', `this node's folder is that of ${value.node}, too`, {
      detail: `Both have the node UUID ${nodeUuid}: one folder was copied from the other.`,
      hint: 'Start this node with a folder of its own.',
    });
  }
}

/** A group that exists needs nobody to wait for: its members come and go. */
async function nodesNeeded({ keys, options }: GroupContext): Promise<Check> {
  const group = await keys.group.read();
  if (group?.value.state === 'complete') return done;
  return options.size === 1 ? done : todo(`a group of ${options.size}`);
}

async function waitForNodes(context: GroupContext, work: StepWork): Promise<void> {
  const { keys, options, deps } = context;
  const wait = {
    what: `the nodes of group ${keys.cluster}`,
    timeoutMs: options.waitTimeoutMs,
    changes: context.changes,
  };
  await waitUntil(deps.clock, work, wait, async () => {
    const [roster, group] = await Promise.all([readRoster(keys), keys.group.read()]);
    return group?.value.state === 'complete' ? met : enoughNodes(roster, options);
  });
}

/** Pure. */
export function enoughNodes(
  { alive, records }: Roster,
  { size, expectedNodes }: Pick<GroupContext['options'], 'size' | 'expectedNodes'>,
): Look {
  if (expectedNodes) {
    const missing = expectedNodes.filter((node) => !alive.has(node));
    return missing.length === 0 || alive.size >= size ? met : waitsFor(missing.join(', '));
  }
  if (alive.size >= size) return met;
  const silent = [...records.keys()].filter((node) => !alive.has(node));
  const unknown = size - alive.size - silent.length;
  const names = silent.map((node) => `${node} (registered, gives no sign of life)`);
  if (unknown > 0) names.push(`${unknown} more of ${size} (registered: ${[...alive].toSorted().join(', ')})`);
  return waitsFor(names.join(', '));
}

/** False when the record was changed meanwhile. */
export async function setMemberState(
  { keys }: Pick<GroupContext, 'keys'>,
  node: string,
  change: Partial<MemberRecord>,
): Promise<boolean> {
  const seen = await keys.members.at(node).read();
  if (!seen) return false;
  return keys.members.at(node).write({ ...seen.value, ...change }, seen.version);
}
