import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { withDeadline } from '../core/deadline.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { Journal } from '../core/journal.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteLiteral } from '../postgres/sql.ts';
import { sqlStateOf, SqlState } from '../postgres/sqlstate.ts';
import type { Log } from './log.ts';
import { unsettled, verdict, type Operation, type OperationRecord, type Outcome } from './operation.ts';
import { describeTarget, type Target } from './target.ts';

/** What settles one kind of operation. Both are repeated until they succeed, so they must be idempotent. */
export interface OperationKind {
  confirm(operation: Operation, signal: AbortSignal): Promise<void>;
  undo(operation: Operation, signal: AbortSignal): Promise<void>;
}

/** Runs `work` in a session of the access node's administrator in one of its databases. */
export type WithAdmin = <T>(
  database: string,
  work: (admin: Connection) => Promise<T>,
  signal?: AbortSignal,
) => Promise<T>;

export interface OperationsDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly withAdmin: WithAdmin;
}

export interface OperationsOptions {
  readonly journalPath: string;
  readonly kinds: Readonly<Record<string, OperationKind>>;
  /** How long a call waits for another one on the same target. */
  readonly targetWaitMs: number;
}

export interface OperationStatus {
  readonly operation: Operation;
  readonly state: 'begun' | Outcome;
  readonly endedAtMs?: number;
  /** Why the last attempt to settle it failed. */
  readonly error?: string;
}

const HISTORY_COUNT = 200;
const COMPACT_AFTER = 500;

/** Journals operations, watches their transactions, and settles them; carries on after a restart. */
export class Operations implements AsyncDisposable {
  readonly #deps: OperationsDeps;
  readonly #options: OperationsOptions;
  readonly #journal: Journal<OperationRecord>;
  readonly #pending = new Map<string, Pending>();
  readonly #history: OperationStatus[] = [];
  readonly #stop = new AbortController();

  private constructor(deps: OperationsDeps, options: OperationsOptions, journal: Journal<OperationRecord>) {
    this.#deps = deps;
    this.#options = options;
    this.#journal = journal;
    // Every open operation listens.
    setMaxListeners(0, this.#stop.signal);
  }

  static async open(deps: OperationsDeps, options: OperationsOptions): Promise<Operations> {
    const journal = await Journal.open<OperationRecord>(options.journalPath);
    const open = unsettled(journal.records());
    await journal.compact(() => open.map((operation) => ({ type: 'begun', operation })));
    const operations = new Operations(deps, options, journal);
    for (const operation of open) operations.#watch(operation, 'settling');
    return operations;
  }

  /** Newest last: those that are open and the latest of those that ended. */
  status(): OperationStatus[] {
    const open = [...this.#pending.values()].map((pending) => ({
      operation: pending.operation,
      state: 'begun' as const,
      ...(pending.error === undefined ? {} : { error: pending.error }),
    }));
    return [...this.#history, ...open];
  }

