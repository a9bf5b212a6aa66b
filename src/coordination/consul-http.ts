import { messageOf, VarveError } from '../core/errors.ts';
import type { CoordinatorDeps } from './coordinator.ts';

export interface ConsulEndpoint {
  /** `http://host:8500`; a path in it is kept. */
  readonly url: string;
  readonly token?: string;
  /** The agent's own by default. */
  readonly datacenter?: string;
  /** For an answer, beyond what a blocking query may wait. */
  readonly timeoutMs: number;
}

export interface ConsulRequest {
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  readonly signal?: AbortSignal;
  /** How long the server may take beyond the usual. */
  readonly waitMs?: number;
  readonly timeoutMs?: number;
  /** Statuses besides 200 that are answers; all others are errors. */
  readonly accept?: readonly (404 | 409)[];
}

export interface ConsulAnswer {
  readonly status: 200 | 404 | 409;
  /** Of a reading; 0 where there is none. */
  readonly index: number;
  readonly text: string;
}

const MAX_QUOTED_CHARS = 300;

/** One request to Consul's HTTP API, with a deadline, its failures as our errors. */
export class ConsulHttp {
  readonly #endpoint: ConsulEndpoint;
  readonly #deps: CoordinatorDeps;
  readonly #base: string;

  /** @throws INVALID_ARGUMENT when the URL is none, or has a password in it */
  constructor(endpoint: ConsulEndpoint, deps: CoordinatorDeps) {
    const url = URL.canParse(endpoint.url) ? new URL(endpoint.url) : undefined;
    if (!url || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
      throw new VarveError('INVALID_ARGUMENT', "the coordinator's URL is not of the form http://host:port", {
        hint: 'Give the token by its own option, not in the URL.',
      });
    }
    this.#endpoint = endpoint;
    this.#deps = deps;
    this.#base = `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
  }

  /**
   * @throws COORDINATOR_UNAVAILABLE when there was no answer, or a 5xx: the outcome is unknown
   * @throws COORDINATOR_REFUSED, VALUE_TOO_LARGE when it answered so: nothing happened
   * @throws the reason of `signal`
   */
  async request(method: string, path: string, options: ConsulRequest = {}): Promise<ConsulAnswer> {
    const { clock } = this.#deps;
    const timeoutMs = (options.timeoutMs ?? this.#endpoint.timeoutMs) + (options.waitMs ?? 0);
    options.signal?.throwIfAborted();
    const ended = new AbortController();
    const done = new AbortController();
    const stop = (): void => ended.abort();
    options.signal?.addEventListener('abort', stop, { once: true });
    const deadline = clock.sleep(timeoutMs, done.signal).then(stop, () => {});
    try {
      const response = await fetch(this.#url(path, options), {
        method,
        headers: this.#endpoint.token === undefined ? {} : { 'X-Consul-Token': this.#endpoint.token },
        ...(options.body === undefined ? {} : { body: options.body }),
        signal: ended.signal,
        redirect: 'error',
      });
      const text = await response.text();
      return this.#answer(`${method} ${path}`, { response, text, accept: options.accept ?? [] });
    } catch (error) {
      if (error instanceof VarveError) throw error;
      options.signal?.throwIfAborted();
      const why = ended.signal.aborted ? `did not answer within ${timeoutMs} ms` : rootMessage(error);
      throw this.unavailable(`${method} ${path}: ${why}`, error);
    } finally {
      options.signal?.removeEventListener('abort', stop);
      done.abort();
      await deadline;
    }
  }

  /** @throws COORDINATOR_REFUSED when the text is no JSON: something else answers there */
  parse<T>(answer: ConsulAnswer): T {
    try {
      return JSON.parse(answer.text) as T;
    } catch {
      throw this.refused(`what answers is no coordinator (${quoted(answer.text)})`);
    }
  }

  unavailable(why: string, cause?: unknown): VarveError {
    return new VarveError('COORDINATOR_UNAVAILABLE', `the coordinator at ${this.#base} failed: ${why}`, {
      hint: 'Check that it runs, can be reached from here and has a leader.',
      cause,
    });
  }

  refused(why: string): VarveError {
    return new VarveError('COORDINATOR_REFUSED', `the coordinator at ${this.#base} refused: ${why}`, {
      hint: 'Check its URL and token.',
    });
  }

  #url(path: string, { query, waitMs }: ConsulRequest): string {
    const { datacenter } = this.#endpoint;
    const parameters = new URLSearchParams({
      ...(datacenter === undefined ? {} : { dc: datacenter }),
      ...(waitMs === undefined ? {} : { wait: `${Math.max(1, Math.floor(waitMs))}ms` }),
      ...query,
    }).toString();
    return `${this.#base}${path}${parameters === '' ? '' : `?${parameters}`}`;
  }

  #answer(
    what: string,
    { response, text, accept }: { response: Response; text: string; accept: readonly (404 | 409)[] },
  ): ConsulAnswer {
    const status = [200 as const, ...accept].find((accepted) => accepted === response.status);
    if (status !== undefined) {
      return { status, index: Number(response.headers.get('X-Consul-Index') ?? 0), text };
    }
    if (response.status === 413) {
      throw new VarveError(
        'VALUE_TOO_LARGE',
        `the coordinator refused a write as too large: ${quoted(text)}`,
      );
    }
    const said = `${what}: ${response.status} ${quoted(text)}`;
    throw response.status >= 500 || response.status === 429 ? this.unavailable(said) : this.refused(said);
  }
}

function quoted(text: string): string {
  return text.trim().slice(0, MAX_QUOTED_CHARS);
}

/** fetch says `fetch failed` and keeps the reason in `cause`. */
function rootMessage(error: unknown): string {
  let root = error;
  while (root instanceof Error && root.cause instanceof Error) root = root.cause;
  return messageOf(root);
}
