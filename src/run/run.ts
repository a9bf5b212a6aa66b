import type { Clock } from '../core/clock.ts';
import { isAbort, messageOf, VarveError } from '../core/errors.ts';
import type { RunEvents } from './events.ts';
import type { Check, Progress, RunEvent, RunState, Step, StepState, StepWork } from './step.ts';

export interface RunDeps {
  readonly clock: Clock;
  readonly events: RunEvents;
}

export interface RunOptions<C> {
  /** Unique among the node's runs. */
  readonly run: string;
  readonly node: string;
  readonly steps: readonly Step<C>[];
  readonly context: C;
  readonly signal: AbortSignal;
}

export interface PlannedStep {
  readonly step: string;
  readonly check: Check;
}

/**
 * Takes each step in order: checks it, and applies it only when there is something to do. The first step
 * that throws ends the run; a rerun starts with the checks again and so carries on where this one stopped.
 * @throws whatever the failing step threw
 */
export async function runSteps<C>(deps: RunDeps, options: RunOptions<C>): Promise<void> {
  const emitter = new Emitter(deps, options.run, options.node);
  emitter.emit('', 'running');
  for (const step of options.steps) {
    const work = emitter.workOf(step.name, options.signal);
    try {
      options.signal.throwIfAborted();
      emitter.emit(step.name, 'checking');
      const check = await step.check(options.context, work);
      if (check.state === 'done') {
        emitter.emit(step.name, 'skipped');
        continue;
      }
      emitter.emit(step.name, 'running', { detail: check.reason });
      await step.apply(options.context, work);
      emitter.emit(step.name, 'done');
    } catch (error) {
      const cancelled = options.signal.aborted && (isAbort(error) || error === options.signal.reason);
      emitter.fail(step.name, error);
      emitter.emit('', cancelled ? 'cancelled' : 'failed', { detail: `at ${step.name}` });
      throw error;
    }
  }
  emitter.emit('', 'done');
}

/** What a run would do now: each step's check, none applied. */
export async function planSteps<C>(
  steps: readonly Step<C>[],
  context: C,
  signal: AbortSignal,
): Promise<PlannedStep[]> {
  const planned: PlannedStep[] = [];
  for (const step of steps) {
    planned.push({ step: step.name, check: await step.check(context, { signal, report: () => {} }) });
  }
  return planned;
}

class Emitter {
  readonly #deps: RunDeps;
  readonly #run: string;
  readonly #node: string;

  constructor(deps: RunDeps, run: string, node: string) {
    this.#deps = deps;
    this.#run = run;
    this.#node = node;
  }

  emit(step: string, state: StepState | RunState, more: Progress & Pick<RunEvent, 'error'> = {}): void {
    const { clock, events } = this.#deps;
    events.publish({ run: this.#run, node: this.#node, step, state, atMs: clock.nowMs(), ...more });
  }

  fail(step: string, error: unknown): void {
    if (error instanceof VarveError)
      this.emit(step, 'failed', { error: error.toJSON(), detail: error.message });
    else this.emit(step, 'failed', { detail: messageOf(error) });
  }

  workOf(step: string, signal: AbortSignal): StepWork {
    return { signal, report: (progress) => this.emit(step, 'running', progress) };
  }
}
