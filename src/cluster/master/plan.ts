import type { FenceRecord, MasterRecord, MemberRecord, QuorumRule, ReignRecord } from '../group-keys.ts';
import { maxLsn, NO_LSN } from './lsn.ts';
import { isFenced, notFenced, ruleFor, sameRule, type QuorumOptions } from './quorum.ts';
import { behind, debts, mostAdvanced, positionsOf, reignOf, type Debt, type Positions } from './reign.ts';
import type { MemberState } from './states.ts';

/** What a member sees when it decides what to do next. */
export interface Observed {
  readonly self: string;
  /** Whether its session at the coordinator certainly lives. */
  readonly session: boolean;
  /** The token of `master/lock` while this node holds it. */
  readonly lock: string | undefined;
  readonly record: MasterRecord | undefined;
  /** By reign. */
  readonly history: ReadonlyMap<string, ReignRecord>;
  /** Of the record's reign, by node. */
  readonly fences: ReadonlyMap<string, FenceRecord>;
  /** The last reign that this node followed, or led. */
  readonly followed: string | undefined;
  readonly members: ReadonlyMap<string, Pick<MemberRecord, 'state' | 'tags' | 'joinedAt'>>;
  readonly paused: boolean;
  readonly local: LocalView;
  /** The former master's server takes connections: its node may fence itself in a moment. */
  readonly previousAnswers: boolean;
  /** Databases in which the former master could not be asked for what nobody else has of its changes. */
  readonly previousSpent: ReadonlySet<string>;
  /** Reigns for which it was found that this node, master before, committed nothing that was lost. */
  readonly cleared: ReadonlySet<string>;
  /** From whom this node takes nothing for the time being, because another joins by its copy. */
  readonly frozen: ReadonlySet<string>;
}

/** This node's own PostgreSQL. */
export interface LocalView {
  readonly answers: boolean;
  /** Whether clients may write, and commits are acknowledged by the rules of the record. */
  readonly clients: 'let-in' | 'kept-out';
  /** From whom changes are taken in at least one database. */
  readonly enabledFrom: ReadonlySet<string>;
  /** To whom an edge is there that is not enabled in at least one database. */
  readonly disabledFrom: ReadonlySet<string>;
  /** How far others' changes are applied, by node. */
  readonly progress: ReadonlyMap<string, Positions>;
}

export interface PlanOptions {
  readonly quorum: QuorumOptions;
  /** How long a former master whose server answers is waited for, so that what only it has is kept. */
  readonly graceMs: number;
  /** How long a switch-over's target has for itself. */
  readonly handoverMs: number;
}

export type Action =
  | { readonly do: 'nothing' | 'connect' | 'release' | 'fence' | 'open' | 'settle-rules' | 'hand-over' }
  /** Clients may not write here any more. */
  | { readonly do: 'close' }
  | { readonly do: 'claim'; readonly previous: MasterRecord['previous'] }
  /** The same reign under a new term. */
  | { readonly do: 'continue' }
  | { readonly do: 'fill'; readonly debts: readonly Debt[]; readonly fromPrevious: boolean }
  | { readonly do: 'promote'; readonly fill: Positions; readonly rule: QuorumRule }
  | { readonly do: 'change-rules'; readonly rule: QuorumRule }
  | { readonly do: 'adopt' | 'follow' }
  | { readonly do: 'edges'; readonly enable: readonly string[]; readonly disable: readonly string[] }
  | { readonly do: 'rejoin'; readonly reason: string };

export interface Plan {
  readonly state: MemberState;
  readonly action: Action;
  /** Whether this node stands as a candidate: waits for the lock. */
  readonly wantLock: boolean;
  readonly waitingFor?: string;
}

const NOTHING: Action = { do: 'nothing' };

/** What a member does next. Called again after each action, and whenever something changes. */
export function plan(o: Observed, options: PlanOptions, nowMs: number): Plan {
  const mine = o.record?.node === o.self;
  if (!o.session) {
    // In maintenance nobody else is elected, and quorums hold all the same.
    const stays = o.paused && mine && o.record?.state === 'active';
    const action: Action = o.local.clients === 'kept-out' || stays ? { do: 'connect' } : { do: 'close' };
    return { state: 'detached', action, wantLock: false, waitingFor: 'the coordinator' };
  }
  const member = o.members.get(o.self);
  if (member?.state !== 'member' || !o.local.answers) return outside(o, member?.state);
  const stands = isCandidate(o, options, nowMs);
  if (o.lock !== undefined) return asHolder(o, o.lock, { options, nowMs, stands });
  if (!o.record) return asIdle(o, stands, 'a write master to be elected');
  if (mine) {
    if (o.paused && o.record.state === 'active' && o.local.clients === 'let-in') {
      return { state: 'active', action: NOTHING, wantLock: true, waitingFor: 'the lock, in maintenance' };
    }
    return asIdle(o, stands, 'the lock');
  }
  return { ...asFollower(o, o.record), wantLock: stands };
}

