import { Backoff } from '../../core/backoff.ts';
import type { Clock } from '../../core/clock.ts';
import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import type { RunEvents } from '../../run/events.ts';
import type { Progress, RunEvent } from '../../run/step.ts';
import type { BootstrapReason, BootstrapRunStatus, BootstrapSourceStatus } from '../engine/storage-engine.ts';
import type { ProcessResult } from './bootstrap-process.ts';

export interface BootstrapLoopDeps {
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly events?: RunEvents | undefined;
  /** The node's name, for events. */
  readonly node: string;
}

/** What an attempt may tell while it runs. */
export interface AttemptReport {
  readonly attempt: number;
  readonly reason: BootstrapReason;
  /** Fires when what the attempt was begun with holds no longer, and it should end soon. */
  readonly superseded: AbortSignal;
  /** Over how many shards it goes, and how many of them are to be filled. */
  begin(shardCount: number, openShards: number): void;
  /** This one is asked next. */
  source(name: string, pass: BootstrapSourceStatus['pass']): void;
  onSource(status: BootstrapSourceStatus): void;
  progress(progress: Progress): void;
}

export interface BootstrapLoopOptions {
  readonly firstRetryMs?: number;
  readonly maxRetryMs?: number;
}

/** Makes one attempt with whatever is not bootstrapped by now; undefined when there is nothing. */
export type Attempt = (report: AttemptReport, signal: AbortSignal) => Promise<ProcessResult | undefined>;

const HISTORY = 20;
const RUN = 'storage-bootstrap';

/**
 * Repeats attempts until nothing is left to bootstrap, with growing, jittered waits between them; one at a time. What
 * is asked for during an attempt gets another one. Only what was not fulfilled is asked for again.
 */
export class BootstrapLoop {
  readonly #deps: BootstrapLoopDeps;
  readonly #attempt: Attempt;
  readonly #backoff: Backoff;
  readonly #history: BootstrapRunStatus[] = [];
  #running: Promise<void> | undefined;
  /** Another attempt is asked for, for this reason. */
  #pending: BootstrapReason | undefined;
  #superseded = new AbortController();
  #awake = new AbortController();
  /** The run's begin was published. */
  #isTold = false;

  constructor(deps: BootstrapLoopDeps, attempt: Attempt, options: BootstrapLoopOptions = {}) {
    this.#deps = deps;
    this.#attempt = attempt;
    const { firstRetryMs = 500, maxRetryMs = 30_000 } = options;
    this.#backoff = new Backoff({ firstMs: firstRetryMs, maxMs: maxRetryMs, random: deps.random });
  }

  get running(): boolean {
    return this.#running !== undefined;
  }

  /** The newest last. */
  get history(): readonly BootstrapRunStatus[] {
    return this.#history;
  }

