import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connect, describeEachMajor } from '../../test/database.ts';
import { EMBEDDED_FROM } from '../../test/postgres-server.ts';
import type { ServerProcessOptions } from '../../test/server-process.ts';
import { systemClock } from '../core/clock.ts';
import { RunEvents } from '../run/events.ts';
import { runSteps } from '../run/run.ts';
import { usableBinaries } from './binaries-copy.ts';
import { findBinaries } from './binaries.ts';
import { CertificateAuthority } from './certificates.ts';
import { Connection, type Endpoint } from './connection.ts';
import { freePort } from './port.ts';
import { endProcesses, isAlive, processesOn } from './postmaster.ts';
import { resolveRunAs } from './run-as.ts';
import { ServerContext, serverSteps, startServer, type OwnServer, type ServerOptions } from './server.ts';
import { systemIdentifier } from './system-identifier.ts';

const asRoot = process.getuid?.() === 0;
const onLinux = process.platform === 'linux';

let parent: string;
let folder: string;
let servers: OwnServer[];
let children: ChildProcess[];
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'varve-test-server-'));
  folder = join(parent, 'node');
  await chmod(parent, 0o755);
  servers = [];
  children = [];
});
afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  await Promise.all(servers.map((server) => server.stop()));
  // Of a test that failed before it could adopt.
  await endProcesses(systemClock, await processesOn(join(folder, 'data')), 5000);
  await rm(parent, { recursive: true, force: true, maxRetries: 5 });
});

/** Unsynced, embedded 18 where nothing else is said. */
function options(more: Partial<ServerOptions> = {}): ServerOptions {
  return {
    folder,
    port: 0,
    binaries: { kind: 'embedded' },
    durable: false,
    cacheFolder: '/var/cache/varve',
    ...more,
  };
}

async function start(more: Partial<ServerOptions> = {}): Promise<OwnServer> {
  const server = await startServer(options(more));
  servers.push(server);
  return server;
}

async function ask<R extends object>(
  server: OwnServer,
  sql: string,
  login: Partial<Endpoint> = {},
): Promise<R> {
  await using connection = await connect({ ...server.admin(), ...login });
  return await connection.one<R>(sql);
}

async function run(server: OwnServer, ...statements: string[]): Promise<void> {
  await using connection = await connect(server.admin());
  for (const sql of statements) await connection.query(sql);
}

/** A process that starts the server; `ready` has its line, or rejects with what it wrote when it ends. */
function startInProcess(more: Partial<ServerProcessOptions> = {}): {
  child: ChildProcess;
  ready: Promise<{ pid: number; port: number }>;
} {
  const script = fileURLToPath(new URL('../../test/server-process.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, JSON.stringify(options(more))], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const ready = new Promise<{ pid: number; port: number }>((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', (line) => {
      resolve(JSON.parse(line) as { pid: number; port: number });
    });
    child.once('close', (code) => reject(new Error(`exit ${code}: ${errors}`)));
  });
  ready.catch(() => {});
  return { child, ready };
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  for (let i = 0; i < 500; i += 1) {
    if (await holds()) return;
    await sleep(20);
  }
  throw new Error(`never: ${what}`);
}

const making = async (): Promise<string[]> =>
  (await readdir(folder).catch(() => [])).filter((name) => name.startsWith('data.initdb-'));

