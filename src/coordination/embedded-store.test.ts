import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { KV_VERBS, type KvOperation } from './embedded-kv.ts';
import { EmbeddedStore, EXPIRY_TTLS, kvTopic, type StoreCommand } from './embedded-store.ts';

const session = (id: string, more: object = {}): StoreCommand => ({
  kind: 'session-create',
  session: {
    id,
    name: id,
    node: 'n',
    ttl: '10s',
    ttlMs: 10_000,
    lockDelayMs: 5000,
    behavior: 'release',
    ...more,
  },
});
const destroy = (id: string): StoreCommand => ({ kind: 'session-destroy', id });
const kv = (...operations: KvOperation[]): StoreCommand => ({ kind: 'kv', operations });
const lock = (key: string, by: string): KvOperation => ({ verb: 'lock', key, session: by });

function storeWith(...commands: StoreCommand[]): EmbeddedStore {
  const store = new EmbeddedStore(0);
  for (const command of commands) store.apply(command, 0);
  return store;
}

/** What one sees of a key. */
interface Seen {
  value: string;
  flags: number;
  session: string;
  lockIndex: number;
  createIndex: number;
  modifyIndex: number;
}

/** The same rules once more, as slowly and plainly as possible: every command copies everything. */
class Model {
  /** As in Consul: 0 is what nobody has seen anything of. */
  index = 1;
  keys: Record<string, Seen> = {};
  sessions: string[] = [];

  /** Whether the command succeeded. */
  apply(command: StoreCommand): boolean {
    const next = structuredClone({ keys: this.keys, sessions: this.sessions });
    const at = this.index + 1;
    let ok = true;
    if (command.kind === 'session-create') next.sessions.push(command.session.id);
    if (command.kind === 'session-destroy') {
      next.sessions = next.sessions.filter((id) => id !== command.id);
      for (const seen of Object.values(next.keys)) {
        if (seen.session === command.id) Object.assign(seen, { session: '', modifyIndex: at });
      }
    }
    if (command.kind === 'kv') {
      for (const operation of command.operations) ok = this.#run(next, operation, at) && ok;
    }
    if (!ok || JSON.stringify(next) === JSON.stringify({ keys: this.keys, sessions: this.sessions }))
      return ok;
    Object.assign(this, next, { index: at });
    return true;
  }

  #run(
    state: { keys: Record<string, Seen>; sessions: string[] },
    { verb, key, value = '', flags = 0, session = '', index = 0 }: KvOperation,
    at: number,
  ): boolean {
    const old = state.keys[key];
    const write = (holder: string, lockIndex: number): true => {
      const to = { value, flags, session: holder, lockIndex, createIndex: old?.createIndex ?? at };
      const same = old && JSON.stringify({ ...to, modifyIndex: old.modifyIndex }) === JSON.stringify(old);
      state.keys[key] = { ...to, modifyIndex: same ? old.modifyIndex : at };
      return true;
    };
    const version = old === undefined ? 0 : old.modifyIndex;
    if (verb === 'get' || verb === 'check-session' || verb === 'check-index') {
      if (old === undefined) return false;
      if (verb === 'check-session') return old.session === session;
      return verb === 'get' || version === index;
    }
    if (verb === 'check-not-exists') return old === undefined;
    if (verb === 'get-tree') return true;
    if (verb === 'set' || verb === 'cas') {
      return (verb === 'set' || version === index) && write(old === undefined ? '' : old.session, 0);
    }
    if (verb === 'lock') {
      if (!state.sessions.includes(session)) return false;
      if (old?.session === session) return write(session, old.lockIndex);
      if (old !== undefined && old.session !== '') return false;
      return write(session, (old === undefined ? 0 : old.lockIndex) + 1);
    }
    if (verb === 'unlock') return session !== '' && old?.session === session && write('', old.lockIndex);
    for (const name of Object.keys(state.keys)) {
      if (verb === 'delete-tree' ? name.startsWith(key) : name === key) {
        if (verb === 'delete-cas' && version !== index) return false;
        delete state.keys[name];
      }
    }
    return true;
  }
}

