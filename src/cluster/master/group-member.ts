import { withDeadline } from '../../core/deadline.ts';
import type { Clock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';
import type { Coordinator, CoordinatorLog, Entry } from '../../coordination/coordinator.ts';
import { GroupKeys, type MasterRecord, type MemberStatus } from '../group-keys.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { Mesh } from '../mesh/mesh.ts';
import { GapUpkeep } from './gap-upkeep.ts';
import { lastFollowed, readView, type GroupView } from './group-view.ts';
import { LocalServer } from './local-server.ts';
import { MasterLock, type LeaseMemory } from './master-lock.ts';
import { MemberActions } from './member-actions.ts';
import { observeLocal, SILENT, serverSpeaks } from './observe.ts';
import { plan, type Action, type LocalView, type Observed, type Plan } from './plan.ts';
import type { QuorumOptions } from './quorum.ts';
import { awaitQuorum } from './quorum-wait.ts';
import { reignOf } from './reign.ts';
import { SettingsFollower } from './settings-follower.ts';
import { askSwitchover, serveSwitchover, setPaused, type SwitchoverRequest } from './requests.ts';
import type { MemberState } from './states.ts';

export interface GroupMemberDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly coordinator: Coordinator;
  /** Connections to all members' servers, as the group's role. */
  readonly servers: GroupServers;
  /** Restarts this member's PostgreSQL, for settings that need it; returns when it takes connections again. */
  readonly restart?: (() => Promise<void>) | undefined;
  /** Called when this member's state or the write master changes: for services, proxies, watches. */
  readonly onChange?: ((status: GroupMemberStatus) => void) | undefined;
  readonly memory?: LeaseMemory | undefined;
  /** Told of each action before it is done; for tests that stop a member at one. */
  readonly beforeAction?: ((action: Action['do']) => Promise<void>) | undefined;
}

export interface GroupMemberOptions {
  readonly cluster: string;
  /** This member, where its own daemon reaches its server. */
  readonly address: ServerAddress;
  /** Where clients write: the access database, or those of the pool, told by all that are replicated now. */
  readonly clientDatabases: Databases;
  /** Whose commits wait for a quorum: one database, or several with `confirm: 'all'`. */
  readonly quorumDatabases: Databases;
  readonly quorum: QuorumOptions;
  readonly ttlMs: number;
  /** How often it looks without being woken; 1 s. */
  readonly pollMs?: number;
  /** 500 ms. */
  readonly graceMs?: number;
  /** 5 s. */
  readonly handoverMs?: number;
}

export type Databases = readonly string[] | ((replicated: readonly string[]) => readonly string[]);

/** What a member knows about itself and the group's write master. */
export interface GroupMemberStatus {
  readonly node: string;
  readonly state: MemberState;
  readonly waitingFor: string | undefined;
  readonly term: string | undefined;
  readonly reign: string | undefined;
  /** Of the record, active or about to be. */
  readonly master: string | undefined;
  readonly masterState: MasterRecord['state'] | undefined;
  readonly paused: boolean;
  /** What went wrong last, and is tried again. */
  readonly trouble: string | undefined;
  /** Of the last switch-over or fail-over away from this node: for how long nobody could write; milliseconds. */
  readonly lastWriteGapMs: number | undefined;
}

const LOOK_TIMEOUT_MS = 3_000;
const PROBE_MS = 100;
const UPKEEP_MS = 1_000;
const RETRY_MS = 150;
const REPEAT_MS = 20;

/**
 * One member's part in there being exactly one write master: follows, stands, fences, takes over, hands over.
 * `run` looks, plans (plan.ts) and acts, until its signal. All that is durable is at the coordinator and in the
 * servers: it may be killed at any point and started again.
 */
export class GroupMember {
  readonly #deps: GroupMemberDeps;
  readonly #options: GroupMemberOptions;
  readonly #keys: GroupKeys;
  readonly #local: LocalServer;
  readonly #lock: MasterLock;
  readonly #actions: MemberActions;
  readonly #upkeep: GapUpkeep;
  readonly #settings: SettingsFollower;
  #view: GroupView | undefined;
  #plan: Plan | undefined;
  #trouble: string | undefined;
  #answeredAtMs: number;
  #lastWriteGapMs: number | undefined;
  #shown = '';
  #lastAction = '';
  #wake = (): void => {};
  #woken = false;