describeEachMajor('a server of our own', (major) => {
  const binaries = { kind: 'auto', major, embeddedFrom: EMBEDDED_FROM };

  it('comes up from nothing, closed and UTF8, stops, and comes up again with data, port and password', async () => {
    const first = await start({ binaries });
    expect(await ask(first, `select current_setting('server_version_num')::int / 10000 as major`)).toEqual({
      major,
    });
    expect(
      await ask(
        first,
        `select pg_encoding_to_char(encoding) as encoding, datcollate,
                (select count(*)::int from pg_hba_file_rules where auth_method <> 'scram-sha-256') as lax
           from pg_database where datname = 'template0'`,
      ),
    ).toMatchObject({ encoding: 'UTF8', ...(onLinux ? { datcollate: 'C.UTF-8' } : {}), lax: 0 });
    expect((await stat(first.passwordFile)).mode & 0o777).toBe(0o600);
    await expect(connect({ ...first.admin(), password: 'wrong' })).rejects.toMatchObject({
      code: 'LOGIN_FAILED',
    });
    await expect(
      connect({ ...first.admin(), host: first.socketDir, password: undefined }),
    ).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
    await run(first, 'create table t as select 1 as n');
    await first.stop();
    expect(await first.exited).toEqual({ code: 0 });
    const second = await start({ binaries });
    expect(await ask(second, 'select n from t')).toEqual({ n: 1 });
    expect(second.port).toBe(first.port);
    expect(second.admin().password).toBe(first.admin().password);
    expect(second.adopted).toBe(false);
  });

  it('recovers what was committed when its postmaster is killed', async () => {
    const server = await start({ binaries });
    await run(server, 'create table t as select 1 as n');
    process.kill(server.pid, 'SIGKILL');
    expect(await server.exited).toEqual({ signal: 'SIGKILL' });
    const again = await start({ binaries });
    expect(again.pid).not.toBe(server.pid);
    expect(await ask(again, 'select n from t')).toEqual({ n: 1 });
  });

  it.runIf(asRoot && onLinux)('works as root below a folder that is closed to others', async () => {
    await chmod(parent, 0o700);
    const server = await start({ binaries });
    await run(server, 'create extension dblink', 'create table t as select 1 as n');
    const { user, port, password } = server.admin();
    const login = `host=${server.socketDirForBackends} port=${port} user=${user} password=${password}`;
    expect(await ask(server, `select n from dblink('${login}', 'select n from t') as (n int)`)).toEqual({
      n: 1,
    });
    expect(await ask(server, 'select 2 as n', { host: server.socketDir })).toEqual({ n: 2 });
    const adopted = await start({ binaries });
    expect(adopted).toMatchObject({ pid: server.pid, adopted: true });
    process.kill(server.pid, 'SIGKILL');
    await server.exited;
    const again = await start({ binaries });
    expect(await ask(again, 'select n from t')).toEqual({ n: 1 });
  });
});

describe('initdb that is killed', () => {
  /** Where no template can be kept. */
  let plain: { cacheFolder: string };
  beforeEach(async () => {
    plain = { cacheFolder: join(parent, 'cache') };
    await mkdir(plain.cacheFolder);
    await writeFile(join(plain.cacheFolder, 'data-folders'), 'a file');
  });

  it('leaves no data folder, and the next attempt starts afresh', async () => {
    const starting = start(plain);
    const outcome = starting.catch((error: unknown) => error);
    await until('initdb has begun', async () => {
      const [name] = await making();
      const pids = name ? await processesOn(join(folder, name)) : [];
      for (const pid of pids) process.kill(pid, 'SIGKILL');
      return pids.length > 0;
    });
    expect(await outcome).toMatchObject({ code: 'POSTGRES_START' });
    expect(await making()).toEqual([]);
    await expect(stat(join(folder, 'data'))).rejects.toThrow('ENOENT');
    expect(await ask(await start(), 'select 1 as n')).toEqual({ n: 1 });
  });

  it('together with the process that ran it is cleaned up after, and the password stays', async () => {
    const { child } = startInProcess(plain);
    await until('initdb writes', async () => {
      const [name] = await making();
      return name !== undefined && (await readdir(join(folder, name))).length > 3;
    });
    await kill(child);
    const password = await readFile(join(folder, 'password'), 'utf8');
    const server = await start();
    expect(await making()).toEqual([]);
    expect(server.admin().password).toBe(password.trim());
  });

  it('by the abort of the run leaves nothing', async () => {
    const abort = new AbortController();
    const outcome = startServer(options(plain), { signal: abort.signal }).catch((error: unknown) => error);
    await until('initdb has begun', async () => (await making()).length > 0);
    const reason = new Error('enough');
    abort.abort(reason);
    expect(await outcome).toBe(reason);
    expect(await making()).toEqual([]);
  });
});

