import { VarveError } from '../core/errors.ts';
import {
  ABSENT,
  type Comparison,
  type CoordinatorBounds,
  type Entry,
  type Operation,
  type TxnResult,
  type Value,
  type Version,
  type WriteOptions,
} from './coordinator.ts';
import { GRPC } from './etcd-answer.ts';
import type { EtcdHttp } from './etcd-http.ts';
import { base64, type KeyRange, rangeJson, rangeOfPrefix } from './etcd-keys.ts';
import { sessionIdOf } from './etcd-leases.ts';
import { netOperations } from './etcd-operations.ts';
import { checkKey } from './key.ts';

/** Fields that are 0, empty or false are left out; 64-bit numbers are text. */
export interface HeaderJson {
  readonly revision: string;
  readonly raft_term: string;
}

export interface RowJson {
  readonly key: string;
  readonly value?: string;
  readonly create_revision?: string;
  readonly mod_revision: string;
  readonly lease?: string;
}

interface RangeJson {
  readonly header: HeaderJson;
  readonly kvs?: readonly RowJson[];
  readonly more?: boolean;
  readonly count?: string;
}

export interface TxnJson {
  readonly header: HeaderJson;
  readonly succeeded?: boolean;
  readonly responses?: readonly { readonly response_range?: Omit<RangeJson, 'header'> }[];
}

export interface Row {
  readonly key: string;
  readonly value: Buffer;
  /** Of the change that made it; those after leave it. */
  readonly created: Version;
  readonly version: Version;
  /** 0 when it is attached to none. */
  readonly lease: bigint;
}

export interface Reading {
  /** Of the store, when it was read. */
  readonly revision: Version;
  /** Of the leader whom a majority then followed. */
  readonly term: bigint;
  readonly rows: readonly Row[];
}

export interface ReadOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

/** Before 3.4.16 the gateway passes no answer above 4 MiB: then fewer are asked for at a time. */
const PAGE_KEYS = 1000;

/** etcd's key-value store behind the contract's verbs. */
export class EtcdKv {
  readonly #http: EtcdHttp;
  readonly #bounds: CoordinatorBounds;

  constructor(http: EtcdHttp, bounds: CoordinatorBounds) {
    this.#http = http;
    this.#bounds = bounds;
  }

  async get(key: string): Promise<Entry | undefined> {
    checkKey(key);
    const { rows } = await this.read({ key });
    return rows[0] && entryOf(rows[0]);
  }

  async list(prefix: string): Promise<readonly Entry[]> {
    const { rows } = await this.read(rangeOfPrefix(prefix));
    return rows.map(entryOf);
  }

  /** All rows of one moment, in the order of their keys, as a majority of the members confirms them. */
  async read(range: KeyRange, options: ReadOptions = {}): Promise<Reading> {
    let limit = PAGE_KEYS;
    for (;;) {
      try {
        const reading = await this.#pages(range, limit, options);
        if (reading) return reading;
      } catch (error) {
        if (!(error instanceof VarveError) || error.code !== 'VALUE_TOO_LARGE' || limit === 1) throw error;
        limit = Math.ceil(limit / 8);
      }
    }
  }

