import { VarveError } from '../core/errors.ts';
import type { ConsulAnswer, ConsulHttp } from './consul-http.ts';
import {
  ABSENT,
  type Comparison,
  type CoordinatorBounds,
  type Entry,
  type Operation,
  type TxnResult,
  type Value,
  type WriteOptions,
} from './coordinator.ts';
import { checkKey, checkPrefix } from './key.ts';

interface KvJson {
  readonly Key: string;
  readonly Value?: string | null;
  readonly ModifyIndex: number;
  readonly Session?: string;
}

export interface TxnJson {
  readonly Results: readonly { readonly KV?: KvJson }[] | null;
  readonly Errors: readonly { readonly OpIndex: number; readonly What: string }[] | null;
}

interface TxnOperationJson {
  readonly Verb: string;
  readonly Key: string;
  readonly Value?: string;
  readonly Index?: number;
}

export interface ReadOptions {
  /** Blocks until something changed after it; 0 does not. */
  readonly index: number;
  readonly waitMs: number;
  readonly signal: AbortSignal;
}

export interface Reading {
  readonly index: number;
  readonly entries: readonly Entry[];
}

/** Consul's key-value store behind the contract's verbs. */
export class ConsulKv {
  readonly #http: ConsulHttp;
  readonly #bounds: CoordinatorBounds;

  constructor(http: ConsulHttp, bounds: CoordinatorBounds) {
    this.#http = http;
    this.#bounds = bounds;
  }

  async get(key: string): Promise<Entry | undefined> {
    checkKey(key);
    const answer = await this.#http.request('GET', kvPath(key), {
      query: { consistent: '' },
      accept: [404],
    });
    return this.#entries(answer)[0];
  }

  async list(prefix: string): Promise<readonly Entry[]> {
    checkPrefix(prefix);
    const query = { recurse: '', consistent: '' };
    return this.#entries(await this.#http.request('GET', kvPath(prefix), { query, accept: [404] }));
  }

  /** The reading that a watch is made of: the newest state at once, or the next after `index`. */
  async read(at: { key: string } | { prefix: string }, options: ReadOptions): Promise<Reading> {
    const many = 'prefix' in at;
    const { index, waitMs, signal } = options;
    const answer = await this.#http.request('GET', kvPath(many ? at.prefix : at.key), {
      query: { ...(many ? { recurse: '' } : {}), ...indexQuery(index) },
      signal,
      accept: [404],
      ...(index === 0 ? {} : { waitMs }),
    });
    return { index: answer.index, entries: this.#entries(answer) };
  }

  async put(key: string, value: Value, { ifVersion }: WriteOptions): Promise<boolean> {
    checkKey(key);
    const body = Buffer.from(value);
    this.#checkSize(`the value of ${key}`, body.length, this.#bounds.maxValueBytes);
    const query: Record<string, string> = ifVersion === undefined ? {} : { cas: String(ifVersion) };
    return this.#happened(await this.#http.request('PUT', kvPath(key), { body, query }));
  }

  async delete(key: string, { ifVersion }: WriteOptions): Promise<boolean> {
    checkKey(key);
    const query: Record<string, string> = ifVersion === undefined ? {} : { cas: String(ifVersion) };
    return this.#happened(await this.#http.request('DELETE', kvPath(key), { query }));
  }

  async txn(compare: readonly Comparison[], operations: readonly Operation[]): Promise<TxnResult> {
    const parts = [...compare.map(comparisonJson), ...operations.map((op) => this.#operationJson(op))];
    if (parts.length === 0) return { committed: true, versions: new Map() };
    this.#checkSize('the number of operations', parts.length, this.#bounds.maxTxnOperations);
    const { Results, Errors } = await this.send(parts);
    if (Errors && Errors.length > 0) {
      const failed = Errors.map(({ OpIndex }) => OpIndex).sort((a, b) => a - b);
      const other = Errors.find(({ OpIndex }) => OpIndex >= compare.length);
      if (other && failed.every((position) => position >= compare.length)) {
        throw this.#http.unavailable(`a transaction failed: ${other.What}`);
      }
      return { committed: false, failed: [...new Set(failed)].filter((at) => at < compare.length) };
    }
    const put = new Set(operations.flatMap((op) => (op.kind === 'put' ? [op.key] : [])));
    const rows = (Results ?? []).flatMap(({ KV }) => (KV && put.has(KV.Key) ? [KV] : []));
    return { committed: true, versions: new Map(rows.map((row) => [row.Key, BigInt(row.ModifyIndex)])) };
  }

  /** A transaction of Consul's own verbs. */
  async send(
    operations: readonly (TxnOperationJson & { readonly Session?: string })[],
    signal?: AbortSignal,
  ): Promise<TxnJson> {
    const body = JSON.stringify(operations.map((KV) => ({ KV })));
    this.#checkSize('the transaction', Buffer.byteLength(body), this.#bounds.maxTxnBytes);
    const answer = await this.#http.request('PUT', '/v1/txn', {
      body,
      accept: [409],
      ...(signal ? { signal } : {}),
    });
    return this.#http.parse<TxnJson>(answer);
  }

  #operationJson(operation: Operation): TxnOperationJson {
    if (operation.kind === 'delete-prefix') {
      checkPrefix(operation.prefix);
      return { Verb: 'delete-tree', Key: operation.prefix };
    }
    checkKey(operation.key);
    if (operation.kind === 'delete') return { Verb: 'delete', Key: operation.key };
    const value = Buffer.from(operation.value);
    this.#checkSize(`the value of ${operation.key}`, value.length, this.#bounds.maxValueBytes);
    return { Verb: 'set', Key: operation.key, Value: value.toString('base64') };
  }

  #entries(answer: ConsulAnswer): Entry[] {
    if (answer.index === 0) throw this.#http.refused('what answers has no index and is no coordinator');
    if (answer.status === 404) return [];
    return this.#http.parse<readonly KvJson[]>(answer).map((row) => ({
      key: row.Key,
      value: Buffer.from(row.Value ?? '', 'base64'),
      version: BigInt(row.ModifyIndex),
      holder: row.Session === '' ? undefined : row.Session,
    }));
  }

  #happened(answer: ConsulAnswer): boolean {
    return this.#http.parse<unknown>(answer) === true;
  }

  #checkSize(what: string, size: number, limit: number): void {
    if (size <= limit) return;
    throw new VarveError(
      'VALUE_TOO_LARGE',
      `${what} is ${size}, and the coordinator takes at most ${limit}`,
      {
        hint: 'Nothing was written. Store less under one key, or in several steps.',
      },
    );
  }
}

/** `index` of a blocking query; without one the newest state, confirmed by a majority. */
export function indexQuery(index: number): Record<string, string> {
  return index === 0 ? { consistent: '' } : { index: String(index) };
}

function kvPath(key: string): string {
  return `/v1/kv/${key}`;
}

function comparisonJson(comparison: Comparison): TxnOperationJson {
  checkKey(comparison.key);
  switch (comparison.kind) {
    case 'version':
      if (comparison.version === ABSENT) return { Verb: 'check-not-exists', Key: comparison.key };
      return { Verb: 'check-index', Key: comparison.key, Index: Number(comparison.version) };
    case 'absent':
      return { Verb: 'check-not-exists', Key: comparison.key };
    default:
      // The token is the index of the change that granted the lock: release, loss and any write by somebody
      // else give the key another one.
      return { Verb: 'check-index', Key: comparison.key, Index: Number(comparison.token) };
  }
}
