import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { systemClock } from '../core/clock.ts';
import { Connection, type TlsOptions } from '../postgres/connection.ts';
import { resolveRunAsFor } from '../postgres/run-as.ts';
import { startServer, type OwnServer } from '../postgres/server.ts';
import { ServerFolder } from '../postgres/server-folder.ts';
import { keepCertificates } from './certificate-upkeep.ts';
import { NodeCertificates } from './certificates.ts';

const DAY_MS = 86_400_000;
const quiet = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}certificates-`));
});
afterEach(() => rm(root, { recursive: true, force: true, maxRetries: 3 }));

async function certificatesOf(kind: 'access' | 'data', tlsNames: readonly string[] = []) {
  const path = join(root, kind);
  const folder = await ServerFolder.at(path, await resolveRunAsFor(join(path, 'data'), undefined));
  await folder.make();
  const caFolder = join(root, 'ca');
  const options = { name: kind, kind, caFolder, tlsNames, group: undefined };
  const certificates = NodeCertificates.of(options, path);
  if (!certificates) throw new Error('there is an authority');
  return { certificates, folder };
}

async function names(certificates: NodeCertificates): Promise<string> {
  return new X509Certificate((await certificates.shown()).certPem).subjectAltName ?? '';
}

/** Whether a session is encrypted; a certificate that does not fit is an error. */
async function shownTo(server: OwnServer, tls: TlsOptions): Promise<boolean> {
  await using client = await Connection.open({ ...server.admin(), tls }, { connectTimeoutMs: 5_000 });
  const { ssl } = await client.one<{ ssl: boolean }>(
    'select ssl from pg_catalog.pg_stat_ssl where pid = pg_catalog.pg_backend_pid()',
  );
  return ssl;
}

test('a certificate is due when it is missing, soon over, not for all names, or of another authority', async () => {
  const { certificates, folder } = await certificatesOf('access', ['db.example']);
  expect(await certificates.check(Date.now())).toMatchObject({ state: 'todo' });
  expect(await certificates.install(folder)).toBe(true);
  expect(await certificates.check(Date.now())).toMatchObject({ state: 'done' });
  expect(await certificates.install(folder)).toBe(false);
  expect(await certificates.check(Date.now() + 600 * DAY_MS)).toMatchObject({
    state: 'todo',
    reason: expect.stringContaining('it ends soon') as string,
  });
  const { certificates: more } = await certificatesOf('access', ['db.example', 'lb.example']);
  expect(await more.check(Date.now())).toMatchObject({
    state: 'todo',
    reason: expect.stringContaining('lb.example') as string,
  });
  await rm(join(root, 'ca'), { recursive: true });
  expect(await certificates.install(folder)).toBe(true);
  expect(await certificates.check(Date.now())).toMatchObject({ state: 'done' });
});

test('a server that runs shows a certificate for the members that have come, and its sessions go on', async () => {
  const { certificates, folder } = await certificatesOf('access');
  await certificates.install(folder);
  await using server = await startServer({
    folder: folder.path,
    port: 0,
    durable: false,
    tls: certificates.server,
  });
  const caPem = await readFile(certificates.caFile, 'utf8');
  expect(await shownTo(server, { mode: 'verify-full', caPem })).toBe(true);
  await using session = await Connection.open(server.admin(), { connectTimeoutMs: 5_000 });

  // Only who shows the new one is believed by those who trust nothing but the new authority.
  await rm(join(root, 'ca'), { recursive: true });
  const stop = new AbortController();
  let renewed = 0;
  const kept = keepCertificates(
    {
      clock: systemClock,
      log: quiet,
      postgres: () => ({
        version: server.version,
        endpoint: server.admin(),
        own: server,
        credentials: {},
        certificates: {
          renew: (peers) => certificates.install(folder, peers),
          shown: () => certificates.shown(),
        },
      }),
      peers: () => ['10.1.2.3', 'an2.example', '127.0.0.1'],
      onRenewed: async () => {
        renewed += 1;
      },
    },
    stop.signal,
  );
  await expect.poll(() => renewed, { timeout: 30_000 }).toBe(1);
  const newCaPem = await readFile(certificates.caFile, 'utf8');
  expect(newCaPem).not.toBe(caPem);
  await expect
    .poll(() => shownTo(server, { mode: 'verify-full', caPem: newCaPem }).catch(() => false), {
      timeout: 30_000,
    })
    .toBe(true);
  expect(await names(certificates)).toContain('an2.example');
  expect(await names(certificates)).toContain('10.1.2.3');
  await expect(shownTo(server, { mode: 'verify-full', caPem })).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
  });
  expect(await session.one('select 1 as one')).toEqual({ one: 1 });
  stop.abort();
  await kept;
});