const sessionIds = ['s1', 's2', 's3'];
const operationOf = fc.record({
  verb: fc.constantFrom(...KV_VERBS),
  key: fc.constantFrom('a', 'a/b', 'c'),
  value: fc.constantFrom('', 'dmFsdWU='),
  flags: fc.constantFrom(0, 7),
  session: fc.constantFrom('', ...sessionIds),
  index: fc.nat(12),
});
const commandOf = fc.oneof(
  { weight: 6, arbitrary: fc.array(operationOf, { minLength: 1, maxLength: 3 }).map((all) => kv(...all)) },
  { weight: 2, arbitrary: fc.constantFrom(...sessionIds).map((id) => session(id)) },
  { weight: 1, arbitrary: fc.constantFrom(...sessionIds).map(destroy) },
);

function seenIn(store: EmbeddedStore): Record<string, Seen> {
  return Object.fromEntries([...store.rows].map(([name, { key: _key, ...seen }]) => [name, seen]));
}

describe('the store', () => {
  test('does what a naive model does, whatever the commands', () => {
    fc.assert(
      fc.property(fc.array(commandOf, { maxLength: 40 }), (commands) => {
        const store = new EmbeddedStore(0);
        const model = new Model();
        for (const command of commands) {
          // The server draws a new id for each session.
          if (command.kind === 'session-create' && store.sessions.has(command.session.id)) continue;
          const before = store.index;
          const { kv, changed } = store.apply(command, 0);
          expect(kv.errors.length === 0).toBe(model.apply(command));
          expect(seenIn(store)).toEqual(model.keys);
          expect([...store.sessions.keys()]).toEqual(model.sessions);
          expect(store.index).toBe(model.index);
          expect(store.index - before).toBe(changed ? 1 : 0);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('is the same after its effective commands are replayed, and after a snapshot', () => {
    fc.assert(
      fc.property(fc.array(commandOf, { maxLength: 40 }), fc.nat(40), (commands, cut) => {
        const store = new EmbeddedStore(0);
        const replayed = new EmbeddedStore(0);
        let restored = new EmbeddedStore(0);
        for (const [i, command] of commands.entries()) {
          if (store.apply(command, 0).changed) replayed.apply(command, 99);
          restored.apply(command, 0);
          if (i === cut)
            restored = new EmbeddedStore(50, JSON.parse(JSON.stringify(restored.snapshot(0))) as never);
        }
        expect(replayed.snapshot(99)).toEqual(store.snapshot(0));
        expect(restored.snapshot(50)).toEqual(store.snapshot(0));
      }),
      { numRuns: 200 },
    );
  });

  test('gives a lock to one session, and its index grows from holder to holder', () => {
    fc.assert(
      fc.property(fc.array(commandOf, { maxLength: 60 }), (commands) => {
        const store = new EmbeddedStore(0);
        const granted = new Map<string, { holder: string; index: number }>();
        for (const command of commands) {
          store.apply(command, 0);
          for (const { key, session: holder, modifyIndex } of store.rows.values()) {
            if (holder === '') continue;
            expect(store.sessions.has(holder)).toBe(true);
            const last = granted.get(key);
            if (last && last.holder !== holder) expect(modifyIndex).toBeGreaterThan(last.index);
            granted.set(key, { holder, index: modifyIndex });
          }
        }
      }),
    );
  });
});

describe('a session', () => {
  const endsMs = 10_000 * EXPIRY_TTLS;

  test('ends between one and two TTLs after its last renewal', () => {
    const store = storeWith(session('s1'));
    expect(EXPIRY_TTLS).toBeGreaterThan(1);
    expect(EXPIRY_TTLS).toBeLessThanOrEqual(2);
    expect(store.nextDueMs()).toBe(endsMs);
    expect(store.due(endsMs - 1)).toEqual([]);
    expect(store.due(endsMs)).toEqual([destroy('s1')]);
    expect(store.renewSession('s1', 3000)).toBe(true);
    expect(store.due(endsMs + 2999)).toEqual([]);
    expect(store.due(endsMs + 3000)).toEqual([destroy('s1')]);
    expect(store.renewSession('s2', 3000)).toBe(false);
  });

  test('without a TTL lasts until it is destroyed', () => {
    const store = storeWith(session('s1', { ttl: '', ttlMs: 0 }));
    expect(store.nextDueMs()).toBe(Infinity);
    expect(store.apply(destroy('s1'), 0).changed).toBe(true);
    expect(store.apply(destroy('s1'), 0).changed).toBe(false);
  });

  test('starts its TTL anew when the store is restored', () => {
    const store = new EmbeddedStore(1_000_000, storeWith(session('s1')).snapshot(0));
    expect(store.nextDueMs()).toBe(1_000_000 + endsMs);
  });

  test('takes the keys that it locked with it when it was made to', () => {
    const store = storeWith(session('s1', { behavior: 'delete' }), kv(lock('a', 's1')));
    store.apply(destroy('s1'), 0);
    expect(store.rows.size).toBe(0);
    expect(store.refusal(kv(lock('a', 's2')), 4999)).toHaveLength(1);
  });
});

describe('a lock delay', () => {
  const held = storeWith.bind(undefined, session('s1'), session('s2'), kv(lock('a', 's1'), lock('b', 's1')));

  test('begins when a lock is lost with its session, and only for that key', () => {
    const store = held();
    store.apply(destroy('s1'), 100);
    const refusal = [{ opIndex: 1, what: 'failed to lock key "a" due to lock delay' }];
    expect(store.refusal(kv({ verb: 'set', key: 'a' }, lock('a', 's2')), 5099)).toEqual(refusal);
    expect(store.refusal(kv(lock('a', 's2')), 5100)).toEqual([]);
    expect(store.refusal(kv(lock('c', 's2')), 100)).toEqual([]);
  });

  test('is none after an explicit release', () => {
    const store = held();
    store.apply(kv({ verb: 'unlock', key: 'a', session: 's1' }), 0);
    store.apply(destroy('s1'), 0);
    expect(store.refusal(kv(lock('a', 's2')), 0)).toEqual([]);
    expect(store.refusal(kv(lock('b', 's2')), 0)).toHaveLength(1);
  });

  test('is kept by a snapshot while it runs, and starts anew', () => {
    const store = held();
    store.apply(destroy('s1'), 0);
    const restored = new EmbeddedStore(1000, store.snapshot(4999));
    expect(restored.refusal(kv(lock('a', 's2')), 5999)).toHaveLength(1);
    expect(restored.refusal(kv(lock('a', 's2')), 6000)).toEqual([]);
    expect(store.snapshot(5000).delays).toEqual([]);
  });

  test('does not hinder the replay of a lock that was granted after it', () => {
    const store = held();
    store.apply(destroy('s1'), 0);
    expect(store.apply(kv(lock('a', 's2')), 0).kv.errors).toEqual([]);
    expect(store.snapshot(0).delays).toEqual([['b', 5000]]);
  });
});

describe('what changed since an index', () => {
  const isA = (topic: string): boolean => topic === kvTopic('a');

  test('is known by topic, and in doubt is yes', () => {
    const store = storeWith(
      kv({ verb: 'set', key: 'a', value: 'MQ==' }),
      kv({ verb: 'set', key: 'b', value: 'MQ==' }),
    );
    expect(store.changedSince(0, isA)).toBe(true);
    expect(store.changedSince(1, isA)).toBe(true);
    expect(store.changedSince(2, isA)).toBe(false);
    expect(store.changedSince(3, isA)).toBe(false);
    expect(store.changedSince(4, isA)).toBe(true);
    const restored = new EmbeddedStore(0, store.snapshot(0));
    expect(restored.changedSince(2, isA)).toBe(true);
    expect(restored.changedSince(3, isA)).toBe(false);
  });

  test('is forgotten after a while, and then it is yes', () => {
    const store = storeWith(kv({ verb: 'set', key: 'a' }));
    for (let i = 0; i < 5000; i += 1) store.apply(kv({ verb: 'set', key: 'b', flags: i + 1 }), 0);
    expect(store.changedSince(1, isA)).toBe(true);
    expect(store.changedSince(4900, isA)).toBe(false);
  });

  test('includes keys that a session lost or a deletion took', () => {
    const store = storeWith(session('s1'), kv(lock('a', 's1')));
    store.apply(destroy('s1'), 0);
    expect(store.changedSince(2, isA)).toBe(true);
    store.apply(kv({ verb: 'delete-tree', key: '' }), 0);
    expect(store.changedSince(3, isA)).toBe(true);
  });
});

describe('a service', () => {
  const ttl = {
    id: 'c1',
    serviceId: 'id1',
    name: 'check',
    notes: '',
    method: { kind: 'ttl' as const, ttlMs: 1000 },
    deregisterAfterMs: 5000,
    status: 'critical' as const,
  };
  const register = (more: object = {}): StoreCommand => ({
    kind: 'service-register',
    service: {
      id: 'id1',
      name: 'web',
      tags: [],
      address: '',
      port: 1,
      meta: {},
      enableTagOverride: false,
      ...more,
    },
    checks: [ttl],
  });
  const status = (to: 'passing' | 'warning' | 'critical', output = ''): StoreCommand => ({
    kind: 'check-status',
    id: 'c1',
    status: to,
    output,
  });
  const statusOf = (store: EmbeddedStore): string | undefined => store.catalog.checks.get('c1')?.status;

  test('whose TTL check is not heard of becomes critical, and later is deregistered', () => {
    const store = storeWith(register(), status('passing'));
    expect(store.due(999)).toEqual([]);
    store.catalog.heard('c1', 500);
    expect(store.due(1499)).toEqual([]);
    const late = status('critical', 'TTL expired');
    expect(store.due(1500)).toEqual([late]);
    store.apply(late, 1500);
    expect(store.nextDueMs()).toBe(6500);
    expect(store.due(6499)).toEqual([]);
    expect(store.due(6500)).toEqual([{ kind: 'service-deregister', id: 'id1' }]);
    store.apply(status('passing'), 6400);
    expect(store.due(6500)).toEqual([]);
  });

  test('registered again keeps the status of its check; the same registration changes nothing', () => {
    const store = storeWith(register(), status('passing', 'fine'));
    const before = store.index;
    expect(store.apply(register(), 0).changed).toBe(false);
    expect(store.apply(register({ port: 2 }), 0).changed).toBe(true);
    expect(store.index).toBe(before + 1);
    expect(statusOf(store)).toBe('passing');
    expect(store.catalog.services.get('id1')).toMatchObject({
      port: 2,
      createIndex: 2,
      modifyIndex: before + 1,
    });
  });

  test('deregistered takes its checks along', () => {
    const store = storeWith(register(), { kind: 'service-deregister', id: 'id1' });
    expect(store.catalog.checks.size).toBe(0);
    expect(store.nextDueMs()).toBe(Infinity);
    expect(store.apply(status('passing'), 0).changed).toBe(false);
    expect(store.apply({ kind: 'service-deregister', id: 'id1' }, 0).changed).toBe(false);
  });

  test('has a fresh TTL, and its status, after a restart', () => {
    const store = new EmbeddedStore(100, storeWith(register(), status('passing')).snapshot(0));
    expect(statusOf(store)).toBe('passing');
    expect(store.nextDueMs()).toBe(1100);
  });

  test('that moves to another name is a change of both names', () => {
    const store = storeWith(register());
    store.apply(register({ name: 'db' }), 0);
    for (const name of ['web', 'db'])
      expect(store.changedSince(2, (t) => t === `service:${name}`)).toBe(true);
    expect(store.changedSince(2, (t) => t === 'service:other')).toBe(false);
  });
});