describe('the template of data folders', () => {
  let cacheFolder: string;
  const templates = async (): Promise<string[]> => {
    const names = await readdir(join(cacheFolder, 'data-folders')).catch(() => []);
    return names.map((name) => join(cacheFolder, 'data-folders', name));
  };
  const startAt = (name: string): Promise<OwnServer> => start({ folder: join(parent, name), cacheFolder });
  beforeEach(() => {
    cacheFolder = join(parent, 'cache');
  });

  it('is made once for servers that come up at once, each with identifier and password of its own', async () => {
    const [one, two] = await Promise.all([startAt('one'), startAt('two')]);
    const [place, ...others] = await templates();
    expect(others).toEqual([]);
    const identifiers = await Promise.all(
      [one, two].map(async (server) => {
        const sql = 'select system_identifier::text as id from pg_control_system()';
        const { id } = await ask<{ id: string }>(server, sql);
        expect(await systemIdentifier(server.dataDir)).toBe(id);
        return id;
      }),
    );
    const all = new Set([...identifiers, await systemIdentifier(join(place ?? '', 'data'))]);
    expect(all.size).toBe(3);
    await expect(connect({ ...one.admin(), password: two.admin().password })).rejects.toMatchObject({
      code: 'LOGIN_FAILED',
    });
    // Root copies from it: nobody else may reach it.
    expect((await stat(place ?? '')).mode & 0o777).toBe(0o700);
    expect((await stat(place ?? '')).uid).toBe(process.getuid?.());
    await one.stop();
    expect(await ask(await startAt('one'), 'select 1 as n')).toEqual({ n: 1 });
  });

  it('that is no good is thrown away, and initdb makes the folder', async () => {
    await startAt('one');
    const [place = ''] = await templates();
    await writeFile(join(place, 'data', 'global', 'pg_control'), 'damaged');
    expect(await ask(await startAt('two'), 'select 1 as n')).toEqual({ n: 1 });
    expect(await templates()).toEqual([]);
    await startAt('three');
    expect(await templates()).toEqual([place]);
  });

  it('whose maker is killed is made by the next', async () => {
    const { child } = startInProcess({ cacheFolder });
    const unfinished = async (): Promise<string[]> => {
      const [place = parent] = await templates();
      return (await readdir(place)).filter((name) => name.startsWith('data.initdb-'));
    };
    await until('initdb writes', async () => (await unfinished()).length > 0);
    await kill(child);
    expect(await ask(await start({ cacheFolder }), 'select 1 as n')).toEqual({ n: 1 });
    expect(await unfinished()).toEqual([]);
    const [place = ''] = await templates();
    expect(await readdir(place)).toContain('data');
  });

  it('is not copied from while its folder is open, as a maker leaves it that was killed at the end', async () => {
    await startAt('one');
    const [place = ''] = await templates();
    const before = await systemIdentifier(join(place, 'data'));
    await chmod(place, 0o711);
    await startAt('two');
    expect(await systemIdentifier(join(place, 'data'))).not.toBe(before);
    expect((await stat(place)).mode & 0o777).toBe(0o700);
  });
});

