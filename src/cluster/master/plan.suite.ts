import type { FenceRecord, MasterRecord, QuorumRule, ReignRecord } from '../group-keys.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { formatLsn } from './lsn.ts';
import { plan, type Observed, type Plan, type PlanOptions } from './plan.ts';
import type { Positions } from './reign.ts';
import type { MemberState } from './states.ts';

/** One commit of a client, as the naive model sees it. */
export interface ModelCommit {
  readonly id: number;
  readonly origin: string;
  /** From 1, in the origin's own log. */
  readonly index: number;
  /** The reign under which the origin took it. */
  readonly reign: string;
}

interface ModelNode {
  readonly name: string;
  /** What it committed itself, in order; survives crashes. */
  readonly log: ModelCommit[];
  /** How many of each origin's commits it has. */
  readonly applied: Map<string, number>;
  readonly edges: Set<string>;
  /** What others have confirmed of its own commits: only over edges. */
  readonly confirmed: Map<string, number>;
  open: boolean;
  rule: QuorumRule | undefined;
  reign: string;
  /** Of this process: gone when it is killed. */
  session: boolean;
  lock: string | undefined;
  /** With the record that it was decided by. */
  planned: { readonly plan: Plan; readonly record: MasterRecord | undefined } | undefined;
  alive: boolean;
  rejoin: boolean;
  /** Commits up to here whose clients were sent away: nobody can tell them anything any more. */
  abandoned: number;
  readonly cleared: Set<string>;
  readonly spent: Set<string>;
}

const DATABASE = 'd';

/**
 * Nodes that plan for real, on servers and a coordinator that are a few lines each. Between what a node sees and
 * what it does anything can happen; daemons stop, die and lose their sessions, while their servers go on.
 */
export class ModelGroup {
  readonly nodes: ReadonlyMap<string, ModelNode>;
  readonly acknowledged: ModelCommit[] = [];
  readonly #known = new Set<ModelCommit>();
  readonly states = new Set<MemberState>();
  readonly violations: string[] = [];
  readonly #options: PlanOptions;
  readonly #random: SeededRandom;
  readonly #fences = new Map<string, Map<string, FenceRecord>>();
  readonly #followed = new Map<string, string>();
  readonly #history = new Map<string, ReignRecord>();
  /** As the coordinator has it, which may still believe in a dead one. */
  #holder: { readonly node: string; readonly token: string } | undefined;
  #token = 0;
  #record: MasterRecord | undefined;
  #nowMs = Date.parse('2026-01-01T00:00:00Z');
  #commits = 0;
  #lastAckedReign = 0n;

  constructor(count: number, seed: number, options: PlanOptions) {
    this.#options = options;
    this.#random = new SeededRandom(seed);
    const names = Array.from({ length: count }, (_, i) => `n${i + 1}`);
    this.nodes = new Map(
      names.map((name) => [
        name,
        {
          name,
          log: [],
          applied: new Map(),
          edges: new Set(names.filter((other) => other !== name)),
          confirmed: new Map(),
          open: false,
          rule: undefined,
          reign: '0',
          session: true,
          lock: undefined,
          planned: undefined,
          alive: true,
          rejoin: false,
          abandoned: 0,
          cleared: new Set(),
          spent: new Set(),
        } satisfies ModelNode,
      ]),
    );
  }

  get record(): MasterRecord | undefined {
    return this.#record;
  }

  step(): void {
    this.#nowMs += this.#random.below(100);
    const node = this.#random.pick([...this.nodes.values()] as [ModelNode, ...ModelNode[]]);
    const dice = this.#random.below(1000);
    if (dice < 300) this.#look(node);
    else if (dice < 550) this.#act(node);
    else if (dice < 620) this.#commit(node);
    else if (dice < 960) this.#stream(node);
    else if (dice < 963) this.#kill(node);
    else if (dice < 990) this.#start(node);
    else if (dice < 994) this.#expire();
    else if (dice < 997) node.session = false;
  }

  /** Everybody is well again, until nothing happens any more. */
  settle(): void {
    for (const node of this.nodes.values()) this.#start(node);
    for (let round = 0; round < 400; round += 1) {
      this.#nowMs += 50;
      if (round % 20 === 0) this.#expire();
      for (const node of this.nodes.values()) {
        node.session = true;
        this.#look(node);
        this.#act(node);
        for (let i = 0; i < 20; i += 1) this.#stream(node);
      }
    }
  }

