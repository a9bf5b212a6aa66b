import { once } from 'node:events';
import { readFile, mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Clock, systemClock } from '../core/clock.ts';
import { CertificateAuthority } from '../postgres/certificates.ts';
import { silentLog } from './contract.suite.ts';
import type { Coordinator, CoordinatorLog } from './coordinator.ts';
import { type CoordinatorOptions, openCoordinator } from './open-coordinator.ts';

// Disks and machines that others use as well may be slow.
vi.setConfig({ testTimeout: 60_000 });

/** What a gateway may answer that a healthy one never does. */
type Reply =
  | 'silence'
  | 'hang up'
  /** JSON, one line each; with `open` the answer does not end. */
  | {
      readonly status?: number;
      readonly lines?: readonly unknown[];
      readonly text?: string;
      readonly open?: true;
    };

interface Asked {
  readonly member: number;
  readonly path: string;
  readonly body: string;
  readonly headers: IncomingMessage['headers'];
}

let gateways: Server[] = [];
let asked: Asked[];
/** What each path answers; the last answer for ever. */
let replies: Record<string, Reply[]>;
let coordinators: Coordinator[];

beforeEach(() => {
  gateways = [];
  asked = [];
  replies = {};
  coordinators = [];
});
afterEach(async () => {
  await Promise.all(coordinators.map((coordinator) => coordinator[Symbol.asyncDispose]()));
  for (const gateway of gateways) {
    gateway.close();
    gateway.closeAllConnections();
  }
});

/** The URL of another member; they answer by the same script. */
async function member(): Promise<string> {
  const number = gateways.length;
  const gateway = createServer((request, response) => void answer(number, request, response));
  gateways.push(gateway);
  gateway.listen(0, '127.0.0.1');
  await once(gateway, 'listening');
  return `http://127.0.0.1:${(gateway.address() as AddressInfo).port}`;
}

/** The URL of a member that is down. */
async function deadMember(): Promise<string> {
  const gateway = createServer().listen(0, '127.0.0.1');
  await once(gateway, 'listening');
  const { port } = gateway.address() as AddressInfo;
  await once(gateway.close(), 'close');
  return `http://127.0.0.1:${port}`;
}

async function answer(number: number, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = (await request.setEncoding('utf8').toArray()).join('');
  const path = request.url ?? '';
  asked.push({ member: number, path, body, headers: request.headers });
  const script = replies[path] ?? [];
  const reply = (script.length > 1 ? script.shift() : script[0]) ?? 'silence';
  if (reply === 'silence') return;
  if (reply === 'hang up') {
    request.socket.destroy();
    return;
  }
  response.statusCode = reply.status ?? 200;
  for (const line of reply.lines ?? []) response.write(`${JSON.stringify(line)}\n`);
  if (reply.text !== undefined) response.write(reply.text);
  if (!reply.open) response.end();
}

function open(
  urls: readonly string[],
  options: Partial<CoordinatorOptions> & { readonly log?: CoordinatorLog; readonly clock?: Clock } = {},
): Coordinator {
  const { log = silentLog, clock = systemClock, ...rest } = options;
  const coordinator = openCoordinator(
    { kind: 'etcd', url: urls.join(','), timeoutMs: 2000, minTtlMs: 1, ...rest },
    { clock, log, random: () => 0 },
  );
  coordinators.push(coordinator);
  return coordinator;
}

const base64 = (text: string): string => Buffer.from(text).toString('base64');
const header = (revision = 1, term = 2): object => ({ revision: String(revision), raft_term: String(term) });
const row = (key: string, version: number, value = `${key}@${version}`): object => ({
  key: base64(key),
  value: base64(value),
  mod_revision: String(version),
});
const rows = (revision: number, ...kvs: object[]): Reply => ({
  lines: [{ header: header(revision), ...(kvs.length > 0 ? { kvs, count: String(kvs.length) } : {}) }],
});
const error = (code: number, message: string, status = 500): Reply => ({
  status,
  lines: [{ error: message, message, code }],
});
const done: Reply = { lines: [{ header: header() }] };

