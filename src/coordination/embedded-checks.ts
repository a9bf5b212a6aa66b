import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { CheckRow, CheckStatus } from './embedded-catalog.ts';

export interface CheckResult {
  readonly status: CheckStatus;
  readonly output: string;
}

const MAX_OUTPUT_CHARS = 500;

/** Asks the URLs of HTTP checks, each at its interval, as an agent of Consul does. */
export class HttpChecks implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #report: (checkId: string, result: CheckResult) => void;
  readonly #running = new Map<
    string,
    { readonly key: string; readonly stop: AbortController; done: Promise<void> }
  >();

  constructor(clock: Clock, report: (checkId: string, result: CheckResult) => void) {
    this.#clock = clock;
    this.#report = report;
  }

  /** Starts and stops loops so that exactly the HTTP checks among `checks` are asked. */
  follow(checks: Iterable<CheckRow>): void {
    const wanted = new Map([...checks].filter(({ method }) => method.kind === 'http').map((c) => [c.id, c]));
    for (const [id, { key, stop }] of this.#running) {
      const check = wanted.get(id);
      if (check && keyOf(check) === key) continue;
      stop.abort();
      this.#running.delete(id);
    }
    for (const [id, check] of wanted) {
      if (this.#running.has(id)) continue;
      const stop = new AbortController();
      this.#running.set(id, { key: keyOf(check), stop, done: this.#run(check, stop.signal) });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const loops = [...this.#running.values()];
    this.#running.clear();
    for (const { stop } of loops) stop.abort();
    await Promise.all(loops.map(({ done }) => done));
  }

  async #run({ id, method }: CheckRow, signal: AbortSignal): Promise<void> {
    if (method.kind !== 'http') return;
    while (!signal.aborted) {
      const result = await this.#ask(method.url, method.timeoutMs, signal);
      if (signal.aborted) return;
      this.#report(id, result);
      await this.#clock.sleep(method.intervalMs, signal).catch(() => {});
    }
  }

  async #ask(url: string, timeoutMs: number, signal: AbortSignal): Promise<CheckResult> {
    const late = new AbortController();
    const stop = (): void => late.abort();
    signal.addEventListener('abort', stop, { once: true });
    const timer = setTimeout(stop, timeoutMs);
    try {
      const response = await fetch(url, { signal: late.signal, redirect: 'manual' });
      const text = await beginning(response);
      const output = `HTTP GET ${url}: ${response.status} ${response.statusText} Output: ${text}`;
      if (response.ok) return { status: 'passing', output };
      return { status: response.status === 429 ? 'warning' : 'critical', output };
    } catch (error) {
      const why = late.signal.aborted ? `no answer within ${timeoutMs} ms` : messageOf(error);
      return { status: 'critical', output: `HTTP GET ${url}: ${why}` };
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', stop);
    }
  }
}

/** Of the body: whoever is asked may send without end. */
async function beginning(response: Response): Promise<string> {
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk as Uint8Array, { stream: true });
    if (text.length >= MAX_OUTPUT_CHARS) break; // Leaving the loop cancels the rest.
  }
  return text.slice(0, MAX_OUTPUT_CHARS);
}

function keyOf({ serviceId, method }: CheckRow): string {
  return JSON.stringify([serviceId, method]);
}
