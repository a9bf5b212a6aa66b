import * as z from 'zod';
import {
  type Api,
  type ApiReply,
  type ApiRequest,
  BadRequest,
  MAX_TXN_BYTES,
  MAX_TXN_OPERATIONS,
  MAX_VALUE_BYTES,
  parseJson,
  refused,
} from './embedded-api.ts';
import { KV_VERBS, type KvOperation, type KvRow, rowsUnder } from './embedded-kv.ts';
import { readBlocking } from './embedded-blocking.ts';
import { kvTopic } from './embedded-store.ts';

/** `GET /v1/kv/KEY` with `recurse`, `keys`, `raw`, and the blocking parameters. */
export async function getKv(api: Api, request: ApiRequest): Promise<ApiReply> {
  const { rest, query } = request;
  const many = query.has('recurse') || query.has('keys');
  if (!many && rest === '') throw new BadRequest('Missing key name');
  const topic = kvTopic(rest);
  await readBlocking(api, request, (changed) => (many ? changed.startsWith(topic) : changed === topic));
  const index = api.store.index;
  if (query.has('keys')) {
    const keys = keysUnder(api.store.rows.values(), rest, query.get('separator') ?? '');
    return keys.length === 0 && rest !== '' ? { status: 404, index } : { status: 200, json: keys, index };
  }
  const one = api.store.rows.get(rest);
  const rows = many ? rowsUnder(api.store.rows.values(), rest) : one ? [one] : [];
  if (rows.length === 0) return { status: 404, index };
  if (query.has('raw') && one && !many) return { status: 200, raw: Buffer.from(one.value, 'base64'), index };
  return { status: 200, json: rows.map((row) => rowJson(row, true)), index };
}

/** `PUT /v1/kv/KEY` with `cas`, `acquire`, `release`, `flags`. */
export function putKv(api: Api, { rest, query, body }: ApiRequest): ApiReply {
  oneOf(query, ['cas', 'acquire', 'release']);
  if (rest === '') throw new BadRequest('Missing key name');
  if (body.length > MAX_VALUE_BYTES) {
    throw new BadRequest(
      `Request body(${body.length} bytes) too large, max size: ${MAX_VALUE_BYTES} bytes.`,
      413,
    );
  }
  const common = { key: rest, value: body.toString('base64'), flags: whole(query, 'flags') };
  const session = query.get('acquire') ?? query.get('release') ?? '';
  if (query.has('cas')) return single(api, { verb: 'cas', ...common, index: whole(query, 'cas') });
  if (query.has('acquire')) return single(api, { verb: 'lock', ...common, session });
  if (query.has('release')) return single(api, { verb: 'unlock', ...common, session });
  return single(api, { verb: 'set', ...common });
}

/** `DELETE /v1/kv/KEY` with `recurse`, `cas`. */
export function deleteKv(api: Api, { rest, query }: ApiRequest): ApiReply {
  oneOf(query, ['recurse', 'cas']);
  if (query.has('recurse')) return single(api, { verb: 'delete-tree', key: rest });
  if (rest === '') throw new BadRequest('Missing key name');
  if (query.has('cas')) return single(api, { verb: 'delete-cas', key: rest, index: whole(query, 'cas') });
  return single(api, { verb: 'delete', key: rest });
}

const txnShape = z.array(
  z.object({
    KV: z.object({
      Verb: z.enum(KV_VERBS),
      Key: z.string(),
      Value: z.base64().nullish(),
      Flags: z.int().nonnegative().nullish(),
      Session: z.string().nullish(),
      Index: z.int().nonnegative().nullish(),
    }),
  }),
);

/** `PUT /v1/txn`: 200 with `Results`, or 409 with `Errors` and nothing done. */
export function putTxn(api: Api, { body }: ApiRequest): ApiReply {
  if (body.length > MAX_TXN_BYTES) {
    throw new BadRequest(`Request body too large, max size: ${MAX_TXN_BYTES} bytes`, 413);
  }
  const parsed = txnShape.safeParse(parseJson(body));
  if (!parsed.success) throw new BadRequest(`Failed to parse body: ${z.prettifyError(parsed.error)}`);
  const count = parsed.data.length;
  if (count > MAX_TXN_OPERATIONS) {
    throw new BadRequest(`Transaction contains too many operations (${count} > ${MAX_TXN_OPERATIONS})`, 413);
  }
  const operations = parsed.data.map(({ KV }): KvOperation => ({
    verb: KV.Verb,
    key: KV.Key,
    value: KV.Value ?? '',
    flags: KV.Flags ?? 0,
    session: KV.Session ?? '',
    index: KV.Index ?? 0,
  }));
  const outcome = api.submit({ kind: 'kv', operations });
  const errors = refused(outcome) ? outcome : outcome.kv.errors;
  if (errors.length > 0 || refused(outcome)) {
    const Errors = errors.map(({ opIndex, what }) => ({ OpIndex: opIndex, What: what }));
    return { status: 409, json: { Results: null, Errors } };
  }
  const Results = outcome.kv.results.map(({ row, withValue }) => ({ KV: rowJson(row, withValue) }));
  return { status: 200, json: { Results, Errors: null } };
}

/** One operation: whether it happened, as `true` or `false`. */
function single(api: Api, operation: KvOperation): ApiReply {
  const outcome = api.submit({ kind: 'kv', operations: [operation] });
  const errors = refused(outcome) ? outcome : outcome.kv.errors;
  const wrong = errors.find(({ what }) => /^(?:invalid|missing) session/.test(what));
  if (wrong) return { status: 500, text: wrong.what };
  return { status: 200, json: errors.length === 0 };
}

function oneOf(query: URLSearchParams, names: readonly string[]): void {
  if (names.filter((name) => query.has(name)).length > 1)
    throw new BadRequest(`Conflicting flags: ${query.toString()}`);
}

function whole(query: URLSearchParams, name: string): number {
  const text = query.get(name) ?? '0';
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new BadRequest(`Invalid ${name}: ${text}`);
  return value;
}

function keysUnder(rows: Iterable<KvRow>, prefix: string, separator: string): string[] {
  const keys = rowsUnder(rows, prefix).map(({ key }) => {
    const end = separator === '' ? -1 : key.indexOf(separator, prefix.length);
    return end === -1 ? key : key.slice(0, end + separator.length);
  });
  return [...new Set(keys)];
}

function rowJson(row: KvRow, withValue: boolean): object {
  return {
    LockIndex: row.lockIndex,
    Key: row.key,
    Flags: row.flags,
    Value: withValue && row.value !== '' ? row.value : null,
    ...(row.session === '' ? {} : { Session: row.session }),
    CreateIndex: row.createIndex,
    ModifyIndex: row.modifyIndex,
  };
}