  /** What a range has without its values: how many rows, and the version of the newest. */
  async summary(
    range: KeyRange,
    options: ReadOptions,
  ): Promise<{ readonly revision: Version; readonly count: number; readonly newest: Version }> {
    const newest = { limit: '1', sort_order: 'DESCEND', sort_target: 'MOD', keys_only: true };
    const answer = await this.#http.request<RangeJson>(
      '/v3/kv/range',
      { ...rangeJson(range), ...newest },
      { ...options, repeatable: true },
    );
    return {
      revision: BigInt(answer.header.revision),
      count: Number(answer.count ?? 0),
      newest: BigInt(answer.kvs?.[0]?.mod_revision ?? 0),
    };
  }

  async put(key: string, value: Value, { ifVersion }: WriteOptions): Promise<boolean> {
    checkKey(key);
    const size = Buffer.byteLength(value);
    this.#checkSize(`the value of ${key}`, size, this.#bounds.maxValueBytes);
    if (ifVersion === undefined) {
      await this.#http.request('/v3/kv/put', { key: base64(key), value: base64(value) });
      return true;
    }
    const { succeeded } = await this.send({
      compare: [versionIs(key, ifVersion)],
      success: [putOf(key, value)],
    });
    return succeeded === true;
  }

  async delete(key: string, { ifVersion }: WriteOptions): Promise<boolean> {
    checkKey(key);
    const compare = ifVersion === undefined ? [] : [versionIs(key, ifVersion)];
    const answer = await this.send({
      compare,
      success: [deletionOf({ key })],
      failure: [rowOf(key)],
    });
    return answer.succeeded === true || rowsAt(answer, 0).length === 0;
  }

  async txn(compare: readonly Comparison[], operations: readonly Operation[]): Promise<TxnResult> {
    this.#checkSize(
      'the number of operations',
      compare.length + operations.length,
      this.#bounds.maxTxnOperations,
    );
    for (const operation of operations) {
      if (operation.kind === 'delete-prefix') continue;
      checkKey(operation.key);
      if (operation.kind !== 'put') continue;
      const size = Buffer.byteLength(operation.value);
      this.#checkSize(`the value of ${operation.key}`, size, this.#bounds.maxValueBytes);
    }
    const expected = compare.map(expectationOf);
    const { puts, deletions } = netOperations(operations);
    const answer = await this.send(
      {
        compare: expected.flatMap((expectation) => expectation.compare),
        success: [...deletions.map(deletionOf), ...[...puts].map(([key, value]) => putOf(key, value))],
        failure: expected.map(({ key }) => rowOf(key)),
      },
      { limited: true },
    );
    if (answer.succeeded) {
      const version = BigInt(answer.header.revision);
      return { committed: true, versions: new Map([...puts.keys()].map((key) => [key, version])) };
    }
    const failed = expected.flatMap(({ holds }, at) => (holds(rowsAt(answer, at)[0]) ? [] : [at]));
    return { committed: false, failed };
  }

  /**
   * A transaction of etcd's own.
   * @throws VALUE_TOO_LARGE before it is sent, when it is `limited`
   */
  async send(body: object, { limited = false }: { readonly limited?: boolean } = {}): Promise<TxnJson> {
    if (limited) this.#checkSize('the transaction', JSON.stringify(body).length, this.#bounds.maxTxnBytes);
    return this.#http.request<TxnJson>('/v3/kv/txn', body);
  }

  /** Undefined when what it has begun to read was compacted meanwhile. */
  async #pages(range: KeyRange, limit: number, options: ReadOptions): Promise<Reading | undefined> {
    const rows: Row[] = [];
    let header: HeaderJson | undefined;
    let from = range;
    for (;;) {
      const at = header ? { revision: header.revision } : {};
      const body = { ...rangeJson(from), ...at, limit: String(limit) };
      const accepted = { ...options, repeatable: true, accept: [GRPC.outOfRange] };
      const { code, items } = await this.#http.exchange('/v3/kv/range', [body], accepted);
      if (code !== GRPC.ok) return undefined;
      const page = items[0] as RangeJson;
      header ??= page.header;
      rows.push(...(page.kvs ?? []).map(rowFrom));
      const last = rows.at(-1);
      if (!page.more || !last) {
        return { revision: BigInt(header.revision), term: BigInt(header.raft_term), rows };
      }
      from = { ...range, key: `${last.key}\0` };
    }
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

export function rowFrom({ key, value = '', create_revision = '0', mod_revision, lease = '0' }: RowJson): Row {
  return {
    key: Buffer.from(key, 'base64').toString(),
    value: Buffer.from(value, 'base64'),
    created: BigInt(create_revision),
    version: BigInt(mod_revision),
    lease: BigInt(lease),
  };
}

export function entryOf({ key, value, version, lease }: Row): Entry {
  return { key, value, version, holder: lease === 0n ? undefined : sessionIdOf(lease) };
}

/** Of the operation at that position, which was to read. */
export function rowsAt({ responses }: TxnJson, position: number): readonly Row[] {
  return (responses?.[position]?.response_range?.kvs ?? []).map(rowFrom);
}

/** A key that does not exist has version 0 there as well. */
export function versionIs(key: string, version: Version): object {
  return { key: base64(key), target: 'MOD', result: 'EQUAL', mod_revision: String(version) };
}

/** Created by the change of that revision, and not deleted since. */
export function createdAt(key: string, revision: Version): object {
  return { key: base64(key), target: 'CREATE', result: 'EQUAL', create_revision: String(revision) };
}

/** A plain write takes a key from its lease. */
export function isLeased(key: string): object {
  return { key: base64(key), target: 'LEASE', result: 'GREATER', lease: '0' };
}

export function rowOf(key: string): object {
  return { request_range: { key: base64(key) } };
}

export function putOf(key: string, value: Value, lease?: bigint): object {
  const attached = lease === undefined ? {} : { lease: String(lease) };
  return { request_put: { key: base64(key), value: base64(value), ...attached } };
}

export function deletionOf(range: KeyRange): object {
  return { request_delete_range: rangeJson(range) };
}

interface Expectation {
  readonly key: string;
  readonly compare: readonly object[];
  /** Of the key as it was found instead. */
  readonly holds: (row: Row | undefined) => boolean;
}

function expectationOf(comparison: Comparison): Expectation {
  const { key } = comparison;
  checkKey(key);
  if (comparison.kind === 'held') {
    const { token } = comparison;
    return {
      key,
      compare: [createdAt(key, token), isLeased(key)],
      holds: (row) => row !== undefined && row.created === token && row.lease !== 0n,
    };
  }
  const version = comparison.kind === 'absent' ? ABSENT : comparison.version;
  return { key, compare: [versionIs(key, version)], holds: (row) => (row?.version ?? ABSENT) === version };
}
