import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { CertificateAuthority } from '../postgres/certificates.ts';
import { silentLog } from './contract.suite.ts';
import { type Coordinator, type Entry, held, type Lock } from './coordinator.ts';
import { ETCD_TEST_MIN_TTL_MS, EtcdServers, findEtcd, skipWithoutEtcd } from './etcd-process.suite.ts';
import { type CoordinatorOptions, openCoordinator } from './open-coordinator.ts';
import { TcpProxy } from './tcp-proxy.suite.ts';

const etcd = findEtcd();
const deps = { clock: systemClock, log: silentLog };
const base64 = (text: string): string => Buffer.from(text).toString('base64');

function open(urls: readonly string[], options: Partial<CoordinatorOptions> = {}): Coordinator {
  const minTtlMs = ETCD_TEST_MIN_TTL_MS;
  return openCoordinator({ kind: 'etcd', url: urls.join(), timeoutMs: 5000, minTtlMs, ...options }, deps);
}

async function eventually<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if ((error as { code?: string }).code !== 'COORDINATOR_UNAVAILABLE') throw error;
      await systemClock.sleep(50);
    }
  }
}

const lostOf = ({ lost }: { readonly lost: AbortSignal }): Promise<unknown> =>
  lost.aborted ? Promise.resolve() : once(lost, 'abort');

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await systemClock.sleep(30);
}