/** Not a member, or a member without a server: it takes no part, and holds nobody up. */
function outside(o: Observed, state: MemberRecord['state'] | undefined): Plan {
  const name = state === 'rejoin-needed' ? 'rejoin-needed' : 'idle';
  const waitingFor = o.local.answers
    ? state === 'rejoin-needed'
      ? 'being made anew (varve cluster reinit)'
      : state === undefined
        ? 'being asked back into the group (varve cluster reinit)'
        : 'becoming a member'
    : 'its own PostgreSQL';
  const base = { state: name, wantLock: false, waitingFor } as const;
  if (o.lock !== undefined) return { ...base, action: { do: 'release' } };
  if (state === 'rejoin-needed' && o.local.answers) {
    if (o.local.clients === 'let-in') return { ...base, action: { do: 'close' } };
    const disable = [...o.local.enabledFrom];
    if (disable.length > 0) return { ...base, action: { do: 'edges', enable: [], disable } };
  }
  return { ...base, action: NOTHING };
}

function isCandidate(o: Observed, { handoverMs }: PlanOptions, nowMs: number): boolean {
  const { record } = o;
  const handover = record?.handover;
  if (handover && nowMs - Date.parse(handover.at) < handoverMs) return handover.to === o.self;
  if (record?.node === o.self && record.state === 'active') return true;
  if (o.paused || o.members.get(o.self)?.tags.nofailover === true) return false;
  // One that has not followed may lack what nobody could give it any more.
  return record?.state !== 'active' || o.fences.get(o.self)?.followed === true;
}

function asIdle(o: Observed, wantLock: boolean, waitingFor: string): Plan {
  const action: Action = o.local.clients === 'let-in' ? { do: 'close' } : NOTHING;
  return { state: 'idle', action, wantLock, waitingFor };
}

interface HolderContext {
  readonly options: PlanOptions;
  readonly nowMs: number;
  readonly stands: boolean;
}

function asHolder(o: Observed, lock: string, context: HolderContext): Plan {
  const { record } = o;
  const mine = record?.node === o.self;
  if (record && mine && record.term === lock) {
    return record.state === 'active' ? asMaster(o, record, context) : asCandidate(o, record, context);
  }
  if (!context.stands) return { state: 'idle', action: { do: 'release' }, wantLock: false };
  if (mine && record.state === 'active') {
    return { state: 'active', action: { do: 'continue' }, wantLock: true };
  }
  // Who claimed and did not become active has written nothing: the former one is still the former one.
  const previous =
    record?.state === 'active'
      ? { node: record.node, reign: reignOf(record), rules: record.rules ?? [] }
      : (record?.previous ?? null);
  return { state: 'electing', action: { do: 'claim', previous }, wantLock: true };
}

function asMaster(o: Observed, record: MasterRecord, { options, nowMs }: HolderContext): Plan {
  const base = { wantLock: true } as const;
  const { handover } = record;
  if (handover && handover.to !== o.self && nowMs - Date.parse(handover.at) < options.handoverMs) {
    return { ...base, state: 'handing-over', action: { do: 'hand-over' }, waitingFor: handover.to };
  }
  const active = { ...base, state: 'active' } as const;
  if (o.local.clients === 'kept-out') return { ...active, action: { do: 'open' } };
  if ((record.rules?.length ?? 0) > 1) return { ...active, action: { do: 'settle-rules' } };
  const rule = ruleFor(o.self, memberNames(o), options.quorum);
  const [present] = record.rules ?? [];
  if (!present || !sameRule(present, rule)) return { ...active, action: { do: 'change-rules', rule } };
  return { ...active, action: edges(o, record) };
}

function asCandidate(o: Observed, record: MasterRecord, { options, nowMs }: HolderContext): Plan {
  const base = { wantLock: true } as const;
  if (!o.fences.has(o.self) || o.local.enabledFrom.size > 0 || o.local.clients === 'let-in') {
    return { ...base, state: 'fencing', action: { do: 'fence' } };
  }
  const previous = record.previous ?? null;
  const waitingFor = previous
    ? waitsFor(o, record, previous, options.graceMs - (nowMs - Date.parse(record.since)))
    : '';
  if (waitingFor !== '') return { ...base, state: 'collecting', action: NOTHING, waitingFor };
  const wanted = previous ? wantedOf(o, previous.node) : new Map();
  const owed = debts(record, o.history, o.followed).filter((debt) => !isPaid(o, debt));
  if (previous && previous.node !== o.self && behind(has(o, previous.node), wanted).length > 0) {
    owed.push({ reign: record.term, origin: previous.node, upTo: wanted });
  }
  if (owed.length > 0) {
    const fromPrevious = previous !== null && o.fences.has(previous.node);
    return { ...base, state: 'catching-up', action: { do: 'fill', debts: owed, fromPrevious } };
  }
  const fill = previous
    ? previous.node === o.self
      ? positionsOf(o.fences.get(o.self)?.own)
      : has(o, previous.node)
    : new Map();
  const rule = ruleFor(o.self, memberNames(o), options.quorum);
  return { ...base, state: 'promoting', action: { do: 'promote', fill, rule } };
}

