import type { IncomingMessage } from 'node:http';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorDeps } from './coordinator.ts';
import { errorIn, type GatewayError, GRPC, jsonLines, kindOf, linesOf } from './etcd-answer.ts';
import { EtcdTransport, type EtcdTls, reasonOf } from './etcd-transport.ts';

export interface EtcdUser {
  readonly name: string;
  readonly password: string;
}

export interface EtcdEndpoint {
  /** `http://host:2379`, one or more; a path is kept. */
  readonly members: readonly string[];
  readonly user?: EtcdUser;
  readonly tls?: EtcdTls;
  /** For an answer, over all members that are asked. */
  readonly timeoutMs: number;
}

export interface EtcdRequest {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  /** It may be asked of the next member when it is not known whether the last one has done it. */
  readonly repeatable?: boolean;
  /** gRPC's codes besides 0 that are answers. */
  readonly accept?: readonly number[];
}

export interface EtcdAnswer {
  /** 0, or one of those accepted. */
  readonly code: number;
  /** One of a plain answer; of a stream, each in turn; none with another code than 0. */
  readonly items: readonly unknown[];
}

/** For a member that is well, however many others there are to ask. */
const ENOUGH_MS = 1000;
const AGAIN_MS = 100;
const MAX_QUOTED_CHARS = 300;
const AUTHENTICATE = '/v3/auth/authenticate';

/** Why one member did not do it, when another may. */
class Silence extends Error {
  /** `nothing`: certainly not; `soon`: nor that, and it will when it is asked again. */
  readonly outcome: 'unknown' | 'nothing' | 'soon';

  constructor(outcome: Silence['outcome'], why: string, cause?: unknown) {
    super(why, { cause });
    this.outcome = outcome;
  }
}

interface Attempt {
  readonly member: string;
  readonly path: string;
  readonly body: string;
}

interface Limits extends EtcdRequest {
  readonly leftMs: number;
  /** Until the connection stands, or, when it may be repeated, until it is answered. */
  readonly shareMs: number;
}

/**
 * Requests to etcd's JSON gateway, of one member at a time: the next is asked when one cannot be reached, has
 * no leader, or does not answer and the request may be repeated. Nothing else is sent twice.
 */
export class EtcdHttp {
  readonly #endpoint: EtcdEndpoint;
  readonly #deps: CoordinatorDeps;
  readonly #transport: EtcdTransport;
  #token: Promise<string | undefined> | undefined;
  /** Nodes spread over the members. */
  #current: number;

  constructor(endpoint: EtcdEndpoint, deps: CoordinatorDeps) {
    this.#endpoint = endpoint;
    this.#deps = deps;
    this.#transport = new EtcdTransport(endpoint.tls);
    this.#current = Math.floor((deps.random ?? Math.random)() * endpoint.members.length);
  }

  /**
   * @throws COORDINATOR_UNAVAILABLE when there was no answer, or one that leaves the outcome open
   * @throws COORDINATOR_REFUSED, VALUE_TOO_LARGE when it answered so: nothing happened
   * @throws the reason of `signal`
   */
  async request<T>(path: string, body: object, options: EtcdRequest = {}): Promise<T> {
    const { items } = await this.exchange(path, [body], options);
    return items[0] as T;
  }

  /** As `request`, for several messages, or where some errors are answers. */
  async exchange(path: string, bodies: readonly object[], options: EtcdRequest = {}): Promise<EtcdAnswer> {
    const { clock } = this.#deps;
    const { timeoutMs = this.#endpoint.timeoutMs, signal, repeatable = false } = options;
    const { length } = this.#endpoint.members;
    const untilMs = clock.monotonicMs() + timeoutMs;
    const body = bodies.map((part) => JSON.stringify(part)).join('');
    let soon = false;
    for (let asked = 1; ; asked += 1) {
      const leftMs = untilMs - clock.monotonicMs();
      const shareMs = Math.min(leftMs, Math.max(timeoutMs / length, Math.min(timeoutMs / 2, ENOUGH_MS)));
      const member = this.#member();
      try {
        return await this.#attempt({ member, path, body }, { ...options, leftMs, shareMs });
      } catch (error) {
        if (!(error instanceof Silence)) throw error;
        this.#leave(member);
        soon ||= error.outcome === 'soon';
        const over = untilMs - clock.monotonicMs() <= AGAIN_MS || (asked >= length && !soon);
        const mayRepeat = repeatable || error.outcome !== 'unknown';
        if (over || !mayRepeat) throw this.unavailable(`${path}: ${error.message}`, member, error.cause);
        if (asked >= length) await clock.sleep(AGAIN_MS, signal);
      }
    }
  }

  /**
   * The messages of a stream, without end but by an error or `signal`.
   * @throws COORDINATOR_UNAVAILABLE also when the member closes it
   */
  async *stream(path: string, body: object, signal: AbortSignal): AsyncGenerator<unknown, never, void> {
    const member = this.#member();
    const ended = new AbortController();
    const stop = (): void => ended.abort();
    signal.throwIfAborted();
    signal.addEventListener('abort', stop, { once: true });
    let begun = false;
    const impatience = this.#deps.clock.sleep(this.#endpoint.timeoutMs, ended.signal).then(
      () => begun || stop(),
      () => {},
    );
    try {
      const response = await this.#post({ member, path, body: JSON.stringify(body) }, ended.signal);
      for await (const text of linesOf(response)) {
        begun = true;
        yield this.#read({ member, path, status: response.statusCode ?? 0, text }, []).items[0];
      }
      throw new Silence('unknown', 'the stream was closed');
    } catch (error) {
      signal.throwIfAborted();
      this.#leave(member);
      if (error instanceof VarveError) throw error;
      const why = ended.signal.aborted ? 'did not answer in time' : reasonOf(error);
      throw this.unavailable(`${path}: ${why}`, member, error);
    } finally {
      signal.removeEventListener('abort', stop);
      stop();
      await impatience;
    }
  }

