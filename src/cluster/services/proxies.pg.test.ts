import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connect, serverFacts, testDatabase, type TestDatabase } from '../../../test/database.ts';
import { freePorts } from '../../../test/free-ports.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { systemClock } from '../../core/clock.ts';
import { isAlive } from '../../postgres/postmaster.ts';
import { blockedAt, resolveRunAs, type RunAs } from '../../postgres/run-as.ts';
import { CertificateAuthority } from '../../postgres/certificates.ts';
import type { Connection, Endpoint } from '../../postgres/connection.ts';
import { Haproxy, haproxyCommand } from './haproxy.ts';
import type { HaproxyWanted } from './haproxy.ts';
import { HealthChecks } from './health-checks.ts';
import { Pgbouncer } from './pgbouncer.ts';
import type { PgbouncerWanted } from './pgbouncer.ts';
import { endLeftProxy } from './proxy-process.ts';
import { findProxyProgram } from './proxy-programs.ts';
import { readServerCertificate, type ServerCertificate } from './server-certificate.ts';

const haproxyProgram = await findProxyProgram('haproxy', {});
const pgbouncerProgram = await findProxyProgram('pgbouncer', {});
const complete = haproxyProgram !== undefined && pgbouncerProgram !== undefined;
if (!complete) {
  const missing = 'haproxy and pgbouncer (Debian has both under these names)';
  if (process.env['VARVE_REQUIRE_SERVICES'] === '1') throw new Error(`required here: ${missing}`);
  process.stderr.write(`SKIPPED: the group's proxies: install ${missing}\n`);
}

const silent = { info: () => {}, warn: () => {} };
const deps = { clock: systemClock, log: silent };