describe('a server that runs already', () => {
  it('is adopted when the process that started it was killed', async () => {
    const { child, ready } = startInProcess();
    const { pid, port } = await ready;
    await kill(child);
    const server = await start();
    expect(server).toMatchObject({ pid, port, adopted: true });
    await server.stop();
    expect(await server.exited).toEqual({});
    expect(await processesOn(server.dataDir)).toEqual([]);
  });

  it('gets a changed setting by a reload where that is enough, else by a restart', async () => {
    const first = await start();
    const reloaded = await start({ settings: { log_min_duration_statement: '5s' } });
    expect(reloaded).toMatchObject({ pid: first.pid, adopted: true });
    await until('the setting is in force', async () => {
      const { value } = await ask<{ value: string }>(
        reloaded,
        `select current_setting('log_min_duration_statement') as value`,
      );
      return value === '5s';
    });
    const restarted = await start({ settings: { max_connections: '17' } });
    expect(restarted.pid).not.toBe(first.pid);
    expect(await ask(restarted, `select current_setting('max_connections') as value`)).toEqual({
      value: '17',
    });
  });

  it('is restarted when another port is wanted', async () => {
    const first = await start();
    const port = await freePort();
    const second = await start({ port });
    expect(second.port).toBe(port);
    expect(second.adopted).toBe(false);
    await expect(connect(first.admin())).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
  });

  it('is restarted for a setting that a killed run wrote but did not bring into force', async () => {
    const first = await start();
    await writeFile(
      join(folder, 'data', 'varve.conf'),
      (await readFile(join(folder, 'data', 'varve.conf'), 'utf8')) + "max_connections = '18'\n",
    );
    const second = await start({ settings: { max_connections: '18' } });
    expect(second.pid).not.toBe(first.pid);
    expect(await ask(second, `select current_setting('max_connections') as value`)).toEqual({ value: '18' });
  });

  it('tells when it dies unexpectedly', async () => {
    const server = await start();
    const adopted = await start();
    process.kill(server.pid, 'SIGKILL');
    expect(await server.exited).toEqual({ signal: 'SIGKILL' });
    expect(await adopted.exited).toEqual({});
    await adopted.stop();
  });
});

describe('what a killed postmaster leaves', () => {
  it('backends that are still at work do not keep the next one from starting', async () => {
    const server = await start();
    const connection = await connect(server.admin());
    const busy = connection
      .query('select count(*) from generate_series(1, 1e10)')
      .catch((error: unknown) => error);
    const { backendPid } = connection;
    await sleep(50);
    process.kill(server.pid, 'SIGKILL');
    await server.exited;
    const again = await start();
    expect(await ask(again, 'select 1 as n')).toEqual({ n: 1 });
    expect(isAlive(backendPid)).toBe(false);
    expect(await busy).toMatchObject({ code: 'CONNECTION_LOST' });
  });

  it('a process id that belongs to another program by now does not block', async () => {
    const server = await start();
    await server.stop();
    const user = await resolveRunAs();
    // Of the same user, or PostgreSQL itself would see that it is not its own.
    const other = spawn('sleep', ['60'], {
      stdio: 'ignore',
      ...(user ? { uid: user.uid, gid: user.gid } : {}),
    });
    children.push(other);
    const lines = [other.pid, server.dataDir, '1700000000', server.port, '', '127.0.0.1', '', 'ready'];
    await writeFile(join(server.dataDir, 'postmaster.pid'), `${lines.join('\n')}\n`);
    const again = await start();
    expect(again.adopted).toBe(false);
    expect(other.exitCode).toBeNull();
  });
});

describe('a start that cannot succeed', () => {
  it('names the port that is taken, and who holds it', async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    const { port } = holder.address() as { port: number };
    try {
      await expect(start({ port })).rejects.toMatchObject({
        code: 'PORT_IN_USE',
        message: expect.stringMatching(
          onLinux ? new RegExp(`port ${port} .*process ${process.pid} \\(`) : `${port}`,
        ) as string,
      });
    } finally {
      holder.close();
    }
  });

  it('shows the end of the log', async () => {
    await expect(start({ settings: { work_mem: 'much' } })).rejects.toMatchObject({
      code: 'POSTGRES_START',
      detail: expect.stringContaining('work_mem') as string,
    });
    expect(await processesOn(join(folder, 'data'))).toEqual([]);
  });

  it('for a password file that is not of this server stops what it had started', async () => {
    await (await start()).stop();
    await writeFile(join(folder, 'password'), 'another');
    await expect(start()).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
    expect(await processesOn(join(folder, 'data'))).toEqual([]);
  });

  it('leaves a folder alone that no server made', async () => {
    await mkdir(join(folder, 'data'), { recursive: true });
    await writeFile(join(folder, 'data', 'mine'), 'x');
    await expect(start()).rejects.toMatchObject({ code: 'POSTGRES_FOLDER' });
    expect(await readdir(join(folder, 'data'))).toEqual(['mine']);
  });

  it('does not touch data of a major for which there are no programs', async () => {
    await (await start()).stop();
    await writeFile(join(folder, 'data', 'PG_VERSION'), '14\n');
    await expect(start()).rejects.toMatchObject({
      code: 'POSTGRES_NOT_FOUND',
      message: expect.stringContaining('PostgreSQL 14') as string,
    });
  });
});

