import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { endpointFromUrl } from './existing-server.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-url-'));
  await writeFile(join(folder, 'pass'), 'db:5432:app:u:kept\n', { mode: 0o600 });
  await writeFile(join(folder, 'open-pass'), 'db:5432:app:u:kept\n', { mode: 0o644 });
  await writeFile(join(folder, 'ca'), 'CA');
  await writeFile(join(folder, 'crt'), 'CRT');
  await writeFile(join(folder, 'key'), 'KEY', { mode: 0o600 });
  await writeFile(join(folder, 'open-key'), 'KEY');
  await chmod(join(folder, 'open-key'), 0o644);
});
afterAll(() => rm(folder, { recursive: true }));

const prefer = { mode: 'prefer' };

describe('endpointFromUrl reads', () => {
  it.each([
    ['postgres://u@db', { host: 'db', port: 5432, user: 'u', database: 'u', tls: prefer }],
    [
      'postgresql://u:p%40%2F@db:6000/app',
      { host: 'db', port: 6000, user: 'u', password: 'p@/', database: 'app', tls: prefer },
    ],
    [
      'postgres://u:p@ss@db/app',
      { host: 'db', port: 5432, user: 'u', password: 'p@ss', database: 'app', tls: prefer },
    ],
    [
      'postgres://u:@db/app',
      { host: 'db', port: 5432, user: 'u', password: '', database: 'app', tls: prefer },
    ],
    ['postgres://u@[::1]:6000/app', { host: '::1', port: 6000, user: 'u', database: 'app', tls: prefer }],
    [
      'postgres://u@%2Frun%2Fpg/app',
      { host: '/run/pg', port: 5432, user: 'u', database: 'app', tls: prefer },
    ],
    [
      'postgres:///app?host=/run/pg&user=u&port=6000',
      { host: '/run/pg', port: 6000, user: 'u', database: 'app', tls: prefer },
    ],
    [
      'postgres://u@db/app?sslmode=disable',
      { host: 'db', port: 5432, user: 'u', database: 'app', tls: { mode: 'disable' } },
    ],
    [
      'postgres://u@db/app?sslmode=verify-ca&sslrootcert=@ca&sslcert=@crt&sslkey=@key',
      {
        host: 'db',
        port: 5432,
        user: 'u',
        database: 'app',
        tls: { mode: 'require', caPem: 'CA', certPem: 'CRT', keyPem: 'KEY' },
      },
    ],
    [
      'postgres://u@db/app?sslmode=verify-full&sslrootcert=system',
      { host: 'db', port: 5432, user: 'u', database: 'app', tls: { mode: 'verify-full' } },
    ],
    [
      'postgres://u@db/app?passfile=@pass',
      { host: 'db', port: 5432, user: 'u', database: 'app', password: 'kept', tls: prefer },
    ],
    [
      'postgres://u:given@db/app?passfile=@pass',
      { host: 'db', port: 5432, user: 'u', database: 'app', password: 'given', tls: prefer },
    ],
  ])('%s', async (url, endpoint) => {
    expect(await endpointFromUrl(url.replaceAll('=@', `=${folder}/`))).toEqual(endpoint);
  });
});

describe('endpointFromUrl refuses', () => {
  it.each([
    ['mysql://u:hunter2@db/app', 'postgresql://'],
    ['hunter2', 'postgresql://'],
    ['postgres://db/app?password=hunter2', 'no user'],
    ['postgres://u:hunter2@/app', 'no host'],
    ['postgres://u:hunter2@a,b/app', 'several hosts'],
    ['postgres://u:hunter2@db:0/app', 'port'],
    ['postgres://u:hunter2@db:99999/app', 'port'],
    ['postgres://u:hunter2@db:x/app', 'port'],
    ['postgres://u:hun/ter2@db:5432/app', 'no user'],
    ['postgres://u:hunter2%@db/app', 'password'],
    ['postgres://u:hunter2@db/app?target=x', 'not supported'],
    ['postgres://u:hunter2@db/app?sslmode', 'without a value'],
    ['postgres://u:hunter2@db/app?sslmode=maybe', 'sslmode'],
    ['postgres://u:hunter2@db/app?sslmode=verify-ca', 'verify-ca'],
    ['postgres://u:hunter2@db/app?sslcert=@crt', 'only one'],
    ['postgres://u:hunter2@db/app?sslrootcert=@none', 'sslrootcert'],
    ['postgres://u:hunter2@db/app?sslcert=@crt&sslkey=@open-key', 'others may read'],
    ['postgres://u@db/app?passfile=@open-pass', 'others may read'],
  ])('%s, and says %j without the password', async (url, words) => {
    const error: unknown = await endpointFromUrl(url.replaceAll('=@', `=${folder}/`)).catch(
      (e: unknown) => e,
    );
    expect(error).toMatchObject({ message: expect.stringContaining(words) as string });
    expect(JSON.stringify(error)).not.toMatch(/hun|ter2|kept/);
  });
});