  /**
   * Bootstraps what is not yet; resolves when nothing is left. Calls during a run join it, and see to another attempt,
   * at once if it waits.
   * @throws what ends a bootstrap for good: a bug, or the signal's reason
   */
  run(signal: AbortSignal, reason: BootstrapReason = 'start'): Promise<void> {
    if (this.#running) {
      // What a change of the placement asks for is more than others ask for.
      if (this.#pending !== 'topology') this.#pending = reason;
      this.#awake.abort();
      return this.#running;
    }
    this.#running = this.#told(signal, reason).finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** Lets the attempt that is under way end early. */
  supersede(): void {
    this.#superseded.abort();
  }

  /** With its begin and end as those of a run. */
  async #told(signal: AbortSignal, reason: BootstrapReason): Promise<void> {
    this.#isTold = false;
    try {
      await this.#repeat(signal, reason);
      // Nothing is told of a run that had nothing to do.
      if (this.#isTold) this.#publish('', 'done', {});
    } catch (error) {
      this.#publish('', signal.aborted ? 'cancelled' : 'failed', { detail: messageOf(error) }, error);
      throw error;
    }
  }

  async #repeat(signal: AbortSignal, first: BootstrapReason): Promise<void> {
    this.#backoff.reset();
    let reason = first;
    for (let number = (this.#history.at(-1)?.attempt ?? 0) + 1; ; number++) {
      this.#pending = undefined;
      this.#superseded = new AbortController();
      this.#awake = new AbortController();
      const again = await this.#once(number, reason, signal);
      if (this.#pending === undefined) {
        if (!again) return;
        await this.#wait(signal);
      }
      reason = this.#pending ?? 'retry';
    }
  }

  /** Until the next attempt is due, or asked for. */
  async #wait(signal: AbortSignal): Promise<void> {
    const waitMs = this.#backoff.nextMs();
    this.#publish('retry', 'running', { waitingFor: `another attempt in ${Math.round(waitMs)} ms` });
    const either = AbortSignal.any([signal, this.#awake.signal]);
    await this.#deps.clock.sleep(waitMs, either).catch((error: unknown) => {
      if (!this.#awake.signal.aborted || signal.aborted) throw error;
    });
  }

  /** True when it has to be repeated. */
  async #once(attempt: number, reason: BootstrapReason, signal: AbortSignal): Promise<boolean> {
    const { clock } = this.#deps;
    const startedMs = clock.monotonicMs();
    const startedAtNs = BigInt(Math.floor(clock.nowMs())) * 1_000_000n;
    const sources: BootstrapSourceStatus[] = [];
    let running: BootstrapRunStatus = {
      attempt,
      reason,
      shardCount: 0,
      openShards: 0,
      state: 'running',
      startedAtNs,
      tookMs: undefined,
      sources,
      unfulfilled: [],
      error: undefined,
    };
    this.#remember(running);
    const change = (changed: Partial<BootstrapRunStatus>): void => {
      const index = this.#history.indexOf(running);
      running = { ...running, ...changed };
      if (index >= 0) this.#history[index] = running;
    };
    const end = (ending: Partial<BootstrapRunStatus>): void =>
      change({ tookMs: clock.monotonicMs() - startedMs, ...ending });
    let step = 'bootstrap';
    const report: AttemptReport = {
      attempt,
      reason,
      superseded: this.#superseded.signal,
      begin: (shardCount, openShards) => change({ shardCount, openShards }),
      source: (name, pass) => {
        step = `${name}-${pass}`;
      },
      onSource: (status) => {
        note(sources, status);
        step = `${status.source}-${status.pass}`;
        const { fulfilledBlocks: done, requestedBlocks: total, namespace, detail } = status;
        const state = done === 0 ? 'skipped' : 'done';
        this.#publish(step, state, { done, total, unit: 'blocks', detail: `${namespace}: ${detail}` });
      },
      progress: (progress) => {
        change({ progress });
        this.#publish(step, 'running', progress);
      },
    };
    try {
      const result = await this.#attempt(report, signal);
      if (!result) {
        // Nothing was left: no attempt worth remembering.
        this.#history.splice(this.#history.indexOf(running), 1);
        return false;
      }
      const unfulfilled = result.reasons;
      const open = [...result.unfulfilled.values()].some((ranges) => !ranges.isEmpty);
      end({ state: open ? 'retrying' : 'done', unfulfilled });
      if (open) this.#publish('bootstrap', 'running', { detail: unfulfilled[0]?.detail ?? '' });
      return open;
    } catch (error) {
      const aborted = signal.aborted || isAbort(error);
      end({ state: aborted ? 'cancelled' : 'retrying', error: messageOf(error) });
      if (aborted || !(error instanceof VarveError || isSystemError(error))) throw error;
      this.#publish('bootstrap', 'failed', { detail: messageOf(error) }, error);
      return true;
    }
  }

  #remember(status: BootstrapRunStatus): void {
    this.#history.push(status);
    if (this.#history.length > HISTORY) this.#history.shift();
  }

  #publish(step: string, state: RunEvent['state'], progress: Progress, error?: unknown): void {
    const { events, node, clock } = this.#deps;
    const told = error instanceof VarveError ? { error: error.toJSON() } : {};
    if (!this.#isTold && step !== '') {
      this.#isTold = true;
      events?.publish({ run: RUN, node, step: '', state: 'running', atMs: clock.nowMs() });
    }
    events?.publish({ run: RUN, node, step, state, atMs: clock.nowMs(), ...progress, ...told });
  }
}

/** What a source did in several rounds of an attempt is told as one. */
function note(sources: BootstrapSourceStatus[], status: BootstrapSourceStatus): void {
  const { source, pass, namespace } = status;
  const place = sources.findIndex(
    (one) => one.source === source && one.pass === pass && one.namespace === namespace,
  );
  const before = sources[place];
  if (!before) {
    sources.push(status);
    return;
  }
  const { requestedBlocks } = before;
  const detail = status.fulfilledBlocks > 0 || before.fulfilledBlocks === 0 ? status.detail : before.detail;
  const fulfilledBlocks = before.fulfilledBlocks + status.fulfilledBlocks;
  const tookMs = before.tookMs + status.tookMs;
  sources[place] = { source, pass, namespace, requestedBlocks, fulfilledBlocks, detail, tookMs };
}

/** Of the operating system: it may pass. */
function isSystemError(error: unknown): boolean {
  return (
    error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('E')
  );
}