describe.skipIf(!complete)('proxies', () => {
  let folder: string;
  let runAs: RunAs | undefined;
  let database: TestDatabase;
  let pgbouncer: Pgbouncer;
  let haproxy: Haproxy;
  let pooled: PgbouncerWanted;
  let ports: number[];
  const login = { user: '', password: 'correct horse' };

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}proxies-`));
    runAs = await resolveRunAs();
    ports = await freePorts(4);
    database = await testDatabase();
    login.user = `${database.name}_app`;
    await using admin = await database.connect();
    await admin.query(`create role ${login.user} login password '${login.password}'`);
    const { host, port } = serverFacts().admin;
    pooled = {
      listenHost: '127.0.0.1',
      listenPort: ports[0] ?? 0,
      postgres: { host, port },
      databases: [database.name],
      tls: undefined,
      maxServerConnections: 10,
      maxClientConnections: 100,
      statsUsers: [],
      roles: await rolesOf(),
    };
    pgbouncer = new Pgbouncer(deps, {
      program: pgbouncerProgram ?? '',
      folder: join(tmpdir(), `${TEMP_PREFIX}pgb-${process.pid}`),
      runAs,
    });
    haproxy = new Haproxy(deps, {
      program: haproxyProgram ?? '',
      folder,
      socketPath: join(folder, 'haproxy.sock'),
    });
    await pgbouncer.apply(pooled);
  });

  afterAll(async () => {
    await haproxy?.[Symbol.asyncDispose]();
    await pgbouncer?.[Symbol.asyncDispose]();
    await using admin = await connect();
    await admin.query(`drop database ${database.name} with (force)`);
    await admin.query(`drop role if exists ${login.user}`);
    await rm(folder, { recursive: true, force: true });
    await rm(join(tmpdir(), `${TEMP_PREFIX}pgb-${process.pid}`), { recursive: true, force: true });
  });

  async function rolesOf(): Promise<{ role: string; verifier: string }[]> {
    await using admin = await database.connect();
    const { rows } = await admin.query<{ role: string; verifier: string }>(
      `select rolname as role, rolpassword as verifier from pg_catalog.pg_authid where rolname like $1`,
      [`${database.name}%`],
    );
    return rows;
  }

  const through = (port: number): Endpoint => ({
    host: '127.0.0.1',
    port,
    database: database.name,
    ...login,
  });
  const wanted = (more: Partial<HaproxyWanted> = {}): HaproxyWanted => ({
    bindHost: '127.0.0.1',
    writePort: ports[1] ?? 0,
    readPort: ports[2] ?? 0,
    master: { node: 'an1', host: '127.0.0.1', port: ports[0] ?? 0 },
    readers: [{ node: 'an1', host: '127.0.0.1', port: ports[0] ?? 0 }],
    maxConnections: 100,
    ...more,
  });
  const opened = (port: number) => connect(through(port), { throughPooler: true, connectTimeoutMs: 3000 });

  test('a client reaches the write master through HAProxy and PgBouncer with its own password', async () => {
    await haproxy.apply(wanted());
    await using client = await opened(ports[1] ?? 0);
    expect(await client.one('select current_user::text as who, current_database()::text as at')).toEqual({
      who: login.user,
      at: database.name,
    });
    const wrong = connect({ ...through(ports[1] ?? 0), password: 'wrong' }, { throughPooler: true });
    await expect(wrong).rejects.toMatchObject({ detail: expect.stringContaining('authentication failed') });
  });

  test('shows the server’s certificate to clients that want TLS, also a new one, and takes others without', async () => {
    const authority = await CertificateAuthority.open(join(folder, 'authority'));
    const certificate = async (): Promise<ServerCertificate> => {
      const { certFile, keyFile } = await authority.issueServer(['127.0.0.1']);
      return { certPem: await readFile(certFile, 'utf8'), keyPem: await readFile(keyFile, 'utf8') };
    };
    const shown = async (): Promise<string> => {
      const tls = { mode: 'verify-full' as const, caPem: authority.caPem };
      const endpoint = { ...through(ports[1] ?? 0), tls };
      await using client = await connect(endpoint, { throughPooler: true, connectTimeoutMs: 3000 });
      return (await client.one<{ who: string }>('select current_user::text as who')).who;
    };
    await haproxy.apply(wanted());
    await expect(shown()).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
    await pgbouncer.apply({ ...pooled, tls: await certificate() });
    expect(await shown()).toBe(login.user);
    await pgbouncer.apply({ ...pooled, tls: await certificate() });
    expect(await shown()).toBe(login.user);
    await using plain = await opened(ports[1] ?? 0);
    expect(await plain.one('select 1 as one')).toEqual({ one: 1 });
    await pgbouncer.apply(pooled);
  });

  test('the certificate is that of the server, where it has one that can be read', async () => {
    await using admin = await connect();
    expect(await readServerCertificate(admin)).toEqual({ certificate: undefined, trouble: undefined });
    const authority = await CertificateAuthority.open(join(folder, 'authority'));
    const { certFile, keyFile } = await authority.issueServer(['127.0.0.1']);
    const settings = (more: object): Connection =>
      ({
        one: () =>
          Promise.resolve({ ssl: 'on', cert: certFile, key: keyFile, folder, passphrase: '', ...more }),
      }) as unknown as Connection;
    expect((await readServerCertificate(settings({}))).certificate).toEqual({
      certPem: await readFile(certFile, 'utf8'),
      keyPem: await readFile(keyFile, 'utf8'),
    });
    const absent = await readServerCertificate(settings({ key: 'absent.key' }));
    expect(absent.trouble).toContain(join(folder, 'absent.key'));
    const locked = await readServerCertificate(settings({ passphrase: 'ask' }));
    expect(locked.trouble).toContain('passphrase');
  });

  test('when there is no write master, the write port lets nobody in and its sessions end; the read port goes on', async () => {
    await haproxy.apply(wanted());
    await using writer = await opened(ports[1] ?? 0);
    await using reader = await opened(ports[2] ?? 0);
    await haproxy.apply(wanted({ master: undefined }));
    await writer.lost;
    await expect(opened(ports[1] ?? 0)).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
    expect(await reader.one('select 1 as one')).toEqual({ one: 1 });
    await haproxy.apply(wanted());
    await using again = await opened(ports[1] ?? 0);
    expect(await again.one('select 1 as one')).toEqual({ one: 1 });
  });

  test('a session of a former write master ends, one that reads elsewhere goes on', async () => {
    await haproxy.apply(wanted());
    await using writer = await opened(ports[1] ?? 0);
    await using reader = await opened(ports[2] ?? 0);
    await haproxy.apply(wanted({ master: { node: 'an2', host: '127.0.0.1', port: ports[0] ?? 0 } }));
    await writer.lost;
    expect(reader.closed).toBe(false);
    await using moved = await opened(ports[1] ?? 0);
    expect(await moved.one('select 1 as one')).toEqual({ one: 1 });
  });

  test('a configuration that HAProxy refuses changes nothing', async () => {
    await haproxy.apply(wanted());
    const text = await readFile(join(folder, 'haproxy.cfg'), 'utf8');
    const refused = haproxy.apply(wanted({ bindHost: 'no such host' }));
    await expect(refused).rejects.toMatchObject({ code: 'PROXY_CONFIG' });
    expect(await readFile(join(folder, 'haproxy.cfg'), 'utf8')).toBe(text);
    await using client = await opened(ports[1] ?? 0);
    expect(await client.one('select 1 as one')).toEqual({ one: 1 });
  });

  test('a role that is made later, or loses its password, is known after the next files', async () => {
    await haproxy.apply(wanted());
    await using admin = await database.connect();
    const late = `${database.name}_late`;
    await admin.query(`create role ${late} login password 'late'`);
    const asLate = { ...through(ports[1] ?? 0), user: late, password: 'late' };
    const attempt = () => connect(asLate, { throughPooler: true });
    await expect(attempt()).rejects.toMatchObject({
      code: expect.stringMatching(/LOGIN_FAILED|CONNECTION_FAILED/),
    });
    await pgbouncer.apply({ ...pooled, roles: await rolesOf() });
    await expect
      .poll(
        async () =>
          await attempt().then(
            async (c) => (await c.close(), 'in'),
            () => 'out',
          ),
      )
      .toBe('in');
    await admin.query(`drop role ${late}`);
  });

  test('a proxy that is killed is started again', async () => {
    await haproxy.apply(wanted());
    const { pid = 0 } = pgbouncer.process;
    process.kill(pid, 'SIGKILL');
    await expect.poll(() => pgbouncer.process.pid !== undefined && pgbouncer.process.pid !== pid).toBe(true);
    await expect
      .poll(
        async () =>
          await opened(ports[1] ?? 0).then(
            async (c) => (await c.close(), 'in'),
            () => 'out',
          ),
        { timeout: 5000 },
      )
      .toBe('in');
  });

  test('health is asked each way; a way that is cut is unhealthy and the others are not', async () => {
    await haproxy.apply(wanted());
    const { host, port } = serverFacts().admin;
    const checks = new HealthChecks({
      timeoutMs: 2000,
      endpoints: {
        haproxy: through(ports[1] ?? 0),
        pgbouncer: through(ports[0] ?? 0),
        postgres: { ...through(port), host },
      },
    });
    const all = async (): Promise<boolean[]> =>
      (
        await Promise.all((['haproxy', 'pgbouncer', 'postgres'] as const).map((way) => checks.check(way)))
      ).map((h) => h.healthy);
    await expect.poll(all).toEqual([true, true, true]);
    await haproxy.apply(wanted({ master: undefined }));
    expect(await all()).toEqual([false, true, true]);
  });

  test('what a killed daemon left running is ended before the next start; a stranger of that process id is not', async () => {
    await haproxy.apply(wanted());
    const { pidFile, configFile } = haproxyCommand({ program: '', folder });
    const left = Number(await readFile(pidFile, 'utf8'));
    expect(isAlive(left)).toBe(true);
    const strangers = join(folder, 'stranger.pid');
    await writeFile(strangers, String(process.pid));
    await endLeftProxy(systemClock, { pidFile: strangers, configFile });
    await endLeftProxy(systemClock, { pidFile, configFile });
    expect(isAlive(left)).toBe(false);
  });

  test('PgBouncer has files that only its user can read, without a password in them', async () => {
    const file = join(tmpdir(), `${TEMP_PREFIX}pgb-${process.pid}`, 'users.txt');
    const text = await readFile(file, 'utf8');
    expect(text).toContain('SCRAM-SHA-256$');
    expect(text).not.toContain(login.password);
    if (runAs)
      expect(await blockedAt(file, { ...runAs, uid: runAs.uid + 1, gid: runAs.gid + 1 })).toBeDefined();
  });
});