describe('a request to etcd', () => {
  test('goes to the next member when one cannot be reached', async () => {
    const urls = [await deadMember(), await deadMember(), await member()];
    replies['/v3/kv/put'] = [done];
    expect(await open(urls).put('a', 'x')).toBe(true);
  });

  test('stays with the member that answered', async () => {
    const c = open([await deadMember(), await member(), await member()]);
    replies['/v3/kv/put'] = [done];
    for (let i = 0; i < 3; i += 1) await c.put('a', 'x');
    expect(asked.map(({ member: number }) => number)).toEqual([0, 0, 0]);
  });

  test('goes to the next member when one has no leader, whatever it is, and waits until there is one', async () => {
    const noLeader = error(14, 'etcdserver: no leader', 503);
    replies['/v3/kv/put'] = [noLeader, noLeader, noLeader, done];
    expect(await open([await member(), await deadMember(), await member()]).put('a', 'x')).toBe(true);
    expect(asked).toHaveLength(4);
    expect(asked[0]?.headers['grpc-metadata-hasleader']).toBe('true');
  });

  test.each<[string, Reply]>([
    ['does not answer', 'silence'],
    ['hangs up', 'hang up'],
    ['gave up waiting for others', error(14, 'etcdserver: request timed out', 503)],
    ['is a proxy before one that is gone', { status: 502, text: '<html>Bad gateway' }],
  ])('that writes is sent once, and one that reads to the next, when a member %s', async (_what, reply) => {
    const c = open([await member(), await member()], { timeoutMs: 400 });
    replies['/v3/kv/put'] = [reply, done];
    await expect(c.put('a', 'x')).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
    expect(asked.map(({ member: number }) => number)).toEqual([0]);
    replies['/v3/kv/range'] = [reply, rows(7, row('a', 7))];
    expect(await c.get('a')).toMatchObject({ version: 7n });
    expect(asked.map(({ member: number }) => number)).toEqual([0, 1, 0]);
  });

  test.each<[string, Reply, string, RegExp]>([
    ['no right', error(7, 'etcdserver: permission denied', 403), 'COORDINATOR_REFUSED', /permission denied/],
    ['no user', error(3, 'etcdserver: user name is empty', 400), 'COORDINATOR_REFUSED', /user name is empty/],
    [
      'a full disk',
      error(8, 'etcdserver: mvcc: database space exceeded', 429),
      'COORDINATOR_UNAVAILABLE',
      /space exceeded/,
    ],
    ['a lower limit', error(3, 'etcdserver: request is too large', 400), 'VALUE_TOO_LARGE', /too large/],
    [
      'etcd 3.6’s way to say it',
      { status: 403, lines: [{ code: 7, message: 'permission denied', details: [] }] },
      'COORDINATOR_REFUSED',
      /permission denied/,
    ],
    ['a web server', { text: '<html>' }, 'COORDINATOR_REFUSED', /no etcd 3\.4/],
    [
      'etcd 3.3, whose gateway is elsewhere',
      { status: 404, text: '404 page not found' },
      'COORDINATOR_REFUSED',
      /no etcd 3\.4/,
    ],
  ])('that meets %s says so, and where', async (_what, reply, code, message) => {
    const url = await member();
    replies['/v3/kv/put'] = [reply];
    await expect(open([url]).put('a', 'x')).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
    expect(asked).toHaveLength(1);
  });

  test.each(['', 'localhost:2379', 'http://a:2379,', 'http://a:2379,ftp://b', 'http://user:secret@a:2379'])(
    'to %j is refused at once',
    (url) => {
      expect(() => open([url])).toThrow(
        expect.objectContaining({
          code: 'INVALID_ARGUMENT',
          message: expect.not.stringContaining('secret') as string,
        }),
      );
    },
  );

  test('brings a token, and a new one when that has expired', async () => {
    const c = open([await member()], { user: { name: 'varve', password: 'secr3t' } });
    replies['/v3/auth/authenticate'] = [{ lines: [{ token: 'one' }] }, { lines: [{ token: 'two' }] }];
    replies['/v3/kv/put'] = [done, error(16, 'etcdserver: invalid auth token', 401), done];
    await Promise.all([c.put('a', '1'), c.put('a', '2')]);
    const tokens = asked
      .filter(({ path }) => path === '/v3/kv/put')
      .map(({ headers }) => headers.authorization);
    expect(tokens).toEqual(['one', 'one', 'two']);
    expect(JSON.parse(asked[0]?.body ?? '')).toEqual({ name: 'varve', password: 'secr3t' });
  });

  test('needs no token where authentication is not enabled', async () => {
    const c = open([await member()], { user: { name: 'varve', password: 'x' } });
    replies['/v3/auth/authenticate'] = [error(9, 'etcdserver: authentication is not enabled', 400)];
    replies['/v3/kv/put'] = [done];
    expect(await c.put('a', '1')).toBe(true);
  });

  test('with a wrong password says so, and not the password', async () => {
    const c = open([await member()], { user: { name: 'varve', password: 'secr3t' } });
    const wrong = 'etcdserver: authentication failed, invalid user ID or password';
    replies['/v3/auth/authenticate'] = [error(3, wrong, 400), { lines: [{ token: 'one' }] }];
    replies['/v3/kv/put'] = [done];
    const refused = await c.put('a', '1').catch((thrown: Error) => thrown);
    expect(refused).toMatchObject({ code: 'COORDINATOR_REFUSED' });
    expect(JSON.stringify(refused)).not.toContain('secr3t');
    expect(await c.put('a', '1')).toBe(true);
  });

  test('reads what is too much for one answer in smaller parts, all of one moment', async () => {
    const c = open([await member()]);
    const tooLarge = error(8, 'grpc: received message larger than max (4778467 vs. 4194304)', 429);
    const more = { lines: [{ header: header(9), kvs: [row('a/1', 3), row('a/2', 4)], more: true }] };
    replies['/v3/kv/range'] = [tooLarge, tooLarge, more, rows(11, row('a/3', 5))];
    expect((await c.list('a/')).map(({ key }) => key)).toEqual(['a/1', 'a/2', 'a/3']);
    const bodies = asked.map(
      ({ body }) => JSON.parse(body) as { key: string; revision?: string; limit: string },
    );
    expect(bodies.map(({ limit }) => limit)).toEqual(['1000', '125', '16', '16']);
    expect(bodies[3]).toMatchObject({ key: base64('a/2\0'), revision: '9' });
  });

  test('begins a list again when what it reads was compacted meanwhile', async () => {
    const c = open([await member()]);
    const compacted = error(11, 'etcdserver: mvcc: required revision has been compacted', 400);
    replies['/v3/kv/range'] = [
      { lines: [{ header: header(9), kvs: [row('a/1', 3)], more: true }] },
      compacted,
      rows(12, row('a/1', 10), row('a/2', 11)),
    ];
    expect((await c.list('a/')).map(({ version }) => version)).toEqual([10n, 11n]);
  });
});