describe('a server', () => {
  it('serves TLS and logs roles in by certificate', async () => {
    const runAs = await resolveRunAs();
    const certificates = join(folder, 'certificates');
    await mkdir(folder, { recursive: true });
    const authority = await CertificateAuthority.open(certificates, { owner: runAs });
    const { certFile, keyFile } = await authority.issueServer(['localhost', '127.0.0.1']);
    const server = await start({
      tls: { certFile, keyFile, caFile: authority.caFile },
      hba: ['hostssl all carol 127.0.0.1/32 cert', 'hostssl all all 127.0.0.1/32 scram-sha-256'],
    });
    const caPem = authority.caPem;
    await using admin = await Connection.open(
      { ...server.admin(), tls: { mode: 'verify-full', caPem } },
      { connectTimeoutMs: 5000 },
    );
    await admin.query('create role carol login');
    const client = await authority.issueClient('carol');
    const tls = {
      mode: 'verify-full' as const,
      caPem,
      certPem: await readFile(client.certFile, 'utf8'),
      keyPem: await readFile(client.keyFile, 'utf8'),
    };
    const carol = { ...server.admin(), user: 'carol', password: undefined };
    await using session = await connect({ ...carol, tls });
    const abort = new AbortController();
    const query = session.query('select pg_sleep(60)', [], { signal: abort.signal });
    setTimeout(() => abort.abort(new Error('enough')), 50);
    await expect(query).rejects.toThrow('enough');
    expect(
      await session.one('select current_user as who, ssl from pg_stat_ssl where pid = pg_backend_pid()'),
    ).toEqual({
      who: 'carol',
      ssl: true,
    });
    // Without a certificate, with another authority's, and by a name that is not in it.
    const other = await CertificateAuthority.open(join(parent, 'other'));
    await expect(connect({ ...carol, tls: { mode: 'require' } })).rejects.toMatchObject({
      code: 'LOGIN_FAILED',
    });
    await expect(connect({ ...carol, tls: { ...tls, caPem: other.caPem } })).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
    });
    await expect(connect({ ...carol, host: '127.0.0.2', tls })).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
    });
    // As libpq does, `prefer` encrypts and does not ask whose certificate it is.
    const preferred = { ...tls, mode: 'prefer' as const, caPem: other.caPem };
    await using trusting = await connect({ ...carol, tls: preferred });
    expect(await trusting.one('select ssl from pg_stat_ssl where pid = pg_backend_pid()')).toEqual({
      ssl: true,
    });
  });

  it.runIf(onLinux)('has a socket that its backends reach although its path is too long', async () => {
    folder = join(parent, 'x'.repeat(100), 'node');
    const server = await start();
    await run(server, 'create extension dblink');
    const { user, port, password } = server.admin();
    const login = `host=${server.socketDirForBackends} port=${port} user=${user} password=${password}`;
    expect(await ask(server, `select n from dblink('${login}', 'select 1') as (n int)`)).toEqual({ n: 1 });
  });

  it('offers extensions of a folder, also of one that it cannot read itself', async () => {
    const extensions = join(parent, 'closed', 'sql');
    await mkdir(join(extensions, 'extension'), { recursive: true });
    await writeFile(join(extensions, 'extension', 'probe.control'), "default_version = '1'\n");
    await writeFile(
      join(extensions, 'extension', 'probe--1.sql'),
      'create function probe() returns int return 7;',
    );
    await chmod(join(parent, 'closed'), 0o700);
    const server = await start({ extensionFolders: [extensions] });
    await run(server, 'create extension probe');
    expect(await ask(server, 'select probe() as n')).toEqual({ n: 7 });
    // A new version is there after the next start, an adopting one included.
    await writeFile(join(extensions, 'extension', 'probe--2.sql'), 'select 1;');
    const adopted = await start({ extensionFolders: [extensions] });
    expect(
      await ask(
        adopted,
        `select count(*)::int as n from pg_available_extension_versions where name = 'probe'`,
      ),
    ).toEqual({ n: 2 });
  });

  it('takes settings whose values hold quotes and backslashes', async () => {
    const server = await start({ settings: { cluster_name: `it's`, 'varve.x': 'a\\b' } });
    expect(
      await ask(server, `select current_setting('cluster_name') as a, current_setting('varve.x') as b`),
    ).toEqual({
      a: `it's`,
      b: 'a\\b',
    });
  });

  it('shows its bring-up as steps, and skips what is done', async () => {
    const bringUp = async (): Promise<string[]> => {
      const events = new RunEvents();
      const context = new ServerContext({ clock: systemClock }, options());
      await runSteps(
        { clock: systemClock, events },
        { run: 'r', node: 'n', steps: serverSteps(), context, signal: new AbortController().signal },
      );
      if (context.server) servers.push(context.server);
      const ends = events.history().filter(({ state }) => state === 'done' || state === 'skipped');
      return ends.map(({ step, state }) => `${step}: ${state}`);
    };
    expect(await bringUp()).toEqual([
      'init-database-folder: done',
      'configure-database: done',
      'start-database: done',
      ': done',
    ]);
    expect(await bringUp()).toEqual([
      'init-database-folder: skipped',
      'configure-database: skipped',
      'start-database: done',
      ': done',
    ]);
  });

  it('plans without leaving a trace', async () => {
    const context = new ServerContext({ clock: systemClock }, options());
    const work = { signal: new AbortController().signal, report: () => {} };
    for (const step of serverSteps()) {
      expect(await step.check(context, work)).toMatchObject({ state: 'todo' });
    }
    expect(await readdir(parent)).toEqual([]);
  });
});