  /** How many of `commit`'s origin's commits a node has, itself included. */
  has(node: ModelNode, commit: ModelCommit): boolean {
    if (node.name === commit.origin) return node.log[commit.index - 1]?.id === commit.id;
    return (node.applied.get(commit.origin) ?? 0) >= commit.index;
  }

  #look(node: ModelNode): void {
    if (!node.alive) return;
    if (node.lock !== undefined && !this.#holds(node) && this.#random.chance(0.3)) node.lock = undefined;
    const planned = plan(this.#observe(node), this.#options, this.#nowMs);
    node.planned = { plan: planned, record: this.#record };
    this.states.add(planned.state);
    if (planned.wantLock && node.session && node.lock === undefined && !this.#holder) {
      this.#token += 1;
      this.#holder = { node: node.name, token: String(this.#token) };
      node.lock = String(this.#token);
    }
  }

  #observe(node: ModelNode): Observed {
    const reign = this.#record?.reign ?? '0';
    const others = [...this.nodes.keys()].filter((name) => name !== node.name);
    return {
      self: node.name,
      session: node.session,
      lock: node.session ? node.lock : undefined,
      record: this.#record,
      history: this.#history,
      fences: this.#fences.get(reign) ?? new Map(),
      followed: this.#followed.get(node.name),
      members: new Map(
        [...this.nodes.values()].map(({ name, rejoin }) => [
          name,
          { state: rejoin ? 'rejoin-needed' : 'member', tags: {}, joinedAt: '2025-01-01T00:00:00Z' },
        ]),
      ),
      paused: false,
      local: {
        answers: true,
        clients: node.open ? 'let-in' : 'kept-out',
        enabledFrom: new Set(node.edges),
        disabledFrom: new Set(others.filter((name) => !node.edges.has(name))),
        progress: new Map(others.map((name) => [name, at(node.applied.get(name) ?? 0)])),
      },
      previousAnswers: this.#random.chance(0.2),
      previousSpent: node.spent,
      cleared: node.cleared,
      frozen: new Set(),
    };
  }

  #holds(node: ModelNode): boolean {
    return this.#holder?.node === node.name && this.#holder.token === node.lock;
  }

  #act(node: ModelNode): void {
    const planned = node.planned;
    if (!planned || !node.alive) return;
    node.planned = undefined;
    const { record } = planned;
    const { action } = planned.plan;
    switch (action.do) {
      case 'connect':
        node.session = true;
        node.lock = undefined;
        return;
      case 'release':
        if (this.#holds(node)) this.#holder = undefined;
        node.lock = undefined;
        return;
      case 'close':
        this.#close(node);
        return;
      case 'fence':
        if (record) this.#fence(node, record);
        return;
      case 'claim':
        if (record === this.#record)
          this.#write(node, {
            state: 'fencing',
            previous: action.previous,
            reign: node.lock ?? '',
            term: node.lock ?? '',
          });
        return;
      case 'continue':
        if (record && record === this.#record) this.#write(node, { ...record, term: node.lock ?? '' });
        return;
      case 'promote':
        if (record === this.#record) this.#promote(node, action.fill, action.rule);
        return;
      case 'open':
        if (record) [node.open, node.rule, node.reign] = [true, record.rules?.[0], record.reign ?? '0'];
        return;
      case 'fill':
        for (const { origin, upTo, reign } of action.debts) {
          if (!this.#fill(node, origin, Number(upTo.get(DATABASE) ?? 0n), reign)) break;
        }
        return;
      case 'adopt':
      case 'follow':
        if (record?.reign !== undefined) this.#follow(node, record.reign);
        return;
      case 'edges':
        for (const name of action.enable) node.edges.add(name);
        for (const name of action.disable) node.edges.delete(name);
        return;
      case 'rejoin':
        node.rejoin = true;
        return;
      case 'nothing':
      case 'settle-rules':
      case 'hand-over':
      case 'change-rules':
        return;
    }
  }

  #close(node: ModelNode): void {
    node.open = false;
    node.rule = undefined;
    node.abandoned = node.log.length;
  }

  /** Under the lock, or not at all. */
  #write(
    node: ModelNode,
    record: Pick<MasterRecord, 'state' | 'previous' | 'reign' | 'term' | 'fill' | 'rules'>,
  ): boolean {
    if (!this.#holds(node) || record.term !== node.lock) return false;
    this.#record = { ...record, node: node.name, since: new Date(this.#nowMs).toISOString(), reason: '' };
    return true;
  }

  #fence(node: ModelNode, record: MasterRecord): void {
    const reign = record.reign ?? '0';
    this.#close(node);
    node.edges.clear();
    const previous = record.previous?.node ?? '';
    const fences = this.#fences.get(reign) ?? new Map<string, FenceRecord>();
    this.#fences.set(reign, fences);
    fences.set(node.name, {
      node: node.name,
      term: reign,
      progress:
        previous === node.name ? {} : { [DATABASE]: formatLsn(BigInt(node.applied.get(previous) ?? 0)) },
      ...(previous === node.name ? { own: { [DATABASE]: formatLsn(BigInt(node.log.length)) } } : {}),
      at: record.since,
    });
  }

  #promote(node: ModelNode, fill: Positions, rule: QuorumRule): void {
    const record = this.#record;
    if (!record || record.node !== node.name || record.state !== 'fencing') return;
    const text = Object.fromEntries([...fill].map(([database, lsn]) => [database, formatLsn(lsn)]));
    if (!this.#write(node, { ...record, state: 'active', fill: text, rules: [rule] })) return;
    const reign = record.reign ?? '0';
    this.#history.set(reign, { node: node.name, previous: record.previous?.node ?? null, fill: text });
    this.#follow(node, reign);
    for (const commit of this.acknowledged) {
      if (!this.has(node, commit)) this.violations.push(`${node.name} starts without commit ${commit.id}`);
    }
  }

  #follow(node: ModelNode, reign: string): void {
    const fences = this.#fences.get(reign) ?? new Map<string, FenceRecord>();
    this.#fences.set(reign, fences);
    const present = fences.get(node.name) ?? { node: node.name, term: reign, progress: {}, at: '' };
    fences.set(node.name, { ...present, followed: true });
    this.#followed.set(node.name, reign);
  }

