/**
 * What a member does about the write master, as a table: from where to where, and when. `plan` decides by it
 * (plan.test.ts proves that every state is reached and every row used); docs/cluster.md draws it.
 *
 * A *term* is a holder of the lock, a *reign* one master without interruption. Everything that may lose or
 * double a commit hangs on four rules:
 *
 * 1. `master` is written only under the lock, in a transaction that checks it.
 * 2. A member takes nothing more of anybody once it has seen a new reign, until its own record of that is
 *    written and it has all that the reign starts with.
 * 3. A candidate becomes active when so many members are fenced that the former master cannot reach its quorum
 *    (`quorum.ts`), and when it has all that any of these had.
 * 4. A member that has more of a former master than its successor started with joins anew.
 */
export const STATES = {
  detached: 'no session at the coordinator: clients may not write here',
  idle: 'no master was ever elected, and this node does not take part',
  electing: 'holds the lock and announces a new reign',
  fencing: 'stops taking changes of anybody, and records how far it is',
  fenced: 'waits for the candidate to decide where the former master’s changes end',
  collecting: 'the candidate waits until the former master cannot acknowledge anything any more',
  'catching-up': 'the candidate takes what others have of the former master’s changes',
  promoting: 'the candidate decides, and lets clients write',
  active: 'write master',
  'handing-over': 'write master that lets another take over: clients may not write any more',
  filling: 'takes what it lacks of former masters’ changes from other members',
  following: 'takes the write master’s changes',
  'rejoin-needed': 'has changes that the group does not have, or lacks some that nobody has any more',
} as const;

export type MemberState = keyof typeof STATES;

export interface Transition {
  readonly from: readonly MemberState[];
  readonly to: MemberState;
  readonly when: string;
}

const ALIVE: readonly MemberState[] = [
  'detached',
  'idle',
  'electing',
  'fencing',
  'fenced',
  'collecting',
  'catching-up',
  'promoting',
  'active',
  'handing-over',
  'filling',
  'following',
];

export const TRANSITIONS: readonly Transition[] = [
  { from: ALIVE, to: 'detached', when: 'the session at the coordinator is lost' },
  { from: ['detached'], to: 'idle', when: 'there is a session, and no master yet' },
  { from: ALIVE, to: 'electing', when: 'the lock was granted, and the record is of another reign' },
  { from: ALIVE, to: 'active', when: 'the lock was granted again to the master that the record names' },
  { from: ALIVE, to: 'fencing', when: 'the record is of a reign that this node has not been fenced for' },
  { from: ALIVE, to: 'fenced', when: 'fenced for a reign whose start is not decided' },
  { from: ALIVE, to: 'collecting', when: 'candidate, and the former master might still reach its quorum' },
  { from: ALIVE, to: 'catching-up', when: 'candidate, and a fenced member has more than it' },
  { from: ALIVE, to: 'promoting', when: 'candidate, and it has all that any fenced member has' },
  { from: ALIVE, to: 'handing-over', when: 'active, and a switch-over is under way' },
  { from: ALIVE, to: 'filling', when: 'the start of the reign is decided, and this node has not followed' },
  { from: ALIVE, to: 'following', when: 'it has all that the reign starts with' },
  { from: ALIVE, to: 'rejoin-needed', when: 'what it has or lacks cannot be reconciled' },
];