if (etcd === undefined) {
  skipWithoutEtcd('etcd that fails, that asks who one is, and that forgets');
} else {
  // Real time, on machines that do other things as well.
  describe('one etcd', { timeout: 60_000 }, () => {
    let servers: EtcdServers;
    beforeAll(async () => {
      servers = await EtcdServers.start(etcd, 1);
    }, 60_000);
    afterAll(() => servers[Symbol.asyncDispose]());

    test('a holder whose etcd was away for longer than its TTL has lost the lock before anybody else has it', async () => {
      await using before = open(servers.urls);
      await using after = open(servers.urls);
      const session = await before.session({ ttlMs: 1000, name: 'before', lockDelayMs: 0 });
      const lock = await before.lock('away/lock', session, { owner: 'before' });
      const next = await after.session({ ttlMs: 20_000, name: 'after' });
      const order: string[] = [];
      const lost = lostOf(session).then(() => order.push('lost'));
      await servers.kill(0);
      await lost;
      await servers.start(0);
      const write = (by: Lock): Promise<boolean> =>
        after
          .txn([held(by)], [{ kind: 'put', key: 'away/state', value: 'x' }])
          .then(({ committed }) => committed);
      const second = await after.lock('away/lock', next, { owner: 'after', waitMs: 30_000 });
      order.push('granted');
      expect(order).toEqual(['lost', 'granted']);
      expect(second.token).toBeGreaterThan(lock.token);
      expect(await write(lock)).toBe(false);
      expect(await write(second)).toBe(true);
    });

    test('a session outlives a crash of etcd that is shorter than its TTL, with its lock', async () => {
      await using c = open(servers.urls);
      const session = await c.session({ ttlMs: 6000, name: 'x' });
      const lock = await c.lock('crash/lock', session, { owner: 'x' });
      await servers.kill(0);
      await servers.start(0);
      await eventually(() => session.renew());
      expect(await c.txn([held(lock)], [])).toMatchObject({ committed: true });
      expect(session.lost.aborted).toBe(false);
    });

    test('a watch that was cut off while etcd forgot the past shows the present', async () => {
      await using direct = open(servers.urls);
      await using proxy = await TcpProxy.start(servers.urls[0] ?? '');
      await using c = open([proxy.url]);
      await direct.put('past/a', 'first');
      const stop = new AbortController();
      const watch = c.watch('past/', stop.signal)[Symbol.asyncIterator]();
      const values = async (): Promise<string> => {
        const { value: entries } = (await watch.next()) as { value: readonly Entry[] };
        return entries.map(({ value }) => value.toString()).join();
      };
      expect(await values()).toBe('first');
      const { target } = proxy;
      proxy.target = { ...target, port: 1 };
      proxy.cut();
      for (const value of ['second', 'third']) await direct.put('past/a', value);
      await direct.put('past/b', 'new');
      const { version: revision = 0n } = (await direct.get('past/b')) ?? {};
      await servers.call('kv/compaction', { revision: String(revision), physical: true });
      proxy.target = target;
      expect(await values()).toBe('third,new');
      stop.abort();
    });

    test('a list longer than a page has all keys, in order', async () => {
      await using c = open(servers.urls);
      const names = Array.from({ length: 1100 }, (_, i) => `many/${String(i).padStart(5, '0')}`);
      for (let i = 0; i < names.length; i += 60) {
        await c.txn(
          [],
          names.slice(i, i + 60).map((key) => ({ kind: 'put' as const, key, value: key })),
        );
      }
      expect((await c.list('many/')).map(({ key }) => key)).toEqual(names);
      expect(await c.txn([], [{ kind: 'delete-prefix', prefix: 'many/' }])).toMatchObject({
        committed: true,
      });
      expect(await c.list('many/')).toEqual([]);
    });

    test('a transaction may empty a folder and fill it again, as large as it may be', async () => {
      await using c = open(servers.urls);
      await c.put('folder/old', 'x');
      await c.put('folder/20', 'x');
      const puts = Array.from({ length: c.bounds.maxTxnOperations - 1 }, (_, i) => `folder/${i}`);
      const result = await c.txn(
        [],
        [
          { kind: 'delete-prefix', prefix: 'folder/' },
          ...puts.map((key) => ({ kind: 'put' as const, key, value: 'new' })),
        ],
      );
      expect(result).toMatchObject({ committed: true });
      const entries = await c.list('folder/');
      expect(entries.map(({ key }) => key)).toEqual([...puts].sort((a, b) => (a < b ? -1 : 1)));
      expect(new Set(entries.map(({ value }) => value.toString()))).toEqual(new Set(['new']));
    });

    test('a key that etcd’s own tools have written over stops the holder and blocks nobody', async () => {
      await using c = open(servers.urls);
      const [one, two] = await Promise.all(
        ['one', 'two'].map((name) => c.session({ ttlMs: 20_000, name, lockDelayMs: 0 })),
      );
      if (!one || !two) throw new Error('two sessions');
      const lock = await c.lock('hand/lock', one, { owner: 'one' });
      await servers.call('kv/put', { key: base64('hand/lock'), value: base64('by hand') });
      expect(await c.txn([held(lock)], [])).toMatchObject({ committed: false });
      const next = await c.lock('hand/lock', two, { owner: 'two', waitMs: 10_000 });
      expect(next.token).toBeGreaterThan(lock.token);
      await lock.release();
      expect(await c.txn([held(next)], [])).toMatchObject({ committed: true });
    });

    test('a service is asked for by whoever registered it, and removed when it is bad for too long', async () => {
      await using c = open(servers.urls);
      await using observer = open(servers.urls);
      let status = 200;
      const web = createServer((_, response) => response.writeHead(status).end()).listen(0, '127.0.0.1');
      await once(web, 'listening');
      const { port } = web.address() as AddressInfo;
      const service = { id: 'web-1', name: 'web', address: '127.0.0.1', port };
      const registration = await c.register(service, {
        kind: 'http',
        url: `http://127.0.0.1:${port}/healthz`,
        intervalMs: 100,
        timeoutMs: 500,
        deregisterAfterMs: 1000,
      });
      await expect(registration.report('passing')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      const found = async (): Promise<string> => (await observer.services('web')).map((s) => s.status).join();
      await until(async () => (await found()) === 'passing');
      status = 429;
      await until(async () => (await found()) === 'warning');
      status = 500;
      await until(async () => (await found()) === 'critical');
      await until(async () => (await found()) === '');
      status = 200;
      await until(async () => (await found()) === 'passing');
      await registration.deregister();
      expect(await found()).toBe('');
      web.close();
      web.closeAllConnections();
    });

    test('who deregisters a service does not remove what another has registered in its place', async () => {
      await using before = open(servers.urls);
      await using after = open(servers.urls);
      const service = { id: 'db-1', name: 'db', address: '127.0.0.1', port: 5432 };
      const check = { kind: 'ttl', ttlMs: 20_000, status: 'passing' } as const;
      const old = await before.register(service, check);
      await after.register({ ...service, port: 5433 }, check);
      await old.deregister();
      expect(await after.services('db')).toMatchObject([{ port: 5433, status: 'passing' }]);
    });
  });

  describe('three members of etcd', { timeout: 60_000 }, () => {
    let servers: EtcdServers;
    beforeAll(async () => {
      servers = await EtcdServers.start(etcd, 3);
    }, 60_000);
    afterAll(() => servers[Symbol.asyncDispose]());

    const ttlMs = 3000;
    let stoppedMs = 0;
    const leader = async (c: Coordinator): Promise<number> => {
      let found: string | undefined;
      await until(async () => {
        found = (await eventually(() => c.status())).leader;
        return found !== undefined;
      });
      return servers.urls.findIndex((url) => new URL(url).host === found);
    };

    test.each<[string, (member: number) => Promise<void>, (member: number) => Promise<void>]>([
      ['is killed', (member) => servers.kill(member), (member) => servers.start(member)],
      [
        'hangs',
        async (member) => void process.kill(servers.pid(member), 'SIGSTOP'),
        async (member) => {
          // By now it finds all leases expired that it knows, and ends them when it wakes up.
          await systemClock.sleep(Math.max(0, stoppedMs + ttlMs + 500 - systemClock.monotonicMs()));
          process.kill(servers.pid(member), 'SIGCONT');
          await systemClock.sleep(500);
        },
      ],
    ])('sessions, locks, writes and watches go on when the leader %s', async (_what, stop, resume) => {
      await using c = open(servers.urls, { timeoutMs: 1500 });
      const session = await eventually(() => c.session({ ttlMs, name: 'x' }));
      const lock = await c.lock('leader/lock', session, { owner: 'x' });
      await c.put('leader/n', '0');
      const first = await leader(c);
      // To whom it talks is left to chance: whoever it is, none is special.
      const end = new AbortController();
      const seen: number[] = [];
      const watching = (async () => {
        for await (const [entry] of c.watch('leader/n', end.signal))
          seen.push(Number(entry?.value.toString()));
      })();
      await stop(first);
      stoppedMs = systemClock.monotonicMs();
      for (let n = 1; n <= 5; n += 1) {
        // What fails may happen yet, when the member wakes up: so it is made conditional.
        await eventually(async () => {
          const { value = '', version = 0n } = (await c.get('leader/n')) ?? {};
          if (value.toString() === String(n)) return;
          const at = { kind: 'version' as const, key: 'leader/n', version };
          const write = { kind: 'put' as const, key: 'leader/n', value: String(n) };
          expect(await c.txn([held(lock), at], [write])).toMatchObject({ committed: true });
        });
      }
      await eventually(() => session.renew());
      expect(session.lost.aborted).toBe(false);
      expect(await leader(c)).not.toBe(first);
      await resume(first);
      await until(async () => seen.at(-1) === 5);
      end.abort();
      await watching;
      for (const [i, n] of seen.entries()) expect(n).toBeGreaterThan(seen[i - 1] ?? -1);
      await session.renew();
      expect(await c.txn([held(lock)], [])).toMatchObject({ committed: true });
      await lock.release();
    });

    test('without a majority nothing is promised, and the holder knows in time', async () => {
      await using c = open(servers.urls, { timeoutMs: 500 });
      const session = await eventually(() => c.session({ ttlMs: 2000, name: 'x' }));
      const last = await leader(c);
      const others = [0, 1, 2].filter((member) => member !== last);
      await Promise.all(others.map((member) => servers.kill(member)));
      await lostOf(session);
      await expect(c.put('majority/a', 'x')).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
      await expect(c.get('majority/a')).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
      await Promise.all(others.map((member) => servers.start(member)));
      expect(await eventually(() => c.put('majority/a', 'y'))).toBe(true);
    });
  });

  describe('etcd that asks who one is, over TLS', { timeout: 60_000 }, () => {
    let servers: EtcdServers;
    let folder: string;
    let ca: string;
    const user = { name: 'varve', password: 'secr3t' };
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'varve-test-etcd-ca-'));
      const authority = await CertificateAuthority.open(join(folder, 'ca'));
      ca = authority.caPem;
      const { certFile, keyFile } = await authority.issueServer(['127.0.0.1']);
      const flags = [`--cert-file=${certFile}`, `--key-file=${keyFile}`];
      servers = await EtcdServers.start(etcd, 1, { scheme: 'https', flags });
    }, 60_000);
    afterAll(async () => {
      await servers[Symbol.asyncDispose]();
      await rm(folder, { recursive: true });
    });

    test('does everything with a user, again after a restart, and refuses others', async () => {
      const tls = { ca };
      const call = (path: string, body: object): Promise<void> => servers.callOver(ca, path, body);
      for (const name of ['root', user.name]) await call('auth/user/add', { ...user, name });
      for (const [name, role] of [
        ['root', 'root'],
        [user.name, 'varve'],
      ] as const) {
        await call('auth/role/add', { name: role });
        await call('auth/user/grant', { user: name, role });
      }
      for (const [key, end] of [
        ['cluster/', 'cluster0'],
        ['~varve/', '~varve0'],
      ] as const) {
        const perm = { permType: 'READWRITE', key: base64(key), range_end: base64(end) };
        await call('auth/role/grant', { name: 'varve', perm });
      }
      await call('auth/enable', {});

      await using c = open(servers.urls, { user, tls });
      const session = await c.session({ ttlMs: 10_000, name: 'x' });
      const lock = await c.lock('cluster/lock', session, { owner: 'x' });
      await using registration = await c.register(
        { id: 'a', name: 'db', address: '127.0.0.1', port: 1 },
        { kind: 'ttl', ttlMs: 10_000, status: 'passing' },
      );
      const watch = c.watch('cluster/n', AbortSignal.timeout(30_000))[Symbol.asyncIterator]();
      expect((await watch.next()).value).toEqual([]);
      const change = watch.next();
      // The tokens that etcd has given out are gone with it.
      await servers.kill(0);
      await servers.start(0);
      await eventually(() => session.renew());
      const write = [{ kind: 'put' as const, key: 'cluster/n', value: '1' }];
      expect(await c.txn([held(lock)], write)).toMatchObject({ committed: true });
      const [entry] = (await change).value as readonly Entry[];
      expect(entry?.value.toString()).toBe('1');
      await registration.report('passing');
      expect(await c.services('db', { passing: true })).toHaveLength(1);

      const refused = { code: 'COORDINATOR_REFUSED' };
      await expect(c.put('elsewhere', 'x')).rejects.toMatchObject(refused);
      await using nobody = open(servers.urls, { tls });
      await expect(nobody.get('cluster/n')).rejects.toMatchObject(refused);
      await using wrong = open(servers.urls, { tls, user: { ...user, password: 'wrong' } });
      await expect(wrong.get('cluster/n')).rejects.toMatchObject(refused);
      await using distrusting = open(servers.urls, { user });
      await expect(distrusting.get('cluster/n')).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
    });
  });
}
