import { describe, expect, test } from 'vitest';
import type { MasterRecord, MemberRecord } from '../group-keys.ts';
import { haproxyConfig } from './haproxy-config.ts';
import { pgbouncerConfig, pgbouncerUsers } from './pgbouncer-config.ts';
import { proxyView } from './proxy-view.ts';

function member(node: string, state: MemberRecord['state'] = 'member', poolerPort?: number): MemberRecord {
  return {
    node,
    nodeUuid: '0191d6c0-0000-7000-8000-000000000001',
    host: `${node}.example`,
    port: 5432,
    state,
    tags: {},
    databases: ['rdpg'],
    joinedAt: '2026-01-01T00:00:00Z',
    ...(poolerPort === undefined ? {} : { poolerPort }),
  };
}

function master(node: string, state: MasterRecord['state'] = 'active'): MasterRecord {
  return { node, term: '7', since: '2026-01-01T00:00:00Z', state, reason: 'first' };
}

const all = [member('an1'), member('an2'), member('an3')];

describe('to whom clients are led', () => {
  test.each([
    ['the active master', all, master('an2'), 'an2', ['an1', 'an3']],
    ['nobody while a master is elected', all, master('an2', 'electing'), undefined, ['an1', 'an2', 'an3']],
    [
      'nobody while the former one is fenced',
      all,
      master('an2', 'fencing'),
      undefined,
      ['an1', 'an2', 'an3'],
    ],
    ['nobody before the first master', all, undefined, undefined, ['an1', 'an2', 'an3']],
    ['the master reads, too, when it is alone', [member('an1')], master('an1'), 'an1', ['an1']],
    [
      'members that are not in, or have to rejoin, are left out',
      [member('an1'), member('an2', 'joining'), member('an3', 'rejoin-needed'), member('an4', 'leaving')],
      master('an1'),
      'an1',
      ['an1'],
    ],
    ['nobody where the master is unknown', all, master('an9'), undefined, ['an1', 'an2', 'an3']],
  ])('%s', (_what, members, record, writes, reads) => {
    const view = proxyView(members, record);
    expect(view.master?.node).toBe(writes);
    expect(view.readers.map(({ node }) => node)).toEqual(reads);
  });

  test('where a member has a PgBouncer, clients go through it', () => {
    const view = proxyView([member('an1', 'member', 6432), member('an2')], master('an1'));
    expect(view).toEqual({
      master: { node: 'an1', host: 'an1.example', port: 6432 },
      readers: [{ node: 'an2', host: 'an2.example', port: 5432 }],
    });
  });
});

describe('configuration files', () => {
  const view = {
    bindHost: '127.0.0.1',
    writePort: 5000,
    readPort: 5001,
    master: { node: 'an1', host: '10.0.0.1', port: 6432 },
    readers: [{ node: 'an2', host: 'fd00::2', port: 6432 }],
    socketPath: "/run/it's/haproxy.sock",
    maxConnections: 100,
  };

  test('equal views give equal text; another master gives another mark', () => {
    expect(haproxyConfig(view)).toEqual(haproxyConfig({ ...view }));
    expect(haproxyConfig({ ...view, master: undefined }).mark).not.toBe(haproxyConfig(view).mark);
  });

  test('each way in leads to its servers only', () => {
    const { text, mark } = haproxyConfig(view);
    const section = (name: string): string =>
      text.slice(text.indexOf(`\nbackend ${name}\n`) + 1).split('\n\n')[0] ?? '';
    expect(section('write')).toContain('server an1 10.0.0.1:6432 ');
    expect(section('write')).not.toContain('an2');
    expect(section('read')).toContain('server an2 [fd00::2]:6432 ');
    expect(text).toContain(`setenv VARVE_CONFIG ${mark}`);
    expect(text).toContain(String.raw`'/run/it'\''s/haproxy.sock'`);
  });

  test('names of databases and roles are quoted where they need it', () => {
    const text = pgbouncerConfig({
      listenHost: '127.0.0.1',
      listenPort: 6432,
      postgres: { host: '127.0.0.1', port: 5432 },
      databases: ['varve', 'a b', "it's"],
      usersFile: '/f/users.txt',
      pidFile: '/f/pid',
      logFile: '/f/log',
      tls: undefined,
      maxServerConnections: 5,
      maxClientConnections: 50,
      statsUsers: ['rdpg'],
    });
    expect(text).toContain('\nvarve = host=127.0.0.1 port=5432 dbname=varve\n');
    expect(text).toContain(`\n"a b" = host=127.0.0.1 port=5432 dbname='a b'\n`);
    expect(text).toContain(`\n"it's" = host=127.0.0.1 port=5432 dbname='it''s'\n`);
    expect(pgbouncerUsers([{ role: 'a"b', verifier: 'SCRAM-SHA-256$x' }])).toBe('"a""b" "SCRAM-SHA-256$x"\n');
  });
});
