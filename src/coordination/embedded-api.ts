import type { KvError } from './embedded-kv.ts';
import type { EmbeddedStore, Outcome, StoreCommand } from './embedded-store.ts';

/** What a route is given. */
export interface ApiRequest {
  /** What follows the route's own path, decoded: a key, an id. */
  readonly rest: string;
  readonly query: URLSearchParams;
  readonly body: Buffer;
  /** Fires when the client went away or the server closes. */
  readonly signal: AbortSignal;
}

/** What a route answers. With `index` it is a reading that a client may block on. */
export interface ApiReply {
  readonly status: number;
  readonly json?: unknown;
  readonly text?: string;
  readonly raw?: Buffer;
  readonly index?: number;
}

export type Route = (api: Api, request: ApiRequest) => ApiReply | Promise<ApiReply>;

/** What the server lends to its routes. */
export interface Api {
  readonly store: EmbeddedStore;
  readonly node: string;
  readonly address: () => string;
  readonly minTtlMs: number;
  readonly nowMs: () => number;
  /** Applies the command and has it logged, or says why the time forbids it. The reply waits for the log. */
  readonly submit: (command: StoreCommand) => Outcome | readonly KvError[];
  /** Resolves when a topic that `matches` changes, after `waitMs`, or when the signal fires. */
  readonly change: (
    matches: (topic: string) => boolean,
    waitMs: number,
    signal: AbortSignal,
  ) => Promise<void>;
  readonly newId: () => string;
}

/** As Consul 1.10 has them. */
export const MAX_VALUE_BYTES = 512 * 1024;
export const MAX_TXN_BYTES = 512 * 1024;
export const MAX_TXN_OPERATIONS = 64;
export const MAX_TTL_MS = 24 * 60 * 60 * 1000;
export const MAX_LOCK_DELAY_MS = 60_000;
export const DEFAULT_LOCK_DELAY_MS = 15_000;

export function refused(outcome: Outcome | readonly KvError[]): outcome is readonly KvError[] {
  return Array.isArray(outcome);
}

/** A request that is wrong in itself; the text is the reply. */
export class BadRequest extends Error {
  readonly status: number;

  constructor(text: string, status = 400) {
    super(text);
    this.status = status;
  }
}

/** @throws BadRequest */
export function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8')) as unknown;
  } catch (error) {
    throw new BadRequest(`Request decode failed: ${(error as Error).message}`);
  }
}
