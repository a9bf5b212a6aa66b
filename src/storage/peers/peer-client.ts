import { Backoff } from '../../core/backoff.ts';
import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { AnswerRoom, PeerRequest, PeerTransport } from './peer-transport.ts';

export interface PeerClientDeps {
  readonly transport: PeerTransport;
  readonly clock: Clock;
  readonly random: () => number;
}

export interface PeerClientOptions {
  /** Of one request. */
  readonly timeoutMs: number;
  /** Of a request, before the peer is left behind. */
  readonly tries: number;
}

/** A peer did not answer, or said that it cannot: whoever needs it goes on without. */
export class PeerFailure extends Error {
  readonly node: string;
  /** Without the node. */
  readonly reason: string;
  /** What it asked for is not there any more: asking anew may help. */
  readonly isStale: boolean;

  constructor(node: string, error: unknown) {
    super(`${node}: ${messageOf(error)}`, { cause: error });
    this.node = node;
    this.reason = messageOf(error);
    this.isStale = error instanceof VarveError && error.code === 'NOT_FOUND';
  }
}

/** What a peer says about itself or the request; to repeat it at once would not help. */
const ANSWERS: readonly string[] = [
  'SHARD_NOT_OWNED',
  'SHARD_NOT_READY',
  'NAMESPACE_UNKNOWN',
  'NOT_FOUND',
  'INVALID_ARGUMENT',
  'TOKEN_REFUSED',
];
/** Why a time limit is not waited for any more: one for all, because to make one takes long. */
const ANSWERED = new Error('it has answered');
const PAUSE = { firstMs: 50, maxMs: 1000 } as const;
const ABSENCE = { firstMs: 500, maxMs: 30_000 } as const;

/** Asks peers, each request with a time limit and some tries; one that does not answer is left alone for a while. */
export class PeerClient {
  readonly #deps: PeerClientDeps;
  readonly #options: PeerClientOptions;
  readonly #absent = new Map<string, { readonly backoff: Backoff; untilMs: number; reason: string }>();

  constructor(deps: PeerClientDeps, options: PeerClientOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Why a peer is left alone just now; undefined when it is not. */
  absence(node: string): string | undefined {
    const absent = this.#absent.get(node);
    return absent && absent.untilMs > this.#deps.clock.monotonicMs() ? absent.reason : undefined;
  }

  /** Those that were left alone are asked again from now on. */
  forgive(): void {
    for (const absent of this.#absent.values()) absent.untilMs = 0;
  }

  /**
   * @param room where the answer may be put; nobody writes there any more when it resolves or rejects
   * @throws PeerFailure, and the signal's reason when it is aborted
   */
  async call(
    node: string,
    request: PeerRequest,
    signal: AbortSignal,
    room?: AnswerRoom,
  ): Promise<Uint8Array> {
    const { clock, random, transport } = this.#deps;
    const pause = new Backoff({ ...PAUSE, random });
    for (let tries = 1; ; tries++) {
      signal.throwIfAborted();
      const absence = this.absence(node);
      if (absence !== undefined) throw new PeerFailure(node, absence);
      try {
        const answer = await this.#once((either) => transport.call(node, request, either, room), signal);
        this.#absent.delete(node);
        return answer;
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof VarveError && ANSWERS.includes(error.code)) throw new PeerFailure(node, error);
        // It is mending that: by then the block has other files.
        if (error instanceof VarveError && error.code === 'FILESET_DAMAGED') throw this.distrust(node, error);
        if (tries >= this.#options.tries) {
          this.#leave(node, messageOf(error));
          throw new PeerFailure(node, error);
        }
        await clock.sleep(pause.nextMs(), signal);
      }
    }
  }

  /** What it gave is nothing that can be used: as if it had not answered. */
  distrust(node: string, error: unknown): PeerFailure {
    this.#leave(node, messageOf(error));
    return new PeerFailure(node, error);
  }

  #leave(node: string, reason: string): void {
    const { clock, random } = this.#deps;
    const absent = this.#absent.get(node) ?? {
      backoff: new Backoff({ ...ABSENCE, random }),
      untilMs: 0,
      reason,
    };
    absent.untilMs = clock.monotonicMs() + absent.backoff.nextMs();
    absent.reason = reason;
    this.#absent.set(node, absent);
  }

  async #once(ask: (signal: AbortSignal) => Promise<Uint8Array>, signal: AbortSignal): Promise<Uint8Array> {
    const { clock } = this.#deps;
    const { timeoutMs } = this.#options;
    const done = new AbortController();
    const late = new AbortController();
    const timer = clock.sleep(timeoutMs, done.signal).then(
      () => late.abort(new VarveError('DEADLINE_EXCEEDED', `no answer within ${timeoutMs} ms`)),
      () => {},
    );
    const either = AbortSignal.any([signal, late.signal]);
    const expired = new Promise<never>((_, reject) => {
      either.addEventListener('abort', () => reject(either.reason as Error), { once: true });
    });
    try {
      return await Promise.race([ask(either), expired]);
    } finally {
      expired.catch(() => {});
      done.abort(ANSWERED);
      await timer;
    }
  }
}
