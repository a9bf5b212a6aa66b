import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../core/clock.ts';
import {
  ABSENT,
  type Coordinator,
  type CoordinatorLog,
  type Entry,
  held,
  type Lock,
  type Session,
} from './coordinator.ts';
import { TcpProxy } from './tcp-proxy.suite.ts';

/** One running coordinator of a kind. */
export interface CoordinatorHarness extends AsyncDisposable {
  /** Of the server itself; changes with a restart. */
  readonly url: string;
  /** The shortest TTL it takes. */
  readonly minTtlMs: number;
  /** A new client, of the server or of a proxy before it. */
  open(url?: string): Coordinator;
  /** Ends the server without ceremony and starts it on the same data. */
  restart(): Promise<void>;
  /** What an operator does by other means than ours; by Consul's API unless given. */
  readonly operator?: Operator;
}

export interface Operator {
  /** The locks of the session are lost, not released. */
  endSession(id: string): Promise<void>;
  deregister(service: { readonly id: string; readonly name: string }): Promise<void>;
}

function consulOperator(url: () => string): Operator {
  const done = async (path: string): Promise<void> => {
    expect((await fetch(`${url()}${path}`, { method: 'PUT' })).ok).toBe(true);
  };
  return {
    endSession: (id) => done(`/v1/session/destroy/${id}`),
    deregister: ({ id }) => done(`/v1/agent/service/deregister/${id}`),
  };
}

export const silentLog: CoordinatorLog = { info: () => {}, warn: () => {}, error: () => {} };