describe.runIf(asRoot)('an ordinary user', () => {
  it('runs a server too, and root goes on with it as that user', async () => {
    const nobody = await resolveRunAs('nobody');
    if (!nobody) throw new Error('root becomes another user');
    await mkdir(folder);
    await chown(folder, nobody.uid, nobody.gid);
    const embedded = await findBinaries({ kind: 'embedded' });
    const { binDir } = await usableBinaries(embedded, nobody, join(parent, 'cache'));
    const binaries = { kind: binDir };
    const { child, ready } = startInProcess({ user: nobody, binaries });
    const { pid } = await ready;
    expect((await stat(`/proc/${pid}`)).uid).toBe(nobody.uid);
    expect((await stat(join(folder, 'data'))).uid).toBe(nobody.uid);
    await kill(child);
    const adopted = await start({ binaries });
    expect(adopted).toMatchObject({ pid, adopted: true });
    await adopted.stop();
    const again = await start({ binaries });
    expect((await stat(`/proc/${again.pid}`)).uid).toBe(nobody.uid);
    await again.stop();
    // And back: root leaves nothing that the user could not go on with.
    const back = startInProcess({ user: nobody, binaries });
    await back.ready;
    await kill(back.child);
  });

  it('cannot have it run as somebody else, nor use another user’s data', async () => {
    const user = { uid: 65_534, gid: 65_534 };
    await expect(startInProcess({ user, runAs: 'root' }).ready).rejects.toThrow('POSTGRES_USER');
    await mkdir(join(folder, 'data'), { recursive: true });
    await expect(startInProcess({ user }).ready).rejects.toThrow('belongs to another user');
  });
});
