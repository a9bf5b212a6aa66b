import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../core/clock.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { answerError, exchangeOf } from '../storage/http/exchange.ts';

/** So long a start may take. */
const PREPARE_AFTER_MS = 2000;

export interface HttpHandler {
  /** Answers the request, whatever happens. */
  handle(request: IncomingMessage, response: ServerResponse): unknown;
}

/** Loads what answers some requests when the first of them comes: a node that starts does not wait for it. */
export class LazyHandler {
  /** What it answers for: `the placement`. */
  readonly #what: string;
  readonly #load: () => Promise<HttpHandler>;
  #loaded: Promise<HttpHandler> | undefined;

  constructor(what: string, load: () => Promise<HttpHandler>) {
    this.#what = what;
    this.#load = load;
  }

  /** Before anybody asks. */
  async load(): Promise<void> {
    this.#loaded ??= this.#load();
    await this.#loaded;
  }

  /**
   * Loads it for when its files are replaced under the node: when the node has started, so that the start does not
   * wait for it, or takes long. What fails is tried again when somebody asks.
   */
  async prepareAfter(
    started: Promise<unknown>,
    { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
  ): Promise<void> {
    const isOver = new AbortController();
    const longEnough = clock.sleep(PREPARE_AFTER_MS, AbortSignal.any([signal, isOver.signal]));
    await Promise.race([started, longEnough]).catch(() => {});
    isOver.abort();
    await longEnough.catch(() => {});
    if (signal.aborted) return;
    await this.load().catch(() => {
      this.#loaded = undefined;
    });
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      this.#loaded ??= this.#load();
      await (await this.#loaded).handle(request, response);
    } catch (error) {
      // Its files may have been replaced under a node that runs.
      this.#loaded = undefined;
      const message = `this node cannot answer for ${this.#what}: ${messageOf(error)}`;
      const known = new VarveError('INTERNAL', message, { hint: 'Start the node anew, or ask another.' });
      answerError(exchangeOf(request, response), known, 'prometheus');
    }
  }
}
