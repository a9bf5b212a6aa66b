import type { Entry, Operation } from '../../coordination/coordinator.ts';
import type {
  FenceRecord,
  GroupConfig,
  GroupKeys,
  GroupRequest,
  JoinJournal,
  MasterRecord,
  MemberRecord,
  MemberStatus,
  ReignRecord,
  Versioned,
} from '../group-keys.ts';
import { reignOf } from './reign.ts';

/** Everything of a group at the coordinator that concerns its write master, as of one moment. */
export interface GroupView {
  readonly master: Versioned<MasterRecord> | undefined;
  readonly members: ReadonlyMap<string, MemberRecord>;
  /** By reign, then by node. */
  readonly fences: ReadonlyMap<string, ReadonlyMap<string, FenceRecord>>;
  readonly history: ReadonlyMap<string, ReignRecord>;
  readonly config: GroupConfig | undefined;
  readonly requests: ReadonlyMap<string, Versioned<GroupRequest>>;
  readonly status: ReadonlyMap<string, MemberStatus>;
  /** While a node joins. */
  readonly joining: JoinJournal | undefined;
}

/** Names of keys start with a letter. */
export function reignKey(reign: string): string {
  return `t${reign}`;
}

/** @throws GROUP_KEY_INVALID when a key was edited by hand: nothing is decided by half of a view */
export function readView(keys: GroupKeys, entries: readonly Entry[]): GroupView {
  const fences = new Map<string, Map<string, FenceRecord>>();
  const view = {
    master: undefined as Versioned<MasterRecord> | undefined,
    members: new Map<string, MemberRecord>(),
    fences,
    history: new Map<string, ReignRecord>(),
    config: undefined as GroupConfig | undefined,
    requests: new Map<string, Versioned<GroupRequest>>(),
    status: new Map<string, MemberStatus>(),
    joining: undefined as JoinJournal | undefined,
  };
  for (const entry of entries) {
    const [kind = '', first = '', second = ''] = entry.key.slice(keys.prefix.length).split('/');
    switch (kind) {
      case 'master':
        if (first === '') view.master = keys.master.parse(entry);
        break;
      case 'members':
        view.members.set(first, keys.members.at(first).parse(entry).value);
        break;
      case 'fence': {
        const ofReign = fences.get(first) ?? new Map<string, FenceRecord>();
        fences.set(first, ofReign.set(second, keys.fences(first).at(second).parse(entry).value));
        break;
      }
      case 'reigns':
        view.history.set(first.slice(1), keys.reigns.at(first).parse(entry).value);
        break;
      case 'config':
        view.config = keys.config.parse(entry).value;
        break;
      case 'requests':
        view.requests.set(first, keys.requests.at(first).parse(entry));
        break;
      case 'status':
        view.status.set(first, keys.status.at(first).parse(entry).value);
        break;
      case 'join':
        if (first === 'journal') view.joining = keys.joinJournal.parse(entry).value;
        break;
      default: // Others' matters.
    }
  }
  return view;
}

/** The last reign that `node` followed or led; undefined when it never did. */
export function lastFollowed(view: Pick<GroupView, 'fences'>, node: string): string | undefined {
  let last: string | undefined;
  for (const [reign, fences] of view.fences) {
    if (fences.get(node)?.followed !== true) continue;
    if (last === undefined || BigInt(reign) > BigInt(last)) last = reign;
  }
  return last;
}

/**
 * For the transaction in which a node that has joined becomes a member: it has all that the reign of `master`
 * started with, because it was copied from one who had.
 */
export function followsFromNow(
  keys: GroupKeys,
  node: string,
  master: MasterRecord | undefined,
  nowMs: number,
): Operation[] {
  if (master?.state !== 'active') return [];
  const reign = reignOf(master);
  const fence: FenceRecord = {
    node,
    term: reign,
    progress: {},
    followed: true,
    at: new Date(nowMs).toISOString(),
  };
  return [keys.fences(reign).at(node).put(fence)];
}
