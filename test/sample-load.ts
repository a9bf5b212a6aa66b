import { messageOf, VarveError } from '../src/core/errors.ts';
import {
  WriteRefused,
  type FoundSamples,
  type PreparedWrite,
  type SampleLedger,
  type Target,
} from './sample-ledger.ts';

export interface WriteLoadOptions<T extends Target> {
  /** Each request has one sample of each. */
  readonly series: number;
  /** All that a load balancer would know of, whether they are up or not. */
  readonly targets: readonly T[];
  /** Between two requests. */
  readonly pauseMs?: number;
}

/** A client repeats what it is told to repeat, as Prometheus does, for so long. */
const REPEAT_LIMIT_MS = 10_000;
const REPEAT_MS = 50;

/** Work that goes on until it is ended. */
abstract class Load implements AsyncDisposable {
  /** What a node that works has refused for good. */
  readonly failed: string[] = [];
  /** Requests that went on to another node, because one did not work. */
  diverted = 0;
  /** What nodes that work have refused for now; the same was asked again. */
  readonly repeated: string[] = [];
  /** That were answered. */
  done = 0;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  protected constructor(turn: (count: number) => Promise<void>, pauseMs: number) {
    this.#running = this.#run(turn, pauseMs);
  }

  /** Resolves when the request that is under way has ended. */
  async end(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }

  /** Asks one after the other, from another one on each time, until one works. */
  protected async ask<T extends Target>(
    { targets, from }: { readonly targets: readonly T[]; readonly from: number },
    work: (target: T) => Promise<void>,
    judge: (error: unknown) => 'next' | 'again' | 'failed',
  ): Promise<void> {
    const untilMs = Date.now() + REPEAT_LIMIT_MS;
    let why = 'there is nobody to ask';
    for (let i = 0, left = targets.length; left > 0 && !this.#stop.signal.aborted;) {
      const target = targets[(from + i) % targets.length] as T;
      try {
        await work(target);
        this.done++;
        return;
      } catch (error) {
        why = `${target.id}: ${messageOf(error)}`;
        const verdict = judge(error);
        if (verdict === 'failed' || Date.now() > untilMs) break;
        if (verdict === 'again') {
          this.repeated.push(why);
          await pause(REPEAT_MS);
          continue;
        }
        this.diverted++;
        i++;
        left--;
      }
    }
    if (!this.#stop.signal.aborted) this.failed.push(why);
  }

  async #run(turn: (count: number) => Promise<void>, pauseMs: number): Promise<void> {
    // The fields of who extends it are not there yet.
    await Promise.resolve();
    for (let count = 0; !this.#stop.signal.aborted; count++) {
      await turn(count);
      await pause(pauseMs);
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A client that writes, as a load balancer makes it look: what its node does not answer goes to the next one. */
export class WriteLoad<T extends Target> extends Load {
  #lastMs = 0;

  constructor(ledger: SampleLedger, { series, targets, pauseMs = 2 }: WriteLoadOptions<T>) {
    super(async (count) => {
      // No two of a millisecond.
      const timeMs = Math.max(Date.now(), this.#lastMs + 1);
      this.#lastMs = timeMs;
      const samples = Array.from({ length: series }, (_, i) => ({ series: String(i), timeMs }));
      const write: PreparedWrite = ledger.prepare(samples);
      await this.ask(
        { targets, from: count },
        (target) => ledger.send(target, write),
        (error) => {
          if (!(error instanceof WriteRefused) || error.isNotReady) return 'next';
          return error.status === 503 ? 'again' : 'failed';
        },
      );
    }, pauseMs);
  }
}

/** A client that reads everything all the time: whatever was acknowledged before it asked has to be in the answer. */
export class ReadLoad<
  T extends Target & { exported(namespace: string): Promise<FoundSamples> },
> extends Load {
  constructor(ledger: SampleLedger, targets: readonly T[], pauseMs = 50) {
    super(async (count) => {
      await this.ask(
        { targets, from: count },
        async (target) => {
          const before = ledger.acknowledgedNow();
          const faults = ledger.faults(await target.exported(ledger.namespace), before);
          if (faults.length > 0) this.failed.push(`${target.id} answers short: ${faults.join('; ')}`);
        },
        (error) => (!(error instanceof VarveError) || error.code === 'STORAGE_NOT_READY' ? 'next' : 'failed'),
      );
    }, pauseMs);
  }
}