  /** From whoever is alive and has it. */
  #fill(node: ModelNode, origin: string, upTo: number, reign: string): boolean {
    if (origin === node.name) {
      if (node.log.length > upTo) node.rejoin = true;
      node.cleared.add(reign);
      return true;
    }
    const source = [...this.nodes.values()].find(
      (other) =>
        other.alive &&
        other !== node &&
        (other.name === origin ? other.log.length : (other.applied.get(origin) ?? 0)) >= upTo,
    );
    if (!source) {
      if (this.#fences.get(this.#record?.reign ?? '')?.has(origin)) node.spent.add(DATABASE);
      return false;
    }
    node.applied.set(origin, Math.max(upTo, node.applied.get(origin) ?? 0));
    return true;
  }

  #commit(node: ModelNode): void {
    if (!node.open) return;
    this.#commits += 1;
    node.log.push({ id: this.#commits, origin: node.name, index: node.log.length + 1, reign: node.reign });
  }

  /** One change over one edge, its confirmation, and what that lets go. */
  #stream(to: ModelNode): void {
    const from = this.nodes.get(this.#random.pick([...this.nodes.keys()] as [string, ...string[]]));
    if (!from || from === to || !to.edges.has(from.name)) return;
    const has = to.applied.get(from.name) ?? 0;
    if (has < from.log.length) to.applied.set(from.name, has + 1);
    from.confirmed.set(to.name, to.applied.get(from.name) ?? 0);
    this.#acknowledge(from);
  }

  #acknowledge(node: ModelNode): void {
    const { rule } = node;
    if (!rule) return;
    for (const commit of node.log) {
      if (commit.index <= node.abandoned || this.#known.has(commit)) continue;
      const confirmations = rule.others.filter((name) => (node.confirmed.get(name) ?? 0) >= commit.index);
      if (confirmations.length < rule.count) return;
      this.acknowledged.push(commit);
      this.#known.add(commit);
      const reign = BigInt(commit.reign);
      if (reign < this.#lastAckedReign) {
        this.violations.push(`commit ${commit.id} of reign ${reign} after reign ${this.#lastAckedReign}`);
      } else this.#lastAckedReign = reign;
    }
  }

  #kill(node: ModelNode): void {
    node.alive = false;
    node.planned = undefined;
  }

  #start(node: ModelNode): void {
    if (node.alive) return;
    node.alive = true;
    node.session = true;
    node.lock = undefined;
    node.cleared.clear();
    node.spent.clear();
  }

  /** The coordinator gives the lock up; its holder may not know for a while. */
  #expire(): void {
    this.#holder = undefined;
  }
}

function at(index: number): Positions {
  return new Map([[DATABASE, BigInt(index)]]);
}
