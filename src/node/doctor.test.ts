import { describe, expect, test } from 'vitest';
import { VarveError } from '../core/errors.ts';
import { examine, findingLines, ok } from './doctor-finding.ts';
import {
  clockVerdict,
  diskVerdict,
  fsyncVerdict,
  nodeVersionVerdict,
  openFilesVerdict,
} from './doctor-machine.ts';
import { serverChecks, type ServerFacts } from './doctor-server.ts';

const GIB = 1024 ** 3;

test.each([
  ['an old Node', nodeVersionVerdict('20.18.3'), 'fail'],
  ['an older Node', nodeVersionVerdict('18.20.0'), 'fail'],
  ['the oldest good Node', nodeVersionVerdict('20.19.0'), 'ok'],
  ['a newer Node', nodeVersionVerdict('24.1.0'), 'ok'],
  ['an almost full disk', diskVerdict(0.5 * GIB, false), 'fail'],
  ['a small disk', diskVerdict(5 * GIB, false), 'warn'],
  ['a large disk', diskVerdict(50 * GIB, false), 'ok'],
  ['a disk in memory', diskVerdict(50 * GIB, true), 'warn'],
  ['a fast disk with one outlier', fsyncVerdict([1, 1, 500]), 'ok'],
  ['a slow disk', fsyncVerdict([30, 40, 1]), 'warn'],
  [
    'few open files',
    openFilesVerdict('Max open files            256                  4096                 files'),
    'warn',
  ],
  [
    'many open files',
    openFilesVerdict('Max open files            20000                20000                files'),
    'ok',
  ],
  [
    'no limit of open files',
    openFilesVerdict('Max open files            unlimited            unlimited            files'),
    'ok',
  ],
  ['a clock that was never set', clockVerdict(0), 'fail'],
  ['a clock that is set', clockVerdict(Date.UTC(2026, 0, 1)), 'ok'],
])('%s', (_, { state }, expected) => {
  expect(state).toBe(expected);
});

const fit: ServerFacts = {
  version_num: 180_004,
  version: '18.4',
  superuser: true,
  createdb: true,
  extensions: ['dblink', 'postgres_fdw'],
  wal_level: 'logical',
  max_prepared_transactions: 64,
  max_worker_processes: 8,
  max_connections: 100,
  password_encryption: 'scram-sha-256',
  encoding: 'UTF8',
  in_recovery: false,
};

describe('an existing server', () => {
  test('that is fit passes every check', async () => {
    expect((await examine(serverChecks(fit))).filter(({ state }) => state !== 'ok')).toEqual([]);
  });

  test.each<[string, Partial<ServerFacts>, string, string]>([
    ['too old', { version_num: 140_001 }, 'server-version', 'fail'],
    ['too new', { version_num: 190_000 }, 'server-version', 'fail'],
    ['a standby', { in_recovery: true }, 'primary', 'fail'],
    ['for an ordinary user', { superuser: false, createdb: false }, 'rights', 'fail'],
    ['for one who may make databases', { superuser: false }, 'rights', 'warn'],
    ['without dblink', { extensions: ['postgres_fdw'] }, 'extensions', 'fail'],
    ['without any of them', { extensions: null }, 'extensions', 'fail'],
    ['without logical replication', { wal_level: 'replica' }, 'wal-level', 'warn'],
    ['without prepared transactions', { max_prepared_transactions: 0 }, 'max-prepared-transactions', 'warn'],
    ['with few workers', { max_worker_processes: 4 }, 'max-worker-processes', 'warn'],
    ['with few connections', { max_connections: 20 }, 'max-connections', 'warn'],
    ['with md5', { password_encryption: 'md5' }, 'password-encryption', 'warn'],
    ['with another encoding', { encoding: 'SQL_ASCII' }, 'encoding', 'warn'],
  ])('%s is told so, and nothing else', async (_, facts, check, state) => {
    const findings = await examine(serverChecks({ ...fit, ...facts }));
    const bad = findings
      .filter((finding) => finding.state !== 'ok')
      .map((finding) => [finding.check, finding.state]);
    expect(bad).toEqual([[check, state]]);
  });
});

test('a check that throws has failed, with the error and its hint, and the others go on', async () => {
  const findings = await examine([
    {
      check: 'a',
      why: 'w',
      remedy: 'r',
      look: () => {
        throw new VarveError('LOGIN_FAILED', 'no', { detail: 'x\ny', hint: 'h' });
      },
    },
    { check: 'b', why: 'w', remedy: 'r', look: () => ok('fine') },
  ]);
  expect(findings.map(({ check, state, found, remedy }) => [check, state, found, remedy])).toEqual([
    ['a', 'fail', 'no (x; y)', 'h'],
    ['b', 'ok', 'fine', 'r'],
  ]);
  expect(findingLines(findings)).toEqual([
    '✘ a  no (x; y)',
    '     why:    w',
    '     remedy: h',
    '✔ b  fine',
    '',
    '1 ok, 0 warnings, 1 failures',
  ]);
});