  unavailable(why: string, member = this.#endpoint.members.join(','), cause?: unknown): VarveError {
    return new VarveError('COORDINATOR_UNAVAILABLE', `the coordinator at ${member} failed: ${why}`, {
      hint: 'Check that it runs, can be reached from here and has a leader.',
      cause,
    });
  }

  refused(why: string, member = this.#endpoint.members.join(',')): VarveError {
    return new VarveError('COORDINATOR_REFUSED', `the coordinator at ${member} refused: ${why}`, {
      hint: 'Check its URL, and the user and password.',
    });
  }

  close(): void {
    this.#transport.close();
  }

  async #attempt(attempt: Attempt, limits: Limits): Promise<EtcdAnswer> {
    const { clock } = this.#deps;
    const { signal, repeatable, leftMs, shareMs, accept = [] } = limits;
    const ended = new AbortController();
    const stop = (): void => ended.abort();
    const done = new AbortController();
    let connected = false;
    const deadline = (async () => {
      await clock.sleep(Math.max(1, shareMs), done.signal);
      if (connected && !repeatable) await clock.sleep(Math.max(1, leftMs - shareMs), done.signal);
      stop();
    })().catch(() => {});
    signal?.addEventListener('abort', stop, { once: true });
    const sentMs = clock.monotonicMs();
    try {
      signal?.throwIfAborted();
      const response = await this.#post(attempt, ended.signal, () => (connected = true));
      const text = (await response.setEncoding('utf8').toArray()).join('');
      return this.#read({ ...attempt, status: response.statusCode ?? 0, text }, accept);
    } catch (error) {
      if (error instanceof VarveError || error instanceof Silence) throw error;
      signal?.throwIfAborted();
      const waitedMs = Math.round(clock.monotonicMs() - sentMs);
      const why = ended.signal.aborted ? `did not answer within ${waitedMs} ms` : reasonOf(error);
      throw new Silence(connected ? 'unknown' : 'nothing', why, error);
    } finally {
      signal?.removeEventListener('abort', stop);
      done.abort();
      await deadline;
    }
  }

  async #post(
    { member, path, body }: Attempt,
    signal: AbortSignal,
    onConnected: () => void = () => {},
  ): Promise<IncomingMessage> {
    const token = path === AUTHENTICATE ? undefined : await this.#authenticated();
    const headers = {
      'Content-Type': 'application/json',
      // A member that has lost the others says so at once, and ends its streams.
      'Grpc-Metadata-Hasleader': 'true',
      ...(token === undefined ? {} : { Authorization: token }),
    };
    return this.#transport.post({ url: `${member}${path}`, headers, body, signal, onConnected });
  }

  /** One token for all requests, until etcd does not take it any more. */
  #authenticated(): Promise<string | undefined> {
    const { user } = this.#endpoint;
    if (!user) return Promise.resolve(undefined);
    const asking = (this.#token ??= this.#authenticate(user));
    asking.catch(() => {
      if (this.#token === asking) this.#token = undefined;
    });
    return asking;
  }

  async #authenticate(user: EtcdUser): Promise<string | undefined> {
    const options = { repeatable: true, accept: [GRPC.failedPrecondition] };
    const { code, items } = await this.exchange(AUTHENTICATE, [user], options);
    // Whoever may do everything needs no name: etcd's authentication is not enabled.
    return code === 0 ? (items[0] as { readonly token: string }).token : undefined;
  }

  #read(
    {
      member,
      path,
      status,
      text,
    }: Omit<Attempt, 'body'> & { readonly status: number; readonly text: string },
    accept: readonly number[],
  ): EtcdAnswer {
    const items = jsonLines(text);
    if (!items) {
      const said = `${path}: ${status} ${quoted(text)}`;
      if (status >= 500 || status === 429) throw new Silence('unknown', said);
      throw this.refused(`what answers is no etcd 3.4 or newer with its JSON gateway (${said})`, member);
    }
    const error = items.map((item) => errorIn(item, status !== 200)).find((found) => found !== undefined);
    if (!error) return { code: GRPC.ok, items };
    if (accept.includes(error.code)) return { code: error.code, items: [] };
    throw this.#failure(error, { member, path });
  }

  #failure(error: GatewayError, { member, path }: Pick<Attempt, 'member' | 'path'>): Error {
    const why = quoted(error.message);
    switch (kindOf(error)) {
      case 'no-leader':
        return new Silence('soon', why);
      case 'token':
        this.#token = undefined;
        return this.#endpoint.user ? new Silence('soon', why) : this.refused(`${path}: ${why}`, member);
      case 'too-large':
        return new VarveError('VALUE_TOO_LARGE', `the coordinator finds it too large: ${path}: ${why}`);
      case 'refused':
        return this.refused(`${path}: ${why}`, member);
      default:
        return new Silence('unknown', why);
    }
  }

  #member(): string {
    const { members } = this.#endpoint;
    return members[this.#current % members.length] ?? '';
  }

  #leave(member: string): void {
    if (this.#member() === member) this.#current += 1;
  }
}

function quoted(text: string): string {
  return text.trim().slice(0, MAX_QUOTED_CHARS);
}
