import { messageOf } from '../../core/errors.ts';
import type { Clock } from '../../core/clock.ts';
import {
  held,
  type Comparison,
  type CoordinatorLog,
  type Operation,
} from '../../coordination/coordinator.ts';
import type { FenceRecord, GroupKeys, MasterRecord, QuorumRule } from '../group-keys.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import type { Mesh } from '../mesh/mesh.ts';
import { payDebt } from './filling.ts';
import { lastFollowed, reignKey, type GroupView } from './group-view.ts';
import type { LocalServer } from './local-server.ts';
import { formatLsn } from './lsn.ts';
import type { MasterLock } from './master-lock.ts';
import type { Action, LocalView } from './plan.ts';
import { confirmedBy } from './progress.ts';
import { reignOf, type Debt, type Positions } from './reign.ts';

export interface MemberActionsDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly keys: GroupKeys;
  readonly servers: GroupServers;
  readonly mesh: Mesh;
  readonly local: LocalServer;
  readonly lock: MasterLock;
}

/** All that an action is decided by; nothing is looked at anew, or it could be meant for another reign. */
export interface Situation {
  readonly view: GroupView;
  readonly local: LocalView;
  readonly databases: readonly string[];
  readonly signal: AbortSignal;
}

/** Things found out by acting, which the next plan takes into account. */
export interface Findings {
  readonly cleared: Set<string>;
  readonly previousSpent: Set<string>;
  trouble: string | undefined;
}

const CATCH_UP_MS = 2_000;
const POLL_MS = 5;
/** Until a walsender that still worked by the former rule has read the new one. */
const RULE_SETTLE_MS = 1_500;

/** Does what was planned, one action at a time. */
export class MemberActions {
  readonly #deps: MemberActionsDeps;
  readonly findings: Findings = { cleared: new Set(), previousSpent: new Set(), trouble: undefined };
  /** On the monotonic clock: since when clients may not write here, in a switch-over. */
  closedAtMs: number | undefined;

  constructor(deps: MemberActionsDeps) {
    this.#deps = deps;
  }