  /** Durable when it resolves. From then on the operation is settled whatever happens to caller and daemon. */
  async begin(operation: Omit<Operation, 'id' | 'begunAtMs'> & { readonly id?: string }): Promise<Operation> {
    const whole = { id: randomUUID(), ...operation, begunAtMs: this.#deps.clock.nowMs() };
    await this.#journal.append({ type: 'begun', operation: whole });
    this.#watch(whole, 'working');
    return whole;
  }

  /** The call's own work is done and the reply is on its way: from now on its transaction decides. */
  replied(id: string): void {
    this.#pending.get(id)?.startSettling();
  }

  /**
   * The call failed before its reply: takes back what it made, whatever becomes of the transaction. Resolves
   * after the first attempt; further ones go on in the background.
   */
  async failed(id: string): Promise<void> {
    const pending = this.#pending.get(id);
    if (!pending) return;
    pending.mustUndo = true;
    pending.startSettling();
    await pending.firstAttempt;
  }

  /**
   * Resolves when no other call on `target` is open. One of the same transaction that it no longer sees was
   * rolled back to a savepoint and is undone at once.
   * @throws DATA_NODE_EXISTS when this transaction has the target in hand already
   * @throws DATA_NODE_BUSY when the other call does not end in time
   */
  async waitForTarget(
    target: Target,
    mine: { readonly xid: string; readonly database: string; readonly visible: readonly string[] },
    signal: AbortSignal,
  ): Promise<void> {
    for (;;) {
      const other = this.#onTarget(target);
      if (!other) return;
      const { operation } = other;
      const sameTransaction = operation.xid === mine.xid && operation.database === mine.database;
      if (sameTransaction && mine.visible.includes(operation.id)) {
        throw new VarveError(
          'DATA_NODE_EXISTS',
          `${describeTarget(target)} is in hand for data node "${operation.subject}" in this transaction already`,
        );
      }
      if (sameTransaction) {
        other.mustUndo = true;
        other.startSettling();
      }
      other.retryNow();
      await this.#waitFor(other, target, signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    for (const pending of this.#pending.values()) pending.startSettling();
    await Promise.all([...this.#pending.values()].map((pending) => pending.finished));
    await this.#journal[Symbol.asyncDispose]();
  }

  #onTarget(target: Target): Pending | undefined {
    const key = describeTarget(target);
    return [...this.#pending.values()].find(({ operation }) =>
      operation.targets.some((other) => describeTarget(other) === key),
    );
  }

  async #waitFor(other: Pending, target: Target, signal: AbortSignal): Promise<void> {
    const { operation } = other;
    try {
      await withDeadline('the other call', this.#options.targetWaitMs, signal, () => other.finished);
    } catch (error) {
      if (!(error instanceof VarveError) || error.code !== 'DEADLINE_EXCEEDED') throw error;
      throw new VarveError('DATA_NODE_BUSY', `another call on ${describeTarget(target)} has not ended`, {
        detail: other.error
          ? `What ${operation.kind}('${operation.subject}') made is being taken back, and that fails: ${other.error}`
          : `${operation.kind}('${operation.subject}') by "${operation.caller}" in database "${operation.database}" waits for its transaction ${operation.xid} to end.`,
        hint: 'End that transaction (pg_stat_activity.backend_xid shows whose it is), or look at varve.runs.',
      });
    }
  }

  #watch(operation: Operation, phase: 'working' | 'settling'): void {
    const pending = new Pending(operation);
    this.#pending.set(operation.id, pending);
    if (phase === 'settling') pending.startSettling();
    pending.finished = this.#settle(pending).catch((error: unknown) => {
      if (!this.#stop.signal.aborted)
        this.#deps.log.error({ error, operation: operation.id }, 'settling ended');
    });
  }

  async #settle(pending: Pending): Promise<void> {
    const { signal } = this.#stop;
    await pending.settling;
    const backoff = new Backoff({ firstMs: 20, maxMs: 1000 });
    const failing = new Backoff({ firstMs: 200, maxMs: 30_000 });
    while (!signal.aborted) {
      try {
        const outcome = await this.#attempt(pending, signal);
        if (outcome) {
          await this.#end(pending, outcome);
          return;
        }
        pending.error = undefined;
        await this.#deps.clock.sleep(backoff.nextMs(), signal);
      } catch (error) {
        if (signal.aborted) break;
        pending.error = messageOf(error);
        this.#deps.log.warn(
          { error, operation: pending.operation.id },
          'an operation could not be settled yet',
        );
        pending.endFirstAttempt();
        await this.#deps.clock
          .sleep(failing.nextMs(), AbortSignal.any([signal, pending.wake()]))
          .catch(() => {});
      }
    }
    pending.endFirstAttempt();
  }

  async #attempt(pending: Pending, signal: AbortSignal): Promise<Outcome | undefined> {
    const { operation } = pending;
    const kind = this.#options.kinds[operation.kind];
    if (!kind) throw new VarveError('UNKNOWN_OPERATION', `operation "${operation.kind}" is not known`);
    const decision = pending.mustUndo ? 'undo' : await this.#look(operation, signal);
    switch (decision) {
      case 'wait':
        return undefined;
      case 'confirm':
        await kind.confirm(operation, signal);
        return 'confirmed';
      case 'undo':
        await kind.undo(operation, signal);
        return 'undone';
      case 'unknown':
        // The commit log no longer knows the transaction. Taking back could destroy what is in use.
        throw new VarveError(
          'DATA_NODE_BUSY',
          `transaction ${operation.xid} of ${operation.kind}('${operation.subject}') is too old to be looked up`,
          { hint: 'Compare varve.data_nodes with the data node, and remove what does not belong by hand.' },
        );
    }
  }

  async #look(operation: Operation, signal: AbortSignal): ReturnType<typeof lookUp> {
    try {
      return await this.#deps.withAdmin(operation.database, (admin) => lookUp(admin, operation), signal);
    } catch (error) {
      // With its database every trace of the transaction is gone, and so is who would use what was made.
      if (sqlStateOf(error) === SqlState.invalidCatalogName) return 'undo';
      throw error;
    }
  }

  async #end(pending: Pending, outcome: Outcome): Promise<void> {
    const { operation } = pending;
    const atMs = this.#deps.clock.nowMs();
    await this.#journal.append({ type: 'settled', id: operation.id, outcome, atMs });
    if (outcome === 'confirmed') await this.#forget(operation);
    this.#pending.delete(operation.id);
    pending.endFirstAttempt();
    this.#history.push({ operation, state: outcome, endedAtMs: atMs });
    if (this.#history.length > HISTORY_COUNT) this.#history.shift();
    if (this.#journal.records().length > COMPACT_AFTER) {
      await this.#journal.compact((records) =>
        unsettled(records).map((o) => ({ type: 'begun', operation: o })),
      );
    }
  }

  /** The witness row has served; one that stays behind after a crash does no harm, so nobody waits for the disk. */
  async #forget(operation: Operation): Promise<void> {
    const remove = `delete from varve.operation where id = ${quoteLiteral(operation.id)}`;
    try {
      await this.#deps.withAdmin(operation.database, (admin) =>
        admin.query(`select set_config('synchronous_commit', 'off', true); ${remove}`),
      );
    } catch (error) {
      this.#deps.log.warn({ error, operation: operation.id }, 'a witness row stays behind');
    }
  }
}

async function lookUp(admin: Connection, operation: Operation): Promise<ReturnType<typeof verdict>> {
  const { status } = await admin.one<{ status: string | null }>('select pg_xact_status($1::xid8) as status', [
    operation.xid,
  ]);
  const row = await admin.maybeOne('select id from varve.operation where id = $1', [operation.id]);
  return verdict(status, row !== undefined);
}

class Pending {
  readonly operation: Operation;
  readonly settling: Promise<void>;
  readonly firstAttempt: Promise<void>;
  startSettling: () => void = () => {};
  endFirstAttempt: () => void = () => {};
  finished: Promise<void> = Promise.resolve();
  mustUndo = false;
  error: string | undefined;
  #waking = new AbortController();

  constructor(operation: Operation) {
    this.operation = operation;
    this.settling = new Promise((resolve) => (this.startSettling = resolve));
    this.firstAttempt = new Promise((resolve) => (this.endFirstAttempt = resolve));
  }

  /** Fires when somebody waits for this operation: its back-off ends early. */
  wake(): AbortSignal {
    this.#waking = new AbortController();
    return this.#waking.signal;
  }

  retryNow(): void {
    this.#waking.abort();
  }
}
