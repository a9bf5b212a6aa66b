import { VarveError } from '../../core/errors.ts';
import type { Exchange } from './exchange.ts';

export interface ReadGateOptions {
  /** At the same time; others wait for their turn. */
  readonly maxReads: number;
  /** From the request's arrival to the end of its answer. */
  readonly timeoutMs: number;
}

/** Lets so many reads run at once and ends those that take too long or that nobody waits for any more. */
export class ReadGate {
  readonly #options: ReadGateOptions;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(options: ReadGateOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running;
  }

  /** @throws DEADLINE_EXCEEDED, CANCELLED, and whatever `read` throws */
  async run(exchange: Exchange, read: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { timeoutMs } = this.#options;
    const ended = new AbortController();
    const timer = setTimeout(() => {
      ended.abort(new VarveError('DEADLINE_EXCEEDED', `the query took longer than ${timeoutMs} ms`));
    }, timeoutMs);
    const gone = (): void =>
      ended.abort(new VarveError('CANCELLED', 'the caller went away before the answer was whole'));
    exchange.response.once('close', gone);
    try {
      await this.#enter(ended.signal);
      try {
        await read(ended.signal);
      } finally {
        this.#leave();
      }
    } catch (error) {
      // Waits that are cut short say so in words of their own.
      ended.signal.throwIfAborted();
      throw error;
    } finally {
      clearTimeout(timer);
      exchange.response.off('close', gone);
    }
  }

  #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#running < this.#options.maxReads) {
      this.#running += 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const enter = (): void => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const leave = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(enter), 1);
        reject(signal.reason as Error);
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.push(enter);
    });
  }

  /** The place goes to the next who waits. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#running -= 1;
  }
}