describe('TLS', () => {
  test('trusts the authority it is given and no other, and shows its certificate', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'varve-test-etcd-tls-'));
    const authority = await CertificateAuthority.open(join(folder, 'ca'));
    const pem = async (file: string): Promise<string> => readFile(file, 'utf8');
    const server = await authority.issueServer(['127.0.0.1']);
    const client = await authority.issueClient('varve');
    const subjects: unknown[] = [];
    const gateway = createSecureServer(
      {
        cert: await pem(server.certFile),
        key: await pem(server.keyFile),
        ca: authority.caPem,
        requestCert: true,
        rejectUnauthorized: false,
      },
      (request, response) => {
        subjects.push((request.socket as TLSSocket).getPeerCertificate().subject?.CN);
        response.end(JSON.stringify({ header: header() }));
      },
    );
    gateways.push(gateway);
    gateway.listen(0, '127.0.0.1');
    await once(gateway, 'listening');
    const url = `https://127.0.0.1:${(gateway.address() as AddressInfo).port}`;
    await expect(open([url]).put('a', 'x')).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
    expect(subjects).toEqual([]);
    const own = { cert: await pem(client.certFile), key: await pem(client.keyFile) };
    expect(await open([url], { tls: { ca: authority.caPem, ...own } }).put('a', 'x')).toBe(true);
    expect(subjects).toEqual(['varve']);
    await rm(folder, { recursive: true });
  });
});