/** The contract of `coordinator.ts`, for any kind of coordinator. */
export function testCoordinator(name: string, factory: () => Promise<CoordinatorHarness>): void {
  // Real time, on machines that do other things as well.
  describe(`the contract of the coordinator: ${name}`, { timeout: 60_000 }, () => {
    let harness: CoordinatorHarness;
    let ttlMs: number;
    const longTtlMs = 20_000;
    let count = 0;
    const resources: AsyncDisposable[] = [];

    beforeAll(async () => {
      harness = await factory();
      ttlMs = harness.minTtlMs;
    }, 30_000);
    afterAll(async () => {
      // Clients before the proxies that they go through.
      for (const resource of resources.reverse()) await resource[Symbol.asyncDispose]();
      await harness[Symbol.asyncDispose]();
    }, 60_000);

    /** Keys of one test. */
    const folder = (): string => {
      count += 1;
      return `test-${count}/`;
    };
    const client = (url?: string): Coordinator => {
      const coordinator = harness.open(url);
      resources.push(coordinator);
      return coordinator;
    };
    const proxied = async (): Promise<{ proxy: TcpProxy; coordinator: Coordinator }> => {
      const proxy = await TcpProxy.start(harness.url);
      resources.push(proxy);
      return { proxy, coordinator: client(proxy.url) };
    };
    const longSession = (coordinator: Coordinator, lockDelayMs = 60_000): Promise<Session> =>
      coordinator.session({ ttlMs: longTtlMs, name: 'test', lockDelayMs });
    const operator = (): Operator => harness.operator ?? consulOperator(() => harness.url);
    const destroy = (session: Session): Promise<void> => operator().endSession(session.id);

    describe.concurrent('keys', () => {
      test('a key has the value that was put, as bytes, and a version that grows', async () => {
        const [c, at] = [client(), folder()];
        expect(await c.get(`${at}a`)).toBeUndefined();
        expect(await c.put(`${at}a`, Buffer.from([0, 255, 10]))).toBe(true);
        const first = await c.get(`${at}a`);
        expect(first).toMatchObject({ key: `${at}a`, value: Buffer.from([0, 255, 10]), holder: undefined });
        await c.put(`${at}a`, '');
        const second = await c.get(`${at}a`);
        expect(second?.value).toEqual(Buffer.alloc(0));
        expect(second?.version).toBeGreaterThan(first?.version ?? 0n);
        expect(await c.delete(`${at}a`)).toBe(true);
        expect(await c.get(`${at}a`)).toBeUndefined();
        expect(await c.delete(`${at}a`)).toBe(true);
        await c.put(`${at}a`, 'again');
        expect((await c.get(`${at}a`))?.version).toBeGreaterThan(second?.version ?? 0n);
      });

      test('a list has what is under its prefix, in order', async () => {
        const [c, at] = [client(), folder()];
        for (const key of ['b', 'a/2', 'a/10', 'ab', 'a']) await c.put(at + key, key);
        const keys = (entries: readonly Entry[]): string[] => entries.map(({ key }) => key.slice(at.length));
        expect(keys(await c.list(at))).toEqual(['a', 'a/10', 'a/2', 'ab', 'b']);
        expect(keys(await c.list(`${at}a/`))).toEqual(['a/10', 'a/2']);
        expect(await c.list(`${at}none/`)).toEqual([]);
      });

      test.each(['', 'a//b', '/a', 'a/', 'a/../b', './a', 'a b', 'ä', 'a?b', 'x'.repeat(600)])(
        'the key %j is refused before anything is sent',
        async (key) => {
          await expect(async () => client().put(key, 'x')).rejects.toMatchObject({
            code: 'INVALID_ARGUMENT',
          });
        },
      );

      test('a put with a version happens only at that version', async () => {
        const [c, at] = [client(), folder()];
        expect(await c.put(`${at}a`, '1', { ifVersion: 1n })).toBe(false);
        expect(await c.put(`${at}a`, '1', { ifVersion: ABSENT })).toBe(true);
        expect(await c.put(`${at}a`, '2', { ifVersion: ABSENT })).toBe(false);
        const { version = 0n } = (await c.get(`${at}a`)) ?? {};
        expect(await c.put(`${at}a`, '2', { ifVersion: version })).toBe(true);
        expect(await c.put(`${at}a`, '3', { ifVersion: version })).toBe(false);
        expect(await c.delete(`${at}a`, { ifVersion: version })).toBe(false);
        expect((await c.get(`${at}a`))?.value.toString()).toBe('2');
        expect(await c.delete(`${at}a`, { ifVersion: (await c.get(`${at}a`))?.version ?? 0n })).toBe(true);
        expect(await c.get(`${at}a`)).toBeUndefined();
      });

      test('of many who create a key at once, one does', async () => {
        const at = folder();
        const writers = Array.from({ length: 10 }, (_, i) => ({ c: client(), name: `writer ${i}` }));
        const won = await Promise.all(
          writers.map(({ c, name }) => c.put(`${at}a`, name, { ifVersion: ABSENT })),
        );
        expect(won.filter(Boolean)).toHaveLength(1);
        expect((await client().get(`${at}a`))?.value.toString()).toBe(`writer ${won.indexOf(true)}`);
      });

      test('increments by compare-and-set lose none', async () => {
        const at = folder();
        await client().put(`${at}n`, '0');
        const increment = async (c: Coordinator): Promise<void> => {
          for (;;) {
            const { value = '', version = 0n } = (await c.get(`${at}n`)) ?? {};
            if (await c.put(`${at}n`, String(Number(value.toString()) + 1), { ifVersion: version })) return;
          }
        };
        await Promise.all(Array.from({ length: 12 }, () => increment(client())));
        expect((await client().get(`${at}n`))?.value.toString()).toBe('12');
      });

      test('a value up to the limit is kept, and one beyond it is refused by name', async () => {
        const [c, at] = [client(), folder()];
        const largest = Buffer.alloc(c.bounds.maxValueBytes, 7);
        expect(await c.put(`${at}large`, largest)).toBe(true);
        expect((await c.get(`${at}large`))?.value.equals(largest)).toBe(true);
        const error = { code: 'VALUE_TOO_LARGE', message: expect.stringContaining(`${at}large`) as string };
        await expect(c.put(`${at}large`, Buffer.alloc(largest.length + 1))).rejects.toMatchObject(error);
        expect((await c.get(`${at}large`))?.value.equals(largest)).toBe(true);
      });
    });

    describe.concurrent('transactions', () => {
      test('all operations happen when all comparisons hold', async () => {
        const [c, at] = [client(), folder()];
        await c.put(`${at}a`, 'old');
        await c.put(`${at}gone`, 'x');
        await c.put(`${at}tree/1`, 'x');
        await c.put(`${at}tree/2`, 'x');
        const { version = 0n } = (await c.get(`${at}a`)) ?? {};
        const result = await c.txn(
          [
            { kind: 'version', key: `${at}a`, version },
            { kind: 'absent', key: `${at}new` },
            { kind: 'version', key: `${at}new`, version: ABSENT },
          ],
          [
            { kind: 'put', key: `${at}a`, value: 'changed' },
            { kind: 'put', key: `${at}new`, value: Buffer.from([1, 2]) },
            { kind: 'delete', key: `${at}gone` },
            { kind: 'delete-prefix', prefix: `${at}tree/` },
          ],
        );
        const after = await c.list(at);
        expect(after.map(({ key, value }) => [key, value.toString('latin1')])).toEqual([
          [`${at}a`, 'changed'],
          [`${at}new`, '\x01\x02'],
        ]);
        expect(result).toEqual({ committed: true, versions: new Map(after.map((e) => [e.key, e.version])) });
      });

      test('nothing happens when one comparison fails, and the result says which', async () => {
        const [c, at] = [client(), folder()];
        await c.put(`${at}a`, '1');
        const { version = 0n } = (await c.get(`${at}a`)) ?? {};
        const result = await c.txn(
          [
            { kind: 'absent', key: `${at}b` },
            { kind: 'version', key: `${at}a`, version: version + 1n },
            { kind: 'version', key: `${at}a`, version },
            { kind: 'absent', key: `${at}a` },
          ],
          [
            { kind: 'put', key: `${at}b`, value: 'x' },
            { kind: 'delete', key: `${at}a` },
          ],
        );
        expect(result).toEqual({ committed: false, failed: [1, 3] });
        expect((await c.list(at)).map(({ key, version }) => [key, version])).toEqual([[`${at}a`, version]]);
      });

      test('two that take from the same two keys at once never both commit', async () => {
        const at = folder();
        const c = client();
        for (let round = 0; round < 10; round += 1) {
          await c.put(`${at}x`, `round ${round}`);
          await c.put(`${at}y`, `round ${round}`);
          const entries = await c.list(at);
          const compare = entries.map(({ key, version }) => ({ kind: 'version' as const, key, version }));
          const results = await Promise.all(
            ['left', 'right'].map((value) =>
              client().txn(compare, [
                { kind: 'put', key: `${at}x`, value },
                { kind: 'put', key: `${at}y`, value },
              ]),
            ),
          );
          expect(results.filter(({ committed }) => committed)).toHaveLength(1);
          const [x, y] = await c.list(at);
          expect(x?.value.toString()).toBe(y?.value.toString());
        }
      });

      test('one that is too large is refused before anything is sent', async () => {
        const [c, at] = [client(), folder()];
        const many = Array.from({ length: c.bounds.maxTxnOperations + 1 }, (_, i) => ({
          kind: 'put' as const,
          key: `${at}${i}`,
          value: 'x',
        }));
        const long = { kind: 'put' as const, key: `${at}long`, value: Buffer.alloc(c.bounds.maxTxnBytes) };
        await expect(c.txn([], many)).rejects.toMatchObject({ code: 'VALUE_TOO_LARGE' });
        await expect(c.txn([], [long])).rejects.toMatchObject({ code: 'VALUE_TOO_LARGE' });
        expect(await c.txn([], many.slice(1))).toMatchObject({ committed: true });
        expect(await c.list(at)).toHaveLength(c.bounds.maxTxnOperations);
      });
    });

    describe.concurrent('sessions', () => {
      test('a session outlives several TTLs while it is renewed, however slow the line', async () => {
        const { proxy, coordinator } = await proxied();
        const session = await coordinator.session({ ttlMs: ttlMs * 3, name: 'slow' });
        proxy.latencyMs = 150;
        await systemClock.sleep(ttlMs * 7);
        expect(session.lost.aborted).toBe(false);
        expect(session.remainingMs()).toBeGreaterThan(0);
        await session.renew();
      });

      test('a session that cannot be renewed is lost to its owner before its lock is free for others', async () => {
        const { proxy, coordinator } = await proxied();
        const [observer, key] = [client(), `${folder()}lock`];
        const session = await coordinator.session({ ttlMs, name: 'cut off', lockDelayMs: 0 });
        const lock = await coordinator.lock(key, session, { owner: 'cut off' });
        const order: string[] = [];
        session.lost.addEventListener('abort', () => order.push('lost'));
        proxy.silent = true;
        const next = await observer.lock(key, await longSession(observer), {
          owner: 'next',
          waitMs: ttlMs * 10,
        });
        order.push('granted');
        expect(order).toEqual(['lost', 'granted']);
        expect(session.lost.reason).toMatchObject({ code: 'SESSION_LOST' });
        expect(session.remainingMs()).toBe(0);
        expect(next.token).toBeGreaterThan(lock.token);
        await expect(session.renew()).rejects.toMatchObject({ code: 'SESSION_LOST' });
        await expect(coordinator.lock(key, session, { owner: 'x' })).rejects.toMatchObject({
          code: 'SESSION_LOST',
        });
      });

      test('a session that somebody ended is lost at its next renewal', async () => {
        const c = client();
        const [one, two] = await Promise.all([longSession(c), c.session({ ttlMs, name: 'short' })]);
        const lost = new Promise((resolve) => two.lost.addEventListener('abort', resolve));
        await Promise.all([destroy(one), destroy(two)]);
        await expect(one.renew()).rejects.toMatchObject({ code: 'SESSION_LOST' });
        expect(one.lost.aborted).toBe(true);
        await lost;
        expect(two.remainingMs()).toBe(0);
      });

      test('closing a session gives its locks to others at once, and is no loss', async () => {
        const [c, key] = [client(), `${folder()}lock`];
        const session = await longSession(c);
        await c.lock(key, session, { owner: 'first' });
        await session.close();
        await session.close();
        expect(session.lost.aborted).toBe(false);
        const next = await c.lock(key, await longSession(c), { owner: 'second', waitMs: 5000 });
        await next.release();
        await expect(c.lock(key, session, { owner: 'x' })).rejects.toMatchObject({ code: 'SESSION_LOST' });
      });

      test('a node that comes back ends the session it left, and need not wait for it', async () => {
        const [before, after, key] = [client(), client(), `${folder()}lock`];
        const left = await longSession(before);
        const lock = await before.lock(key, left, { owner: 'before' });
        await after.endSession(left.id);
        const next = await after.lock(key, await longSession(after), { owner: 'after', waitMs: 5000 });
        expect(next.token).toBeGreaterThan(lock.token);
        await expect(left.renew()).rejects.toMatchObject({ code: 'SESSION_LOST' });
        await after.endSession(left.id);
      });

      test('a node that comes back in time carries on with the lock that it left, under the same token', async () => {
        const [{ proxy, coordinator: before }, after, key] = [await proxied(), client(), `${folder()}lock`];
        const times = { ttlMs, lockDelayMs: 0 };
        const left = await before.session({ ...times, name: 'before' });
        const { token } = await before.lock(key, left, { owner: 'node' });
        const rival = await after.lock(key, await longSession(after), { owner: 'rival', waitMs: 0 }).then(
          () => 'granted',
          () => 'refused',
        );
        expect(rival).toBe('refused');
        proxy.silent = true;
        const resumed = await after.resumeLock(key, left.id, { ...times, name: 'after' });
        if (!resumed) throw new Error('the lock was not carried on with');
        const { session, lock } = resumed;
        expect([session.id, lock.token]).toEqual([left.id, token]);
        let granted = false;
        const waiting = client()
          .lock(key, await longSession(after), { owner: 'rival' })
          .then((next) => {
            granted = true;
            return next;
          });
        // The one who left it cannot renew it any more.
        await systemClock.sleep(2.5 * ttlMs);
        expect([granted, session.lost.aborted, left.lost.aborted]).toEqual([false, false, true]);
        expect((await after.txn([held(lock)], [])).committed).toBe(true);
        await expect(after.lock(key, session, { owner: 'twice' })).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
        });
        await lock.release();
        expect((await waiting).token).toBeGreaterThan(token);
      });

      test('what cannot be carried on with is ended, and its locks are free', async () => {
        const [c, key] = [client(), `${folder()}lock`];
        const times = { ttlMs: longTtlMs, lockDelayMs: 0, name: 'before' };
        for (const changed of [{ ttlMs: longTtlMs + 1000 }, { lockDelayMs: 5000 }]) {
          const left = await c.session(times);
          await c.lock(key, left, { owner: 'before' });
          expect(await c.resumeLock(key, left.id, { ...times, ...changed })).toBeUndefined();
          const next = await c.lock(key, await longSession(c), { owner: 'next', waitMs: 5000 });
          // One that is over.
          expect(await c.resumeLock(key, left.id, times)).toBeUndefined();
          expect((await c.txn([held(next)], [])).committed).toBe(true);
          // One that holds another lock.
          const third = await c.session(times);
          await c.lock(`${key}-2`, third, { owner: 'third' });
          expect(await c.resumeLock(key, third.id, times)).toBeUndefined();
          await expect(third.renew()).rejects.toMatchObject({ code: 'SESSION_LOST' });
          const other = await c.lock(`${key}-2`, await longSession(c), { owner: 'next', waitMs: 5000 });
          await Promise.all([next.release(), other.release()]);
        }
        expect(await c.resumeLock(key, 'no-such-session', times)).toBeUndefined();
      });

      test('times outside of the bounds are refused', async () => {
        const c = client();
        const error = { code: 'INVALID_ARGUMENT' };
        const { minTtlMs, maxLockDelayMs } = c.bounds;
        await expect(c.session({ ttlMs: minTtlMs - 1, name: 'x' })).rejects.toMatchObject(error);
        await expect(c.session({ ttlMs: NaN, name: 'x' })).rejects.toMatchObject(error);
        await expect(
          c.session({ ttlMs: longTtlMs, name: 'x', lockDelayMs: maxLockDelayMs + 1 }),
        ).rejects.toMatchObject(error);
      });
    });

    describe.concurrent('locks', () => {
      test('a lock shows who holds it, and is granted to the next when it is released', async () => {
        const [c, key] = [client(), `${folder()}lock`];
        const [one, two] = await Promise.all([longSession(c), longSession(c)]);
        const first = await c.lock(key, one, { owner: 'node one' });
        expect(await c.get(key)).toMatchObject({ value: Buffer.from('node one'), holder: one.id });
        let granted = false;
        const waiting = c.lock(key, two, { owner: 'node two' }).then((lock) => {
          granted = true;
          return lock;
        });
        await expect(c.lock(key, await longSession(c), { owner: 'x', waitMs: 200 })).rejects.toMatchObject({
          code: 'LOCK_TIMEOUT',
          detail: 'held by node one',
        });
        expect(granted).toBe(false);
        await first.release();
        const second = await waiting;
        expect(second.token).toBeGreaterThan(first.token);
        await first.release();
        expect((await c.get(key))?.holder).toBe(two.id);
      });

      test('a lock that was lost is granted to nobody until the lock delay is over', async () => {
        const [c, key] = [client(), `${folder()}lock`];
        const session = await longSession(c, 60_000);
        await c.lock(`${key}-long`, session, { owner: 'holder' });
        const shorter = await c.session({ ttlMs: ttlMs * 3, name: 'test', lockDelayMs: 1000 });
        await c.lock(`${key}-short`, shorter, { owner: 'holder' });
        await destroy(session);
        await destroy(shorter);
        const next = await longSession(c);
        await expect(c.lock(`${key}-long`, next, { owner: 'next', waitMs: 1500 })).rejects.toMatchObject({
          code: 'LOCK_TIMEOUT',
          detail: expect.stringContaining('delay') as string,
        });
        await (await c.lock(`${key}-short`, next, { owner: 'next', waitMs: 20_000 })).release();
      });

      test('a former holder is refused by its token, whether it released, lost or took the lock again', async () => {
        const [c, at] = [client(), folder()];
        const write = (lock: Lock, value: string): Promise<boolean> =>
          c.txn([held(lock)], [{ kind: 'put', key: `${at}state`, value }]).then(({ committed }) => committed);
        const [one, two] = await Promise.all([longSession(c, 0), longSession(c, 0)]);
        const first = await c.lock(`${at}lock`, one, { owner: 'one' });
        expect(await write(first, 'first')).toBe(true);
        await first.release();
        expect(await write(first, 'released')).toBe(false);
        const second = await c.lock(`${at}lock`, one, { owner: 'one' });
        expect(await write(first, 'stale token, same session')).toBe(false);
        expect(await write(second, 'second')).toBe(true);
        await destroy(one);
        expect(await write(second, 'lost')).toBe(false);
        const third = await c.lock(`${at}lock`, two, { owner: 'two', waitMs: 10_000 });
        expect(await write(second, 'somebody else has it')).toBe(false);
        expect(await write(third, 'third')).toBe(true);
        expect((await c.get(`${at}state`))?.value.toString()).toBe('third');
      });

      test('deleting or writing the key of a lock stops its holder, and tokens still grow', async () => {
        const [c, at] = [client(), folder()];
        const session = await longSession(c, 0);
        const first = await c.lock(`${at}lock`, session, { owner: 'one' });
        await c.delete(`${at}lock`);
        const write = [{ kind: 'put' as const, key: `${at}state`, value: 'x' }];
        expect(await c.txn([held(first)], write)).toEqual({ committed: false, failed: [0] });
        const second = await c.lock(`${at}lock`, await longSession(c, 0), { owner: 'two', waitMs: 10_000 });
        expect(second.token).toBeGreaterThan(first.token);
        await c.put(`${at}lock`, 'state does not belong here');
        expect(await c.txn([held(second)], write)).toEqual({ committed: false, failed: [0] });
      });

      test('twenty who want one lock never hold it together, and their tokens grow', async () => {
        const at = folder();
        const tokens: bigint[] = [];
        let holders = 0;
        let most = 0;
        const contend = async (i: number): Promise<void> => {
          const c = client();
          const session = await longSession(c);
          for (let round = 0; round < 2; round += 1) {
            const lock = await c.lock(`${at}lock`, session, { owner: `contender ${i}` });
            holders += 1;
            most = Math.max(most, holders);
            tokens.push(lock.token);
            const { value = '0' } = (await c.get(`${at}count`)) ?? {};
            const next = {
              kind: 'put' as const,
              key: `${at}count`,
              value: String(Number(value.toString()) + 1),
            };
            expect(await c.txn([held(lock)], [next])).toMatchObject({ committed: true });
            holders -= 1;
            await lock.release();
          }
        };
        await Promise.all(Array.from({ length: 20 }, (_, i) => contend(i)));
        expect(most).toBe(1);
        expect(tokens).toHaveLength(40);
        for (const [i, token] of tokens.entries()) expect(token).toBeGreaterThan(tokens[i - 1] ?? 0n);
        expect((await client().get(`${at}count`))?.value.toString()).toBe('40');
      });

      test('one session holds a lock once', async () => {
        const [c, key] = [client(), `${folder()}lock`];
        const session = await longSession(c);
        const lock = await c.lock(key, session, { owner: 'one' });
        await expect(c.lock(key, session, { owner: 'one' })).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
        });
        await lock.release();
        await (await c.lock(key, session, { owner: 'one', waitMs: 5000 })).release();
      });

      test('who stops waiting leaves nothing behind', async () => {
        const [c, key] = [client(), `${folder()}lock`];
        const [one, two, three] = await Promise.all([longSession(c), longSession(c), longSession(c)]);
        const first = await c.lock(key, one, { owner: 'one' });
        const giveUp = new AbortController();
        const waiting = c.lock(key, two, { owner: 'two', signal: giveUp.signal });
        const closing = c.lock(key, three, { owner: 'three' });
        const outcome = Promise.allSettled([waiting, closing]);
        giveUp.abort(new Error('changed my mind'));
        await three.close();
        const [gaveUp, closed] = await outcome;
        expect(gaveUp).toMatchObject({ status: 'rejected', reason: { message: 'changed my mind' } });
        expect(closed).toMatchObject({ status: 'rejected', reason: { code: 'SESSION_LOST' } });
        await first.release();
        expect((await c.get(key))?.holder).toBeUndefined();
        await (await c.lock(key, two, { owner: 'two', waitMs: 5000 })).release();
      });

      test('waiting for a lock, and releasing it, outlive a broken line', async () => {
        const { proxy, coordinator } = await proxied();
        const [c, key] = [client(), `${folder()}lock`];
        const first = await c.lock(key, await longSession(c), { owner: 'one' });
        const session = await coordinator.session({ ttlMs: longTtlMs, name: 'cut' });
        const waiting = coordinator.lock(key, session, { owner: 'two' });
        await systemClock.sleep(50);
        proxy.cut();
        await first.release();
        proxy.cut();
        const second = await waiting;
        expect((await c.get(key))?.holder).toBe(session.id);
        const { port, host } = proxy.target;
        proxy.target = { host, port: 1 };
        proxy.cut();
        await second.release();
        proxy.target = { host, port };
        await session.close();
        await (await c.lock(key, await longSession(c), { owner: 'three', waitMs: 10_000 })).release();
      });

      test('a lock whose grant nobody heard of is given back', async () => {
        const { proxy, coordinator } = await proxied();
        const [c, key] = [client(), `${folder()}lock`];
        const session = await coordinator.session({ ttlMs: ttlMs * 4, name: 'deaf', lockDelayMs: 60_000 });
        proxy.silent = 'answers';
        const giveUp = new AbortController();
        const waiting = coordinator.lock(key, session, { owner: 'deaf', signal: giveUp.signal });
        const outcome = expect(waiting).rejects.toThrow('gave up');
        while ((await c.get(key))?.holder === undefined) await systemClock.sleep(10);
        giveUp.abort(new Error('gave up'));
        proxy.silent = false;
        proxy.cut();
        await outcome;
        await (await c.lock(key, await longSession(c), { owner: 'next', waitMs: 20_000 })).release();
        expect(session.lost.aborted).toBe(false);
      });
    });

    describe.concurrent('watches', () => {
      test('a watch shows what is there, and then what changes, the latest last', async () => {
        const [c, at] = [client(), folder()];
        await c.put(`${at}a`, '1');
        const stop = new AbortController();
        const watch = c.watch(at, stop.signal)[Symbol.asyncIterator]();
        const keys = async (): Promise<string[]> => {
          const { value } = await watch.next();
          return ((value ?? []) as readonly Entry[]).map(
            (e) => `${e.key.slice(at.length)}=${e.value.toString()}`,
          );
        };
        expect(await keys()).toEqual(['a=1']);
        await c.put(`${at}b`, '2');
        expect(await keys()).toEqual(['a=1', 'b=2']);
        await client().put('elsewhere', at);
        await c.put(`${at}b`, '3');
        await c.delete(`${at}a`);
        let last = await keys();
        if (last.length === 2) last = await keys();
        expect(last).toEqual(['b=3']);
        const end = watch.next();
        stop.abort();
        expect(await end).toEqual({ done: true, value: undefined });
      });

      test('a watch of nothing shows nothing first, and then what comes', async () => {
        const [c, at] = [client(), folder()];
        const stop = new AbortController();
        const seen: number[] = [];
        for await (const entries of c.watch(at, stop.signal)) {
          seen.push(entries.length);
          if (entries.length === 0) await c.put(`${at}a`, '1');
          else break;
        }
        expect(seen).toEqual([0, 1]);
      });

      test('a watch of a store that nothing was ever written to shows the first change', async () => {
        await using fresh = await factory();
        await using c = fresh.open();
        const signal = AbortSignal.timeout(15_000);
        const watch = c.watch('first/', signal)[Symbol.asyncIterator]();
        expect((await watch.next()).value).toEqual([]);
        const change = watch.next();
        // So long that a watch that waits for nothing would have asked many times.
        await systemClock.sleep(200);
        await c.put('first/a', '1');
        expect((await change).value).toMatchObject([{ key: 'first/a' }]);
      });

      test('a watch never goes back, and ends up at the last value, over a line that breaks', async () => {
        const { proxy, coordinator } = await proxied();
        const [c, at] = [client(), folder()];
        const last = 60;
        const seen: number[] = [];
        const watching = (async () => {
          for await (const entries of coordinator.watch(at, AbortSignal.timeout(30_000))) {
            const value = Number(entries[0]?.value.toString() ?? '-1');
            seen.push(value);
            if (value === last) return;
          }
        })();
        for (let i = 0; i <= last; i += 1) {
          await c.put(`${at}n`, String(i));
          if (i % 15 === 7) proxy.cut();
        }
        await watching;
        expect(seen.at(-1)).toBe(last);
        for (const [i, value] of seen.entries()) expect(value).toBeGreaterThan(seen[i - 1] ?? -2);
      });
    });

    describe.concurrent('services', () => {
      const serviceOf = (at: string, id: string) => ({
        id: `${at.slice(0, -1)}-${id}`,
        name: at.slice(0, -1),
        address: '127.0.0.1',
        port: 4000,
        tags: ['access'],
        meta: { term: '7' },
      });

      test('a service is found by name, and only among the passing when it passes', async () => {
        const [c, at] = [client(), folder()];
        const service = serviceOf(at, 'one');
        const registration = await c.register(service, { kind: 'ttl', ttlMs: longTtlMs });
        const other = await client().register(serviceOf(at, 'two'), {
          kind: 'ttl',
          ttlMs: longTtlMs,
          status: 'passing',
        });
        const ids = async (passing: boolean): Promise<string[]> =>
          (await c.services(service.name, { passing })).map(
            ({ id, status }) => `${id.split('-').at(-1)} ${status}`,
          );
        expect(await ids(false)).toEqual(['one critical', 'two passing']);
        expect(await ids(true)).toEqual(['two passing']);
        await registration.report('passing', 'ready');
        expect(await ids(true)).toEqual(['one passing', 'two passing']);
        expect((await c.services(service.name))[0]).toEqual({ ...service, status: 'passing' });
        await other.report('warning');
        expect(await ids(true)).toEqual(['one passing']);
        await other.deregister();
        await other.deregister();
        expect(await ids(false)).toEqual(['one passing']);
        await registration.deregister();
        expect(await ids(false)).toEqual([]);
      });

      test('a service stays passing while its process reports, and is critical when it falls silent', async () => {
        const { proxy, coordinator } = await proxied();
        const [c, at] = [client(), folder()];
        const service = serviceOf(at, 'one');
        const registration = await coordinator.register(service, { kind: 'ttl', ttlMs: ttlMs * 2 });
        await registration.report('passing');
        const stop = new AbortController();
        const states: string[] = [];
        const watching = (async () => {
          for await (const found of c.watchServices(service.name, { signal: stop.signal })) {
            states.push(found.map(({ status }) => status).join());
            if (states.at(-1) === 'critical') return;
          }
        })();
        await systemClock.sleep(ttlMs * 5);
        expect(states).toEqual(['passing']);
        proxy.silent = true;
        await watching;
        expect(states).toEqual(['passing', 'critical']);
        expect(await c.services(service.name, { passing: true })).toEqual([]);
        proxy.silent = false;
        proxy.cut();
      });

      test('a service that the coordinator lost is registered again with the next report', async () => {
        const [c, at] = [client(), folder()];
        const service = serviceOf(at, 'one');
        const registration = await c.register(service, { kind: 'ttl', ttlMs: longTtlMs });
        await operator().deregister(service);
        expect(await c.services(service.name)).toEqual([]);
        await registration.report('passing');
        expect(await c.services(service.name, { passing: true })).toHaveLength(1);
      });
    });

    test('it says who answers', async () => {
      expect(await client().status()).toMatchObject({
        leader: expect.stringMatching(/:\d+$/) as string,
        version: expect.stringMatching(/^\d+\.\d+/) as string,
      });
    });

    test('a coordinator that cannot be reached is an error that names it', async () => {
      const proxy = await TcpProxy.start(harness.url);
      const { url } = proxy;
      await proxy[Symbol.asyncDispose]();
      const error = { code: 'COORDINATOR_UNAVAILABLE', message: expect.stringContaining(url) as string };
      const gone = client(url);
      await expect(gone.get('a')).rejects.toMatchObject(error);
      await expect(gone.put('a', 'x')).rejects.toMatchObject(error);
      await expect(gone.session({ ttlMs: longTtlMs, name: 'x' })).rejects.toMatchObject(error);
      await expect(gone.status()).rejects.toMatchObject(error);
    });

    describe('a restart of the coordinator', () => {
      test('keeps values, versions, sessions and locks, and watches go on', async () => {
        const { proxy, coordinator: c } = await proxied();
        const at = folder();
        const session = await c.session({ ttlMs: longTtlMs, name: 'before', lockDelayMs: 0 });
        const lock = await c.lock(`${at}lock`, session, { owner: 'one' });
        await c.put(`${at}a`, '1');
        const before = await c.list(at);
        const watch = c.watch(`${at}a`, AbortSignal.timeout(30_000))[Symbol.asyncIterator]();
        expect((await watch.next()).value).toHaveLength(1);
        const change = watch.next();
        await harness.restart();
        proxy.pointTo(harness.url);
        proxy.cut();
        const eventually = async <T>(work: () => Promise<T>): Promise<T> => {
          for (;;) {
            try {
              return await work();
            } catch (error) {
              if ((error as { code?: string }).code !== 'COORDINATOR_UNAVAILABLE') throw error;
              await systemClock.sleep(100);
            }
          }
        };
        expect(await eventually(() => c.list(at))).toEqual(before);
        await eventually(() => session.renew());
        expect(await c.txn([held(lock)], [{ kind: 'put', key: `${at}a`, value: '2' }])).toMatchObject({
          committed: true,
        });
        const [entry] = (await change).value as readonly Entry[];
        expect(entry?.value.toString()).toBe('2');
        expect(entry?.version).toBeGreaterThan(before.at(-1)?.version ?? 0n);
        await lock.release();
        const next = await c.lock(`${at}lock`, await longSession(c), { owner: 'two', waitMs: 5000 });
        expect(next.token).toBeGreaterThan(lock.token);
      });
    });
  });
}