/** Empty when the former master cannot acknowledge anything any more. */
function waitsFor(
  o: Observed,
  record: MasterRecord,
  previous: NonNullable<MasterRecord['previous']>,
  graceLeftMs: number,
): string {
  if (previous.node === o.self || o.fences.has(previous.node)) return '';
  const fenced = new Set(o.fences.keys());
  if (!isFenced(previous.rules, fenced)) {
    const missing = notFenced(previous.rules, fenced).filter((node) => node !== previous.node);
    return `${[previous.node, ...missing].join(' or ')} to be fenced for term ${record.term}`;
  }
  // What nobody else has would be lost, and the former master would have to join anew.
  return o.previousAnswers && graceLeftMs > 0 ? `${previous.node}, whose server answers` : '';
}

/** Where the former master's changes end: not before what anybody has of them. */
function wantedOf(o: Observed, previous: string): Positions {
  const others = [...o.fences.values()].filter(({ node }) => node !== previous);
  const wanted = new Map(mostAdvanced(others));
  for (const [database, lsn] of positionsOf(o.fences.get(previous)?.own)) {
    if (o.previousSpent.has(database)) continue;
    wanted.set(database, maxLsn([wanted.get(database) ?? NO_LSN, lsn]));
  }
  return wanted;
}

function asFollower(o: Observed, record: MasterRecord): Omit<Plan, 'wantLock'> {
  const fence = o.fences.get(o.self);
  if (o.local.clients === 'let-in') return { state: 'fencing', action: { do: fence ? 'close' : 'fence' } };
  if (!fence) {
    const joined = Date.parse(o.members.get(o.self)?.joinedAt ?? '') > Date.parse(record.since);
    const whole = joined && o.local.enabledFrom.has(record.node);
    // Before the first reign there was nobody whose changes could be missing.
    if (record.state === 'active' && ((record.previous ?? null) === null || whole)) {
      return { state: 'following', action: { do: 'adopt' } };
    }
    return { state: 'fencing', action: { do: 'fence' } };
  }
  if (fence.followed === true) {
    const action = edges(o, record);
    return { state: 'following', action };
  }
  if (o.local.enabledFrom.size > 0) return { state: 'fencing', action: { do: 'fence' } };
  if (record.state !== 'active') {
    return { state: 'fenced', action: NOTHING, waitingFor: `${record.node} to take over` };
  }
  const owed = debts(record, o.history, o.followed);
  const beyond = owed.find((debt) => isBeyond(o, debt));
  if (beyond) return { state: 'rejoin-needed', action: { do: 'rejoin', reason: beyondReason(beyond) } };
  const unpaid = owed.filter((debt) => !isPaid(o, debt));
  if (unpaid.length > 0) {
    const waitingFor = [...new Set(unpaid.map(({ origin }) => `changes of ${origin}`))].join(', ');
    return { state: 'filling', action: { do: 'fill', debts: unpaid, fromPrevious: true }, waitingFor };
  }
  return { state: 'following', action: { do: 'follow' } };
}

/**
 * Changes are taken from every member, except from one that was master and has not said that it knows of this
 * reign: it may still write. The edges of one that joins anew are its own matter: nothing of its earlier life comes
 * over those that it makes, and it waits for what does.
 */
function edges(o: Observed, record: MasterRecord): Action {
  const masters = new Set<string>();
  for (const { node, previous } of o.history.values()) {
    masters.add(node);
    if (previous !== null) masters.add(previous);
  }
  if (record.previous) masters.add(record.previous.node);
  const trusted = (node: string): boolean => {
    if (node === record.node) return true;
    if (o.members.get(node)?.state !== 'member') return false;
    return masters.has(node) ? o.fences.get(node)?.followed === true : true;
  };
  const enable = [...o.local.disabledFrom].filter(
    (node) => node !== o.self && !o.frozen.has(node) && trusted(node),
  );
  const joins = (node: string): boolean => o.members.get(node)?.state === 'joining';
  const disable = [...o.local.enabledFrom].filter(
    (node) => masters.has(node) && !trusted(node) && !joins(node),
  );
  return enable.length + disable.length > 0 ? { do: 'edges', enable, disable } : NOTHING;
}

function isPaid(o: Observed, { reign, origin, upTo }: Debt): boolean {
  if (origin === o.self) return o.cleared.has(reign);
  return behind(has(o, origin), upTo).length === 0;
}

/** It took changes of a former master that are not among those that its successor started with. */
function isBeyond(o: Observed, { origin, upTo }: Debt): boolean {
  return origin !== o.self && behind(upTo, has(o, origin)).some((database) => upTo.has(database));
}

function beyondReason({ origin, reign, upTo }: Debt): string {
  const where = [...upTo.keys()].join(', ');
  return `it has changes of ${origin} in ${where} that were not confirmed before term ${reign}, and nobody else has them`;
}

function has(o: Observed, origin: string): Positions {
  return o.local.progress.get(origin) ?? new Map();
}

function memberNames(o: Observed): string[] {
  return [...o.members].flatMap(([node, { state }]) => (state === 'member' ? [node] : []));
}
