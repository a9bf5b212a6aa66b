import { Backoff } from '../../core/backoff.ts';
import type { Clock } from '../../core/clock.ts';
import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import type { RunEvents } from '../../run/events.ts';
import type { Progress, RunEvent } from '../../run/step.ts';
import type { BootstrapRunStatus, BootstrapSourceStatus } from '../engine/storage-engine.ts';
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
  #pending = false;
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
   * Bootstraps what is not yet; resolves when nothing is left. Calls during a run join it, and see to another attempt.
   * @throws what ends a bootstrap for good: a bug, or the signal's reason
   */
  run(signal: AbortSignal): Promise<void> {
    if (this.#running) {
      this.#pending = true;
      return this.#running;
    }
    this.#running = this.#told(signal).finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** With its begin and end as those of a run. */
  async #told(signal: AbortSignal): Promise<void> {
    this.#isTold = false;
    try {
      await this.#repeat(signal);
      // Nothing is told of a run that had nothing to do.
      if (this.#isTold) this.#publish('', 'done', {});
    } catch (error) {
      this.#publish('', signal.aborted ? 'cancelled' : 'failed', { detail: messageOf(error) }, error);
      throw error;
    }
  }

  async #repeat(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    this.#backoff.reset();
    for (let number = (this.#history.at(-1)?.attempt ?? 0) + 1; ; number++) {
      this.#pending = false;
      const again = await this.#once(number, signal);
      if (this.#pending) continue;
      if (!again) return;
      const waitMs = this.#backoff.nextMs();
      this.#publish('retry', 'running', { waitingFor: `another attempt in ${Math.round(waitMs)} ms` });
      await clock.sleep(waitMs, signal);
    }
  }

  /** True when it has to be repeated. */
  async #once(attempt: number, signal: AbortSignal): Promise<boolean> {
    const { clock } = this.#deps;
    const startedMs = clock.monotonicMs();
    const startedAtNs = BigInt(Math.floor(clock.nowMs())) * 1_000_000n;
    const sources: BootstrapSourceStatus[] = [];
    const running: BootstrapRunStatus = {
      attempt,
      state: 'running',
      startedAtNs,
      tookMs: undefined,
      sources,
      unfulfilled: [],
      error: undefined,
    };
    const place = this.#remember(running);
    const end = (change: Partial<BootstrapRunStatus>): void => {
      const index = this.#history.indexOf(place);
      if (index < 0) return;
      this.#history[index] = { ...running, tookMs: clock.monotonicMs() - startedMs, ...change };
    };
    let step = 'bootstrap';
    const report: AttemptReport = {
      onSource: (status) => {
        sources.push(status);
        step = `${status.source}-${status.pass}`;
        const { fulfilledBlocks: done, requestedBlocks: total, namespace, detail } = status;
        const state = done === 0 ? 'skipped' : 'done';
        this.#publish(step, state, { done, total, unit: 'blocks', detail: `${namespace}: ${detail}` });
      },
      progress: (progress) => this.#publish(step, 'running', progress),
    };
    try {
      const result = await this.#attempt(report, signal);
      if (!result) {
        // Nothing was left: no attempt worth remembering.
        this.#history.splice(this.#history.indexOf(place), 1);
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

  #remember(status: BootstrapRunStatus): BootstrapRunStatus {
    this.#history.push(status);
    if (this.#history.length > HISTORY) this.#history.shift();
    return status;
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

/** Of the operating system: it may pass. */
function isSystemError(error: unknown): boolean {
  return (
    error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('E')
  );
}
