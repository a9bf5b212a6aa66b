import { Backoff } from './backoff.ts';
import type { Clock } from './clock.ts';

/** A started process, as far as its supervisor cares. */
export interface ProcessHandle {
  readonly pid: number;
  /** Resolves when it is gone. */
  readonly exited: Promise<Exit>;
  send(message: unknown): void;
  kill(signal: 'SIGTERM' | 'SIGKILL'): void;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
}

export interface SupervisedProcessDeps {
  readonly clock: Clock;
  /** Starts it once. A start that throws counts as one that ended at once. */
  readonly start: () => ProcessHandle;
  readonly onStart: (pid: number) => void;
  /** It ended without having been told to; it is started again after `delayMs`. */
  readonly onCrash: (crash: Crash) => void;
  readonly random?: () => number;
}

export interface Crash {
  readonly why: string;
  readonly delayMs: number;
  /** Ends in a row, none of them after `stableMs`. */
  readonly inARow: number;
}

export interface SupervisedProcessOptions {
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** After so long a run counts as good: the next crash begins with the first delay again. */
  readonly stableMs: number;
  /** From the polite end to the forced one. */
  readonly stopTimeoutMs: number;
}

/**
 * Keeps one process running: started again, with growing delays, whenever it ends; ended politely, later by
 * force, when the signal fires. `run` resolves when the process is gone for good.
 */
export class SupervisedProcess {
  readonly #deps: SupervisedProcessDeps;
  readonly #options: SupervisedProcessOptions;
  #handle: ProcessHandle | undefined;
  #restartCount = 0;

  constructor(deps: SupervisedProcessDeps, options: SupervisedProcessOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  get pid(): number | undefined {
    return this.#handle?.pid;
  }

  get restartCount(): number {
    return this.#restartCount;
  }

  /** Ends it by force now, whatever was asked before. */
  kill(): void {
    this.#handle?.kill('SIGKILL');
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, onCrash, random } = this.#deps;
    const { firstDelayMs, maxDelayMs, stableMs } = this.#options;
    const backoff = new Backoff({ firstMs: firstDelayMs, maxMs: maxDelayMs, ...(random ? { random } : {}) });
    let inARow = 0;
    while (!signal.aborted) {
      const startedAtMs = clock.monotonicMs();
      const why = await this.#once(signal);
      if (signal.aborted) return;
      if (clock.monotonicMs() - startedAtMs >= stableMs) {
        backoff.reset();
        inARow = 0;
      }
      inARow += 1;
      this.#restartCount += 1;
      const delayMs = backoff.nextMs();
      onCrash({ why, delayMs, inARow });
      await clock.sleep(delayMs, signal).catch(() => {});
    }
  }

  /** From start to end; says why it ended. */
  async #once(signal: AbortSignal): Promise<string> {
    let handle: ProcessHandle;
    try {
      handle = this.#deps.start();
    } catch (error) {
      return `could not be started: ${(error as Error).message}`;
    }
    this.#handle = handle;
    const stop = (): void => void this.#stop(handle);
    try {
      this.#deps.onStart(handle.pid);
      if (signal.aborted) stop();
      else signal.addEventListener('abort', stop, { once: true });
      return exitText(await handle.exited);
    } finally {
      signal.removeEventListener('abort', stop);
      this.#handle = undefined;
    }
  }

  async #stop(handle: ProcessHandle): Promise<void> {
    handle.kill('SIGTERM');
    const waiting = new AbortController();
    const late = this.#deps.clock.sleep(this.#options.stopTimeoutMs, waiting.signal).then(
      () => handle.kill('SIGKILL'),
      () => {}, // It ended in time.
    );
    await handle.exited;
    waiting.abort();
    await late;
  }
}

function exitText({ code, signal }: Exit): string {
  return signal === null ? `ended with exit code ${code ?? 'unknown'}` : `was ended by ${signal}`;
}