describe('a session of etcd', () => {
  const granted = (seconds: number): Reply => ({
    lines: [{ header: header(), ID: '2', TTL: String(seconds) }],
  });
  const alive: Reply = { lines: [{ result: { TTL: '1' } }, { result: { TTL: '1' } }] };
  const confirmed = (term: number): Reply => ({
    lines: [{ header: header(5, term), kvs: [row('~varve/session/x/lock', 5)] }],
  });
  beforeEach(() => {
    replies['/v3/kv/range'] = [confirmed(2)];
    replies['/v3/kv/txn'] = [{ lines: [{ header: header(5, 2), succeeded: true }] }];
    replies['/v3/lease/grant'] = [granted(1)];
    replies['/v3/lease/keepalive'] = [alive];
    replies['/v3/lease/revoke'] = [done];
  });
  const bodiesOf = (wanted: string): unknown[] =>
    asked.filter(({ path }) => path === wanted).map(({ body }) => JSON.parse(body) as unknown);
  const verbs = (): string[] => asked.map(({ path }) => path.replace('/v3/', ''));

  test('has a lease, and one for its guards that lasts longer by the lock delay', async () => {
    replies['/v3/lease/grant'] = [granted(20), granted(25)];
    const session = await open([await member()]).session({
      ttlMs: 19_500,
      name: 'node one',
      lockDelayMs: 4500,
    });
    expect(session.ttlMs).toBe(20_000);
    const lease = BigInt(`0x${session.id}`) << 17n;
    expect(bodiesOf('/v3/lease/grant')).toEqual([
      { ID: String(lease), TTL: '20' },
      { ID: String(lease + 1n), TTL: '25' },
    ]);
    await session.close();
    expect(bodiesOf('/v3/lease/revoke')).toEqual([{ ID: String(lease) }, { ID: String(lease + 1n) }]);
  });

  test('is not taken to be renewed by a leader whom the others no longer follow', async () => {
    const session = await open([await member()], { timeoutMs: 300 }).session({ ttlMs: 1000, name: 'x' });
    const lost = new Promise<void>((resolve) => session.lost.addEventListener('abort', () => resolve()));
    // It renews leases by itself, but cannot confirm a read.
    replies['/v3/kv/range'] = ['silence'];
    await lost;
    expect(verbs()).toContain('lease/keepalive');
  });

  test('moves to leases that a former leader does not know, once there is another', async () => {
    const session = await open([await member()]).session({ ttlMs: 1000, name: 'x' });
    const lease = BigInt(`0x${session.id}`) << 17n;
    await session.renew();
    asked = [];
    replies['/v3/kv/range'] = [confirmed(3)];
    await session.renew();
    const steps = [
      'lease/keepalive',
      'kv/range',
      'lease/grant',
      'lease/grant',
      'kv/txn',
      'lease/revoke',
      'lease/revoke',
    ];
    expect(verbs()).toEqual(steps);
    expect(bodiesOf('/v3/lease/grant').map((body) => (body as { ID: string }).ID)).toEqual(
      [2n, 3n].map((n) => String(lease + n)),
    );
    const moved = (key: string, to: bigint): object => ({
      request_txn: {
        compare: [
          { key: base64(key), target: 'LEASE', result: 'GREATER', lease: String(lease - 1n) },
          { key: base64(key), target: 'LEASE', result: 'LESS', lease: String(to) },
        ],
        success: [{ request_put: { key: base64(key), ignore_value: true, lease: String(to) } }],
      },
    });
    const [own, guard] = ['lock', 'guard'].map((key) => `~varve/session/${session.id}/${key}`);
    expect(bodiesOf('/v3/kv/txn')).toEqual([
      { success: [moved(own ?? '', lease + 2n), moved(guard ?? '', lease + 3n)] },
    ]);
    expect(bodiesOf('/v3/lease/revoke')).toEqual([{ ID: String(lease) }, { ID: String(lease + 1n) }]);
    asked = [];
    await session.renew();
    expect(verbs()).toEqual(['lease/keepalive', 'kv/range']);
    expect(asked[0]?.body).toBe(`{"ID":"${lease + 2n}"}{"ID":"${lease + 3n}"}`);
  });

  test('is not renewed while its keys cannot be moved, and moves them on to yet other leases', async () => {
    const session = await open([await member()]).session({ ttlMs: 5000, name: 'x', lockDelayMs: 0 });
    replies['/v3/kv/range'] = [confirmed(3)];
    replies['/v3/kv/txn'] = [error(14, 'etcdserver: request timed out', 503)];
    const before = session.remainingMs();
    await expect(session.renew()).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
    expect(session.remainingMs()).toBeLessThan(before);
    replies['/v3/kv/txn'] = [done];
    await session.renew();
    const ids = (path: string): number[] =>
      bodiesOf(path).map((body) => Number(BigInt((body as { ID: string }).ID) % 2n ** 17n));
    expect(ids('/v3/lease/grant')).toEqual([0, 2, 4]);
    expect(ids('/v3/lease/revoke')).toEqual([2, 0]);
  });

  test('asks again for a lock that it was granted while it moved', async () => {
    const c = open([await member()], { timeoutMs: 500 });
    const session = await c.session({ ttlMs: 20_000, name: 'x' });
    asked = [];
    replies['/v3/kv/txn'] = ['silence'];
    const waiting = c.lock('key', session, { owner: 'x' });
    while (asked.length === 0) await systemClock.sleep(5);
    replies['/v3/kv/range'] = [confirmed(3)];
    const number = BigInt(`0x${session.id}`) << 17n;
    const late = { ...row('key', 8), create_revision: '8', lease: String(number + 2n) };
    replies['/v3/kv/txn'] = [
      done,
      { lines: [{ header: header(9), responses: [{ response_range: { kvs: [late] } }] }] },
    ];
    await session.renew();
    expect((await waiting).token).toBe(8n);
  });

  test.each<[string, Reply, Reply]>([
    ['its lease', { lines: [{ result: {} }, { result: { TTL: '1' } }] }, confirmed(2)],
    ['the lease of its guards', { lines: [{ result: { TTL: '1' } }, { result: {} }] }, confirmed(2)],
    ['its key', alive, rows(9)],
  ])('is lost with %s', async (_what, keepAlive, reading) => {
    const session = await open([await member()]).session({ ttlMs: 1000, name: 'x' });
    replies['/v3/lease/keepalive'] = [keepAlive];
    replies['/v3/kv/range'] = [reading];
    await expect(session.renew()).rejects.toMatchObject({ code: 'SESSION_LOST' });
    expect(session.lost.aborted).toBe(true);
  });

  test('is what etcd grants, when that is more than was asked for, and says so', async () => {
    const warnings: string[] = [];
    const log = { ...silentLog, warn: (_: object, message: string) => void warnings.push(message) };
    replies['/v3/lease/grant'] = [granted(8), granted(13)];
    const session = await open([await member()], { log }).session({ ttlMs: 2000, name: 'x' });
    expect(session.ttlMs).toBe(8000);
    expect(bodiesOf('/v3/lease/grant')).toMatchObject([{ TTL: '2' }, { TTL: '13' }]);
    expect(warnings).toEqual([expect.stringContaining('8000 ms')]);
  });

  test('that another kind of coordinator gave needs no ending', async () => {
    await open([await member()]).endSession('0b6a1b0e-5b0e-4f0e-9b0e-0b6a1b0e5b0e');
    expect(asked).toEqual([]);
  });
});