  get #self(): ServerAddress {
    return this.#deps.local.address;
  }

  async act(action: Action, situation: Situation): Promise<void> {
    const { local, lock } = this.#deps;
    const record = situation.view.master?.value;
    switch (action.do) {
      case 'nothing':
        return;
      case 'connect':
        return lock.connect();
      case 'release':
        return lock.release();
      case 'close':
        return local.keepOut();
      case 'claim':
        return this.#claim(action.previous ?? null, situation);
      case 'continue':
        if (record) await this.#write({ ...record, term: this.#term() }, situation);
        return;
      case 'fence':
        if (record) await this.#fence(record, situation);
        return;
      case 'fill':
        return this.#fill(action, situation);
      case 'promote':
        if (record) await this.#promote(record, action, situation);
        return;
      case 'open':
        if (record) await this.#open(record, situation);
        return;
      case 'change-rules':
        if (record) await this.#changeRules(record, action.rule, situation);
        return;
      case 'settle-rules':
        if (record) await this.#settleRules(record, situation);
        return;
      case 'hand-over':
        if (record) await this.#handOver(record, situation);
        return;
      case 'adopt':
      case 'follow':
        if (record) await this.#follow(record, situation);
        return;
      case 'edges':
        return this.#edges(action, situation);
      case 'rejoin':
        return this.#rejoin(action.reason);
    }
  }

  async #claim(previous: MasterRecord['previous'], situation: Situation): Promise<void> {
    const former = situation.view.master?.value;
    const term = this.#term();
    const planned = former?.handover?.to === this.#self.node ? former.handover : undefined;
    await this.#write(
      {
        node: this.#self.node,
        term,
        reign: term,
        since: new Date(this.#deps.clock.nowMs()).toISOString(),
        state: 'fencing',
        reason: planned ? 'switch-over' : previous ? `${previous.node} lost the lock` : 'the first one',
        previous,
        ...(planned ? { handover: planned } : {}),
      },
      situation,
    );
    this.findings.previousSpent.clear();
  }

  /** From here on this node takes nothing of anybody, and no client can write on it. */
  async #fence(record: MasterRecord, situation: Situation): Promise<void> {
    const { local, mesh, keys, clock } = this.#deps;
    const { databases, view } = situation;
    const reign = reignOf(record);
    const peers = [...view.members.keys()].filter((node) => node !== this.#self.node);
    // Who reads on a member that only followed need not be disturbed.
    const kept = this.#wasFollower(view) && (await local.isSet(undefined));
    await Promise.all([
      ...databases.flatMap((database) =>
        peers.map((node) => mesh.disable({ from: { node }, to: this.#self, database })),
      ),
      ...(kept ? [] : [local.keepOut()]),
    ]);
    await local.tellMaster(databases, record.node);
    const previous = record.previous?.node;
    const fence: FenceRecord = {
      node: this.#self.node,
      term: reign,
      progress:
        previous === undefined || previous === this.#self.node
          ? {}
          : await this.#progress(previous, databases),
      ...(previous === this.#self.node ? { own: await this.#own(databases) } : {}),
      at: new Date(clock.nowMs()).toISOString(),
    };
    await keys
      .fences(reign)
      .at(this.#self.node)
      .update(() => fence);
    this.#deps.log.info({ reign, master: record.node, previous: previous ?? null }, 'fenced');
  }

  #wasFollower(view: GroupView): boolean {
    const followed = lastFollowed(view, this.#self.node);
    return followed !== undefined && view.history.get(followed)?.node !== this.#self.node;
  }

  async #progress(from: string, databases: readonly string[]): Promise<Record<string, string>> {
    const positions = await Promise.all(
      databases.map(async (database) => {
        const lsn = await this.#deps.mesh.progress({ from: { node: from }, to: this.#self, database });
        return [database, lsn ?? '0/0'] as const;
      }),
    );
    return Object.fromEntries(positions);
  }

  async #own(databases: readonly string[]): Promise<Record<string, string>> {
    const lsn = formatLsn(await this.#deps.local.flushedLsn());
    return Object.fromEntries(databases.map((database) => [database, lsn]));
  }

  async #fill(
    action: { readonly debts: readonly Debt[]; readonly fromPrevious: boolean },
    situation: Situation,
  ): Promise<void> {
    const { clock, log, servers } = this.#deps;
    const record = situation.view.master?.value;
    this.findings.trouble = undefined;
    for (const debt of action.debts) {
      const sources = this.#sources(debt, situation);
      const outcome = await payDebt(
        { clock, log, servers, signal: situation.signal },
        this.#self,
        debt,
        sources,
      );
      if (outcome.kind === 'paid') {
        if (debt.origin === this.#self.node) this.findings.cleared.add(debt.reign);
        continue;
      }
      const isCandidate = record?.node === this.#self.node;
      const { previousSpent } = this.findings;
      const spent = outcome.databases.filter((database) => !previousSpent.has(database));
      const ofPrevious = action.fromPrevious && debt.origin === record?.previous?.node;
      if (isCandidate && ofPrevious && spent.length > 0) {
        // What only it has was never acknowledged, unless no quorum was asked for.
        for (const database of spent) previousSpent.add(database);
        log.warn(
          { previous: debt.origin, databases: spent },
          'the former master could not give what only it has',
        );
        return;
      }
      if (outcome.kind === 'never' && !isCandidate) return this.#rejoin(outcome.reason);
      this.findings.trouble = outcome.kind === 'later' ? outcome.waitingFor : outcome.reason;
      await clock.sleep(RETRY_MS, situation.signal);
      return;
    }
  }

  /** The write master first: it has everything. */
  #sources(debt: Debt, { view }: Situation): ServerAddress[] {
    const record = view.master?.value;
    const rank = (node: string): number => (node === record?.node ? 0 : node === debt.origin ? 2 : 1);
    return [...view.members.values()]
      .filter(({ node, state }) => node !== this.#self.node && (state === 'member' || node === debt.origin))
      .toSorted((a, b) => rank(a.node) - rank(b.node))
      .map(({ node, host, port }) => ({ node, host, port }));
  }

  async #promote(
    record: MasterRecord,
    { fill, rule }: { readonly fill: Positions; readonly rule: QuorumRule },
    situation: Situation,
  ): Promise<void> {
    const { keys, local, log, clock } = this.#deps;
    const reign = reignOf(record);
    const { handover, ...rest } = record;
    const text = Object.fromEntries([...fill].map(([database, lsn]) => [database, formatLsn(lsn)]));
    const at = new Date(clock.nowMs()).toISOString();
    const present = situation.view.fences.get(reign)?.get(this.#self.node);
    const active: MasterRecord = { ...rest, state: 'active', fill: text, rules: [rule] };
    const fence = present ?? { node: this.#self.node, term: reign, progress: {}, at };
    const written = await this.#write(active, situation, [
      keys.reigns
        .at(reignKey(reign))
        .put({ node: this.#self.node, previous: record.previous?.node ?? null, fill: text }),
      keys
        .fences(reign)
        .at(this.#self.node)
        .put({ ...fence, followed: true }),
    ]);
    if (!written) return;
    await local.tellMaster(situation.databases, this.#self.node);
    await this.#takeOver(situation.databases);
    await local.letIn(rule);
    log.info({ term: record.term, previous: record.previous?.node ?? null, fill: text }, 'write master');
    if (handover?.request !== undefined) {
      await this.#answer(handover.request, 'done', `${this.#self.node} is write master, term ${record.term}`);
    }
  }

  async #open(record: MasterRecord, situation: Situation): Promise<void> {
    const { local } = this.#deps;
    const { handover, ...rest } = record;
    if (handover) {
      if (!(await this.#write(rest, situation))) return;
      if (handover.request !== undefined) {
        await this.#answer(handover.request, 'failed', `${handover.to} did not take over in time`);
      }
    }
    const rule = record.rules?.at(-1) ?? { others: [], count: 0 };
    await local.tellMaster(situation.databases, this.#self.node);
    await this.#takeOver(situation.databases);
    await local.letIn(rule);
  }

  /** Nobody goes without a write master for what this could not do: it is repeated while clients write. */
  async #takeOver(databases: readonly string[]): Promise<void> {
    const { local, log } = this.#deps;
    await local.takeOver(databases).catch((error: unknown) => {
      log.warn({ error }, 'sequences or the registry were not made ready for a new write master yet');
    });
  }

  /** Under both rules a candidate has to fence, until nothing works by the former one any more. */
  async #changeRules(record: MasterRecord, rule: QuorumRule, situation: Situation): Promise<void> {
    const former = record.rules?.at(-1);
    const rules = former ? [former, rule] : [rule];
    if (await this.#write({ ...record, rules }, situation)) await this.#deps.local.setRule(rule);
  }

  async #settleRules(record: MasterRecord, situation: Situation): Promise<void> {
    const rule = record.rules?.at(-1);
    if (!rule) return;
    await this.#deps.local.setRule(rule);
    await this.#deps.clock.sleep(RULE_SETTLE_MS, situation.signal);
    await this.#write({ ...record, rules: [rule] }, situation);
  }

  /** Clients out, the target up to date, the lock free: in this order. */
  async #handOver(record: MasterRecord, situation: Situation): Promise<void> {
    const { local, lock, log, clock, servers } = this.#deps;
    const to = record.handover?.to ?? '';
    this.closedAtMs = clock.monotonicMs();
    await local.keepOut();
    const upTo = await local.flushedLsn();
    const untilMs = clock.monotonicMs() + CATCH_UP_MS;
    for (const database of situation.databases) {
      const confirmed = (): Promise<bigint | undefined> =>
        servers.withConnection(this.#self, database, (connection) =>
          confirmedBy(connection, { node: to, database }),
        );
      // What is left then is filled in like any gap.
      while (((await confirmed()) ?? 0n) < upTo && clock.monotonicMs() < untilMs) {
        await clock.sleep(POLL_MS, situation.signal);
      }
    }
    log.info({ to, upTo: formatLsn(upTo) }, 'hands over');
    await lock.release();
  }

  async #follow(record: MasterRecord, situation: Situation): Promise<void> {
    const { keys, clock, local, log } = this.#deps;
    const reign = reignOf(record);
    const at = new Date(clock.nowMs()).toISOString();
    if (!situation.view.fences.get(reign)?.has(this.#self.node)) await local.keepOut();
    await local.tellMaster(situation.databases, record.node);
    // Before the edges: who follows and has not enabled them yet does so at its next look.
    await keys
      .fences(reign)
      .at(this.#self.node)
      .update((was) => ({
        ...(was ?? { node: this.#self.node, term: reign, progress: {}, at }),
        followed: true,
      }));
    log.info({ reign, master: record.node }, 'follows');
  }

  async #edges(
    { enable, disable }: { readonly enable: readonly string[]; readonly disable: readonly string[] },
    { databases, view }: Situation,
  ): Promise<void> {
    const { mesh, keys } = this.#deps;
    // What stands still for a joiner is in the journal before it stands still: maybe since the last look.
    const journal = enable.length > 0 ? (await keys.joinJournal.read())?.value : undefined;
    const frozen = new Set(journal?.donor === this.#self.node ? journal.frozen.map(({ from }) => from) : []);
    await Promise.all(
      databases.flatMap((database) => [
        ...disable.map((node) => mesh.disable({ from: { node }, to: this.#self, database })),
        ...enable.map(async (node) => {
          const member = view.members.get(node);
          if (!member || frozen.has(node)) return;
          const from = { node, host: member.host, port: member.port };
          await mesh.enable({ from, to: this.#self, database });
        }),
      ]),
    );
  }

  async #rejoin(reason: string): Promise<void> {
    const { keys, log } = this.#deps;
    log.error({ reason }, 'this member has to join anew');
    await keys.members
      .at(this.#self.node)
      .update((was) => (was?.state === 'member' ? { ...was, state: 'rejoin-needed', reason } : undefined));
  }

  async #answer(request: string, state: 'done' | 'failed', detail: string): Promise<void> {
    await this.#deps.keys.requests
      .at(request)
      .update((was) => (was ? { ...was, state, detail, worker: this.#self.node } : undefined))
      .catch((error: unknown) => this.#deps.log.warn({ request, error: messageOf(error) }, 'not answered'));
  }

  #term(): string {
    return String(this.#deps.lock.held?.token ?? 0n);
  }

  /** Only under the lock, and only in place of what was seen. */
  async #write(value: MasterRecord, { view }: Situation, more: readonly Operation[] = []): Promise<boolean> {
    const { keys, lock } = this.#deps;
    const { held: mine } = lock;
    if (!mine || String(mine.token) !== value.term) return false;
    const compare: Comparison[] = [held(mine), keys.master.unchanged(view.master)];
    const result = await keys.coordinator.txn(compare, [keys.master.put(value), ...more]);
    return result.committed;
  }
}

const RETRY_MS = 200;