  constructor(deps: GroupMemberDeps, options: GroupMemberOptions) {
    this.#deps = deps;
    this.#options = options;
    const { clock, log, coordinator, servers } = deps;
    const { address, clientDatabases, quorumDatabases, quorum, ttlMs } = options;
    this.#keys = new GroupKeys(coordinator, options.cluster);
    const now = (databases: Databases) => (): readonly string[] =>
      typeof databases === 'function' ? databases(this.#view ? this.#databases(this.#view) : []) : databases;
    this.#local = new LocalServer(
      { clock, servers },
      { address, clientDatabases: now(clientDatabases), quorumDatabases: now(quorumDatabases) },
    );
    this.#lock = new MasterLock(
      { ...deps, readServer: () => this.#local.life(), onChange: () => this.#poke() },
      {
        key: this.#keys.masterLock,
        node: address.node,
        ttlMs,
        // Quorums fence; where there are none only time does.
        lockDelayMs: quorum.policy === 'safety' ? 0 : coordinator.bounds.lockDelayMs,
      },
    );
    const mesh = new Mesh({ clock, servers });
    this.#actions = new MemberActions({
      clock,
      log,
      keys: this.#keys,
      servers,
      mesh,
      local: this.#local,
      lock: this.#lock,
    });
    this.#upkeep = new GapUpkeep({ log, servers }, address);
    this.#settings = new SettingsFollower({ ...deps, keys: this.#keys }, address);
    this.#answeredAtMs = clock.monotonicMs();
  }

  /**
   * Before `run`, of a node whose daemon was killed: when it was write master, and still is by its lease, it goes on
   * in the same term, and no client notices. True then: `run` is to follow at once. Otherwise others need not wait
   * for the end of that lease. Never throws.
   */
  carryOn(): Promise<boolean> {
    return this.#lock.resume();
  }

  /** Until `signal`; then clients are kept out and the lock is free, so that another takes over at once. */
  async run(signal: AbortSignal): Promise<void> {
    const stop = AbortSignal.any([signal]);
    stop.addEventListener('abort', () => this.#poke(), { once: true });
    const beside = [this.#watch(stop), this.#keepUp(stop)];
    try {
      await this.#prepare(stop);
      while (!stop.aborted) await this.#turn(stop);
    } finally {
      await Promise.allSettled(beside);
      await this.#leave();
    }
  }

  status(): GroupMemberStatus {
    const record = this.#view?.master?.value;
    return {
      node: this.#options.address.node,
      state: this.#plan?.state ?? 'detached',
      waitingFor: this.#plan?.waitingFor,
      term: record?.term,
      reign: record && reignOf(record),
      master: record?.node,
      masterState: record?.state,
      paused: this.#view?.config?.maintenance?.paused === true,
      trouble: this.#trouble ?? this.#actions.findings.trouble,
      lastWriteGapMs: this.#lastWriteGapMs,
    };
  }

  /**
   * Has another member become write master: `to`, or whoever is best; asked of any member.
   * @throws SWITCHOVER_REFUSED when nobody can take over, or did not
   * @throws DEADLINE_EXCEEDED when no master answers
   */
  async switchover(request: SwitchoverRequest): Promise<string> {
    return askSwitchover({ clock: this.#deps.clock, keys: this.#keys }, request);
  }

  /** Nobody is elected until `resume`; the write master goes on, also without the coordinator. */
  async pause(by: string): Promise<void> {
    await setPaused({ clock: this.#deps.clock, keys: this.#keys }, true, by);
  }

  async resume(by: string): Promise<void> {
    await setPaused({ clock: this.#deps.clock, keys: this.#keys }, false, by);
  }

  /**
   * For commits that daemons make in databases whose commits wait for nobody: resolves when as many members have
   * what was committed before `lsn` on this server as a commit of a client would wait for.
   * @throws NOT_WRITE_MASTER on any other member: nothing there is the group's
   * @throws QUORUM_NOT_REACHED when they do not within `timeoutMs`; it may still come to be, or be lost
   */
  async waitForQuorum(
    lsn: string,
    database: string,
    wait: { readonly timeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<void> {
    const { clock, servers } = this.#deps;
    await awaitQuorum({ clock, servers }, { server: this.#options.address, database, lsn, ...wait }, () => {
      const record = this.#view?.master?.value;
      const mine = record?.node === this.#options.address.node && record.state === 'active';
      return mine && this.#lock.held ? { rules: record.rules ?? [] } : { master: record?.node };
    });
  }

  async #prepare(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      try {
        return await this.#local.prepare();
      } catch (error) {
        this.#trouble = messageOf(error);
        await this.#deps.clock.sleep(RETRY_MS, signal).catch(() => {});
      }
    }
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    this.#woken = false;
    let idle = true;
    try {
      const staleBecause = await this.#refresh();
      const local = await this.#look(signal);
      if (local && this.#view) {
        const planned = plan(await this.#observe(this.#view, local), this.#planOptions, clock.nowMs());
        this.#plan = planned;
        this.#lock.stand(planned.wantLock);
        this.#show();
        const databases = this.#databases(this.#view);
        await this.#deps.beforeAction?.(planned.action.do);
        await this.#actions.act(planned.action, { view: this.#view, local, databases, signal });
        idle = planned.action.do === 'nothing';
        // What did not help the first time is not repeated as fast as possible.
        if (!idle && planned.action.do === this.#lastAction) await clock.sleep(REPEAT_MS, signal);
        this.#lastAction = planned.action.do;
        if (planned.state === 'active' && idle) await this.#serveRequests(this.#view, databases);
        this.#measure(planned);
      } else if (!this.#lock.alive) {
        // Without a view nothing can be decided but this.
        await this.#lock.connect();
      }
      this.#trouble = staleBecause;
    } catch (error) {
      if (signal.aborted) return;
      const trouble = messageOf(error);
      if (trouble !== this.#trouble)
        log.warn({ error: trouble, action: this.#plan?.action.do }, 'tried again');
      this.#trouble = trouble;
      await clock.sleep(RETRY_MS, signal).catch(() => {});
      return;
    }
    if (idle) await this.#rest(signal);
  }

  /** Undefined while its own server is silent, but not for long yet. */
  async #look(signal: AbortSignal): Promise<LocalView | undefined> {
    const { clock, servers } = this.#deps;
    const { address, ttlMs } = this.#options;
    const view = this.#view;
    if (!view) return undefined;
    const record = view.master?.value;
    const mine = record?.node === address.node && record.state === 'active' && record.handover === undefined;
    const paused = view.config?.maintenance?.paused === true;
    const rule = mine && (this.#lock.held !== undefined || paused) ? record.rules?.at(-1) : undefined;
    try {
      const local = await withDeadline('its own PostgreSQL', LOOK_TIMEOUT_MS, signal, () =>
        observeLocal(
          { servers, local: this.#local },
          { rule, databases: this.#databases(view), peers: this.#peers(view).map(({ node }) => node) },
        ),
      );
      this.#answeredAtMs = clock.monotonicMs();
      return local;
    } catch (error) {
      signal.throwIfAborted();
      this.#trouble = messageOf(error);
      if (clock.monotonicMs() - this.#answeredAtMs > ttlMs) return SILENT;
      await clock.sleep(RETRY_MS, signal);
      return undefined;
    }
  }

  async #observe(view: GroupView, local: LocalView): Promise<Observed> {
    const { node } = this.#options.address;
    const record = view.master?.value;
    const reign = record && reignOf(record);
    const previous = record?.node === node && record.state === 'fencing' ? record.previous?.node : undefined;
    const former = previous === undefined || previous === node ? undefined : view.members.get(previous);
    return {
      self: node,
      session: this.#lock.alive,
      lock: this.#lock.held === undefined ? undefined : String(this.#lock.held.token),
      record,
      history: view.history,
      fences: (reign === undefined ? undefined : view.fences.get(reign)) ?? new Map(),
      followed: lastFollowed(view, node),
      members: view.members,
      paused: view.config?.maintenance?.paused === true,
      local,
      previousAnswers: former ? await serverSpeaks(former, PROBE_MS) : false,
      previousSpent: this.#actions.findings.previousSpent,
      cleared: this.#actions.findings.cleared,
      frozen: new Set(view.joining?.donor === node ? view.joining.frozen.map(({ from }) => from) : []),
    };
  }

  get #planOptions() {
    const { quorum, graceMs = 500, handoverMs = 5_000 } = this.#options;
    return { quorum, graceMs, handoverMs };
  }

  /** The newest that the coordinator has; where that cannot be had or read, what was known before, and why. */
  async #refresh(): Promise<string | undefined> {
    const list = (): Promise<readonly Entry[]> => this.#deps.coordinator.list(this.#keys.prefix);
    try {
      this.#view = readView(this.#keys, await this.#lock.untilLost('the coordinator', list));
      return undefined;
    } catch (error) {
      if (this.#view === undefined) throw error;
      return messageOf(error);
    }
  }

  #databases(view: GroupView): readonly string[] {
    return view.members.get(this.#options.address.node)?.databases ?? [];
  }

  #peers(view: GroupView): ServerAddress[] {
    return [...view.members.values()]
      .filter(({ node }) => node !== this.#options.address.node)
      .map(({ node, host, port }) => ({ node, host, port }));
  }

  /** For how long nobody could write, where this node was the one before. */
  #measure({ state }: Plan): void {
    const { closedAtMs } = this.#actions;
    const record = this.#view?.master?.value;
    if (closedAtMs === undefined || !record || state === 'handing-over') return;
    if (record.state === 'active' && record.handover === undefined) {
      this.#lastWriteGapMs = this.#deps.clock.monotonicMs() - closedAtMs;
      this.#actions.closedAtMs = undefined;
      this.#deps.log.info(
        { master: record.node, gapMs: Math.round(this.#lastWriteGapMs) },
        'there is a write master again',
      );
    }
  }

  async #serveRequests(view: GroupView, databases: readonly string[]): Promise<void> {
    const { clock, servers } = this.#deps;
    const lock = this.#lock.held;
    if (!lock) return;
    const server = this.#options.address;
    const served = await serveSwitchover(
      { clock, servers, keys: this.#keys },
      { view, lock, server, databases },
    );
    if (served) this.#poke();
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { clock, coordinator, log } = this.#deps;
    while (!signal.aborted) {
      try {
        // Only that something changed: what there is, is read in one piece.
        for await (const { length } of coordinator.watch(this.#keys.prefix, signal)) {
          if (length >= 0) this.#poke();
        }
      } catch (error) {
        log.warn({ error: messageOf(error) }, 'the coordinator is not watched; it is looked at now and then');
        await clock.sleep(UPKEEP_MS, signal).catch(() => {});
      }
    }
  }

  /** What can wait a second, and must not hold up a fail-over. */
  async #keepUp(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    while (!signal.aborted) {
      await clock.sleep(UPKEEP_MS, signal).catch(() => {});
      const view = this.#view;
      if (signal.aborted || !view) continue;
      const state = this.#plan?.state;
      const member = view.members.get(this.#options.address.node);
      if (member?.state === 'member') await this.#upkeep.round(this.#databases(view), this.#peers(view));
      await this.#settings
        .round(view, {
          isMaster: state === 'active',
          follows: state === 'following',
          switchover: (to) => this.switchover({ to, by: 'configuration' }),
          signal,
        })
        .catch((error: unknown) => {
          if (!signal.aborted) log.warn({ error: messageOf(error) }, 'settings are tried again');
        });
      await this.#publish().catch(() => {});
      await this.#lock.remember();
    }
  }

  async #publish(): Promise<void> {
    const { node, state, reign, waitingFor } = this.status();
    const { configVersion, pendingRestart } = this.#settings;
    const status: Omit<MemberStatus, 'at'> = {
      node,
      state,
      ...(reign === undefined ? {} : { reign }),
      ...(waitingFor === undefined ? {} : { waitingFor }),
      ...(configVersion === undefined ? {} : { configVersion }),
      pendingRestart: [...pendingRestart],
    };
    const present = this.#view?.status.get(node);
    if (present && JSON.stringify({ ...present, at: '' }) === JSON.stringify({ ...status, at: '' })) return;
    const at = new Date(this.#deps.clock.nowMs()).toISOString();
    await this.#keys.status.at(node).update(() => ({ ...status, at }));
  }

  #show(): void {
    const status = this.status();
    const shown = JSON.stringify([
      status.state,
      status.master,
      status.masterState,
      status.term,
      status.waitingFor,
    ]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#deps.log.info(
      { state: status.state, master: status.master, term: status.term, waitingFor: status.waitingFor },
      'write master',
    );
    this.#deps.onChange?.(status);
  }

  async #leave(): Promise<void> {
    const record = this.#view?.master?.value;
    const alone = (this.#view?.members.size ?? 0) < 2;
    if (record?.node === this.#options.address.node && !alone) {
      await this.#local.keepOut().catch((error: unknown) => {
        this.#deps.log.warn({ error: messageOf(error) }, 'clients could not be kept out');
      });
    }
    await this.#lock[Symbol.asyncDispose]();
  }

  #poke(): void {
    this.#woken = true;
    this.#wake();
  }

  async #rest(signal: AbortSignal): Promise<void> {
    if (this.#woken || signal.aborted) return;
    const pause = new AbortController();
    this.#wake = () => pause.abort();
    // A session that is about to end unheard of must not be slept through.
    const ms = Math.min(this.#options.pollMs ?? 1_000, Math.max(20, this.#lock.remainingMs));
    await this.#deps.clock.sleep(ms, pause.signal).catch(() => {});
    this.#wake = () => {};
  }
}