describe('a watch of etcd', () => {
  /** A minute is a tenth of a second. */
  const fast: Clock = { ...systemClock, sleep: (ms, signal) => systemClock.sleep(ms / 600, signal) };
  const created = { result: { header: header(), created: true } };
  const put = (...kvs: object[]): object => ({
    result: { header: header(), events: kvs.map((kv) => ({ kv })) },
  });

  async function watched(c: Coordinator, count: number): Promise<string[]> {
    const seen: string[] = [];
    for await (const entries of c.watch('a', AbortSignal.timeout(20_000))) {
      seen.push(entries.map(({ value }) => value.toString()).join());
      if (seen.length === count) break;
    }
    return seen;
  }

  test('begins anew when etcd has forgotten what followed, and shows a state once', async () => {
    replies['/v3/kv/range'] = [rows(7, row('a', 7)), rows(20, row('a', 7)), rows(30, row('a', 21))];
    const compacted = { result: { header: header(), canceled: true, compact_revision: '15' } };
    replies['/v3/watch'] = [
      { lines: [created, compacted] },
      { lines: [created, compacted] },
      { lines: [created], open: true },
    ];
    expect(await watched(open([await member()]), 2)).toEqual(['a@7', 'a@21']);
    const from = asked
      .filter(({ path }) => path === '/v3/watch')
      .slice(0, 2)
      .map(({ body }) => JSON.parse(body) as object);
    expect(from).toMatchObject([8, 21].map((n) => ({ create_request: { start_revision: String(n) } })));
  });

  test('begins anew at the next member when its stream ends', async () => {
    replies['/v3/kv/range'] = [rows(7, row('a', 7)), rows(9, row('a', 9))];
    replies['/v3/watch'] = [{ lines: [created] }, { lines: [created], open: true }];
    expect(await watched(open([await member(), await member()]), 2)).toEqual(['a@7', 'a@9']);
    expect(asked.slice(0, 3).map(({ member: number }) => number)).toEqual([0, 0, 1]);
  });

  test('notices that its stream is silent while the store changes', async () => {
    const c = open([await member()], { clock: fast });
    replies['/v3/watch'] = [{ lines: [created], open: true }];
    replies['/v3/kv/range'] = [rows(7, row('a', 7)), rows(8, row('a', 7)), rows(12, row('a', 12))];
    expect(await watched(c, 2)).toEqual(['a@7', 'a@12']);
  });

  test('shows the changes of one revision together', async () => {
    replies['/v3/kv/range'] = [rows(7)];
    replies['/v3/watch'] = [{ lines: [created, put(row('a/1', 8), row('a/2', 8))], open: true }];
    const seen = await watched(open([await member()]), 1);
    expect(['', 'a/1@8,a/2@8']).toContain(seen[0]);
    const all = await watched(open([await member()]), seen[0] === '' ? 2 : 1);
    expect(all).not.toContain('a/1@8');
  });

  test('tells when the store has become older, as after the restoring of a copy, and shows what it has', async () => {
    const warnings: string[] = [];
    const log = { ...silentLog, warn: (_: object, message: string) => void warnings.push(message) };
    replies['/v3/kv/range'] = [rows(20, row('a', 20)), rows(5, row('a', 5))];
    replies['/v3/watch'] = [{ lines: [created] }, { lines: [created], open: true }];
    expect(await watched(open([await member()], { log }), 2)).toEqual(['a@20', 'a@5']);
    expect(warnings).toContainEqual(expect.stringContaining('older than it was'));
  });

  test('ends with an error when it is not allowed to read', async () => {
    replies['/v3/kv/range'] = [error(7, 'etcdserver: permission denied', 403)];
    await expect(watched(open([await member()]), 1)).rejects.toMatchObject({ code: 'COORDINATOR_REFUSED' });
  });
});

test('what others wrote among the services is left out, and told', async () => {
  const warnings: object[] = [];
  const log = { ...silentLog, warn: (fields: object) => void warnings.push(fields) };
  const record = JSON.stringify({ id: 'one', name: 'x', address: '127.0.0.1', port: 1 });
  replies['/v3/kv/range'] = [
    rows(
      9,
      row('~varve/service/x/one/record', 5, record),
      row('~varve/service/x/one/status', 5, 'passing'),
      row('~varve/service/x/two/record', 6, '{"id":"two"}'),
      row('~varve/service/x/three/record', 7, 'by hand'),
      row('~varve/service/x/one/notes', 8, record),
    ),
  ];
  const found = await open([await member()], { log }).services('x');
  expect(found).toEqual([
    { id: 'one', name: 'x', address: '127.0.0.1', port: 1, tags: [], meta: {}, status: 'critical' },
  ]);
  expect(warnings).toEqual([
    { key: '~varve/service/x/two/record' },
    { key: '~varve/service/x/three/record' },
  ]);
});
