import type { GroupKeys, MemberRecord, Versioned } from '../group-keys.ts';

/** Who is in the group and who gives signs of life, as the coordinator has it. */
export interface Roster {
  readonly records: ReadonlyMap<string, Versioned<MemberRecord>>;
  /** Names of nodes whose check passes; of other clusters none. */
  readonly alive: ReadonlySet<string>;
}

export async function readRoster(keys: GroupKeys): Promise<Roster> {
  const [records, services] = await Promise.all([
    keys.members.list(),
    keys.coordinator.services(keys.serviceName, { passing: true }),
  ]);
  return { records, alive: new Set(services.map(({ meta, id }) => meta['node'] ?? id)) };
}

/** Members that others count on, in the order of their names. */
export function membersOf(roster: Pick<Roster, 'records'>): MemberRecord[] {
  return [...roster.records.values()].map(({ value }) => value).filter(({ state }) => state === 'member');
}
