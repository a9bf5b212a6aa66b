import { chmod, chown, mkdir, mkdtemp, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { blockedAt } from '../postgres/run-as.ts';
import { Connection } from '../postgres/connection.ts';
import { startServer } from '../postgres/server.ts';
import type { NodePlan } from './plan.ts';
import { chooseFreePorts } from './ports.ts';
import { processesOf, start, SystemProcess, varve, type User } from '../../test/system-process.ts';

const isRoot = process.getuid?.() === 0;
const NOBODY: User = { uid: 65_534, gid: 65_534 };

let base: string;
let running: SystemProcess | undefined;

beforeAll(async () => {
  base = await realpath(await mkdtemp(join(tmpdir(), 'varve-test-up-')));
});

afterEach(async () => {
  await running?.stop('SIGTERM');
  running = undefined;
});

afterAll(() => rm(base, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }));

async function up(dir: string, args: readonly string[] = [], user?: User): Promise<SystemProcess> {
  running = await SystemProcess.up(dir, ['--access', '1', '--no-metrics', ...args], user);
  return running;
}

describe('a system of one access node and two data nodes', () => {
  // As a checkout below a closed folder has it: mkdtemp makes 0700.
  const folder = (): string => join(base, 'with a space', 'system');

  test('comes up from an empty folder, and tells programs how to reach it', async () => {
    const system = await up(folder(), ['--data', '2']);
    const { access, data, coordinator, dashboard } = system.connections();
    expect(access).toEqual([
      {
        name: 'an1',
        pid: expect.any(Number) as number,
        host: '127.0.0.1',
        port: expect.any(Number) as number,
        database: 'varve',
        user: 'postgres',
        passwordFile: join(folder(), 'varve.password'),
      },
    ]);
    expect(data.map(({ name }) => name)).toEqual(['dn1', 'dn2']);
    expect((await stat(join(folder(), 'varve.password'))).mode & 0o777).toBe(0o600);
    const ready = await fetch(`${data[0]?.http}/readyz`);
    expect(ready.status).toBe(200);
    expect((await fetch(`${coordinator.url}/v1/status/leader`)).status).toBe(200);
    expect((await fetch(dashboard)).status).toBe(200);
    const passing = async (): Promise<unknown[]> =>
      (await (await fetch(`${coordinator.url}/v1/health/service/varve-node?passing=1`)).json()) as unknown[];
    // A node that is ready tells the coordinator within a second.
    await expect.poll(passing, { timeout: 10_000 }).toHaveLength(3);
    expect(await system.sql('select node_name, port from varve.data_nodes order by 1')).toEqual(
      data.map(({ name, pgPort }) => `${name}       | ${pgPort}`),
    );
    await system.sql('create table kept as select 1 as one');
  });

  test('carries on with its data, on the same ports, and refuses a second start on its folder', async () => {
    const system = await up(folder());
    expect(await system.sql('select one from kept')).toEqual(['1']);
    const second = await varve(['up', '--dir', folder()]);
    expect([second.code, second.stderr]).toEqual([
      1,
      expect.stringContaining(`in use by process ${system.pid}`),
    ]);
    const fewer = await varve(['up', '--dir', folder(), '--data', '1']);
    expect(fewer.code).not.toBe(0);
    const wrong = await varve(['sql', '--dir', folder(), '-c', 'select 1/0']);
    expect([wrong.code, wrong.stderr.trim()]).toEqual([1, 'ERROR 22012: division by zero']);
    const script = await varve(['sql', '--dir', folder()], { input: "select ';' as a; select 2 as b" });
    expect(script.stdout.match(/\(1 row\)/g)).toHaveLength(2);
  });

  test('stops as a whole when asked, and leaves no process', async () => {
    const system = await up(folder());
    expect(processesOf(folder()).length).toBeGreaterThan(6);
    expect(await system.stop('SIGINT')).toBe(0);
    expect(processesOf(folder())).toEqual([]);
    const stopped = await varve(['status', '--dir', folder(), '--json']);
    expect(stopped.code).toBe(3);
    expect(stopped.stdout).toContain('the system is not running');
  });

  test('starts a killed daemon again, which goes on with its server', async () => {
    const system = await up(folder());
    const [daemon, postgres] = [system.daemonPid('dn1'), system.postgresPid('dn1')];
    await system.kill([daemon]);
    await system.allReady('dn1', daemon);
    expect(system.postgresPid('dn1')).toBe(postgres);
    expect(processesOf(folder()).filter((what) => /dn1.*node\.json|node\.json.*dn1/.test(what))).toHaveLength(
      1,
    );
  });

  test('brings a killed PostgreSQL up again, without a new daemon', async () => {
    const system = await up(folder());
    const [daemon, postgres] = [system.daemonPid('an1'), system.postgresPid('an1')];
    await system.kill([postgres]);
    await expect.poll(async () => (await system.allReady()).nodes[0]?.postgres?.restartCount).toBe(1);
    expect(system.daemonPid('an1')).toBe(daemon);
    expect(system.postgresPid('an1')).not.toBe(postgres);
    expect(await system.sql('select one from kept')).toEqual(['1']);
    expect(await system.sql("select ping_data_node('dn1')")).toEqual(['t']);
  });

  test('notices that its supervisor was killed, and stops', async () => {
    const system = await up(folder());
    await system.kill([system.pid]);
    await expect.poll(() => processesOf(folder()), { timeout: 20_000 }).toEqual([]);
  });

  test.each<[string, (system: SystemProcess) => number[]]>([
    ['the whole tree', (system) => system.allPids()],
    [
      'the supervisor and the daemons',
      (system) => [system.pid, ...['an1', 'dn1', 'dn2'].map((name) => system.daemonPid(name))],
    ],
    [
      'the supervisor, a daemon and a server',
      (system) => [system.pid, system.daemonPid('dn1'), system.postgresPid('dn2')],
    ],
  ])('goes on after %s was killed', async (_, victims) => {
    const first = await up(folder());
    await first.sql('insert into kept select max(one) + 1 from kept');
    const [count] = await first.sql('select count(*) from kept');
    await first.kill(victims(first));
    const second = await up(folder());
    expect(await second.sql('select count(*) from kept')).toEqual([count]);
    expect((await second.allReady()).nodes).toHaveLength(3);
    expect(await second.sql("select ping_data_node('dn2')")).toEqual(['t']);
    await second.stop();
    expect(processesOf(folder())).toEqual([]);
  });

  test('does not wait for a daemon that hangs when it is asked to stop a second time', async () => {
    const system = await up(folder(), ['--json']);
    await expect.poll(() => system.output).toContain('"type":"summary"');
    process.kill(system.daemonPid('dn1'), 'SIGSTOP');
    const ended = system.stop('SIGINT');
    // Once the others are gone, what it still waits for is the daemon that hangs; on a busy machine they may not be yet.
    const untilMs = Date.now() + 10_000;
    while (Date.now() < untilMs && processesOf(folder()).some((what) => what.includes('an1')))
      await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await system.stop('SIGINT')).toBe(1);
    await ended;
    expect(processesOf(folder())).toEqual([]);
    const types = system.output
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { type: string }).type);
    expect(new Set(types)).toEqual(new Set(['event', 'note', 'summary']));
  });

  test('grows by a data node, and does not shrink', async () => {
    const system = await up(folder(), ['--data', '3']);
    expect(await system.sql('select count(*) from varve.data_nodes')).toEqual(['3']);
    // Its storage engine has a third replica of everything, filled from the others.
    await expect
      .poll(() => placedShards(system), PLACED)
      .toEqual(['dn1 0/32/0', 'dn2 0/32/0', 'dn3 0/32/0', '3 replicas']);
    expect((await varve(['data-node', 'remove', 'dn2', '--dir', folder()])).code).toBe(0);
    await system.stop();
    const again = await up(folder());
    // What was deleted is not added again.
    expect(await again.sql('select node_name from varve.data_nodes order by 1')).toEqual(['dn1', 'dn3']);
    await expect.poll(() => placedShards(again), PLACED).toEqual(['dn1 0/32/0', 'dn3 0/32/0', '2 replicas']);
    await again.stop();
    const fewer = await varve(['up', '--dir', folder(), '--data', '2']);
    expect([fewer.code, fewer.stderr]).toEqual([2, expect.stringContaining('delete_data_node')]);
  });
});

const PLACED = { timeout: 90_000, interval: 500 };

/** Of each storage engine: shards that are initializing, available and leaving. */
async function placedShards(system: SystemProcess): Promise<string[]> {
  const { placement } = await system.status();
  if (!placement) return [];
  const rows = placement.instances.map(
    ({ node, shards }) => `${node} ${shards.initializing}/${shards.available}/${shards.leaving}`,
  );
  return [...rows, `${placement.replicaFactor} replicas`];
}

/** Samples of this machine in dn1's storage engine. */
async function storedSamples(system: SystemProcess): Promise<number> {
  const { http } = system.connections().data[0] ?? { http: '' };
  const match = encodeURIComponent('{__name__=~"host_.+"}');
  const lines = await (await fetch(`${http}/api/v1/export?match[]=${match}`)).text();
  return lines
    .split('\n')
    .filter((line) => line !== '')
    .reduce((sum, line) => sum + (JSON.parse(line) as { values: unknown[] }).values.length, 0);
}

test("this machine's metrics go to a table that is spread over the data nodes and to a storage engine, through kills", async () => {
  const dir = join(base, 'metrics');
  running = await SystemProcess.up(dir, ['--access', '1', '--data', '2']);
  const system = running;
  const seconds = async (from: SystemProcess): Promise<number> =>
    Number((await from.sql('select count(distinct time) from public.host_metrics'))[0]);
  await expect.poll(() => seconds(system), { timeout: 20_000 }).toBeGreaterThan(1);
  expect(await system.sql('select node_name, count(*) from varve.shards group by 1 order by 1')).toEqual([
    'dn1       |    16',
    'dn2       |    16',
  ]);
  const metrics = await system.sql("select distinct split_part(metric, '_', 1) from host_metrics order by 1");
  expect(metrics).toEqual(expect.arrayContaining(['cpu', 'load', 'memory', 'network']) as string[]);

  const stored = await storedSamples(system);
  expect(stored).toBeGreaterThan(0);
  expect((await varve(['namespace', 'create', 'long', '--retention', '30d', '--dir', dir])).code).toBe(0);
  await expect
    .poll(async () => (await system.status()).namespaces.map(({ name, nodes }) => [name, nodes.length]), {
      timeout: 20_000,
    })
    .toEqual([
      ['default', 2],
      ['long', 2],
    ]);
  expect((await system.status()).shards).toHaveLength(32);

  await system.kill([system.postgresPid('dn1')]);
  const before = await seconds(await system.allReady('dn1').then(() => system));
  await expect.poll(() => seconds(system), { timeout: 20_000 }).toBeGreaterThan(before + 1);

  const kept = await seconds(system);
  const keptSamples = await storedSamples(system);
  expect(keptSamples).toBeGreaterThan(stored);
  await system.kill(system.allPids());
  running = await SystemProcess.up(dir);
  const again = running;
  await expect
    .poll(() => again.output, { timeout: 20_000 })
    .toMatch(/dn1 +metrics are there again.*commitlog/);
  expect(await storedSamples(again)).toBeGreaterThanOrEqual(keptSamples);
  expect((await again.status()).namespaces.map(({ name }) => name)).toEqual(['default', 'long']);
  expect(await seconds(again)).toBeGreaterThanOrEqual(kept);
  await expect.poll(() => seconds(again), { timeout: 20_000 }).toBeGreaterThan(kept + 1);
  await expect.poll(() => again.output, { timeout: 20_000 }).toMatch(/public\.host_metrics \| dn1 +\| +16/);
});

test('a node works on a server that somebody else runs, and leaves it running', async () => {
  const folder = join(base, 'remote');
  await using server = await startServer({ folder: join(base, 'theirs'), port: 0, durable: false });
  const { user, password, host, port } = server.admin();
  const [httpPort] = await chooseFreePorts(1, []);
  const config = join(base, 'remote.json');
  const postgres = `postgresql://${user}:${password}@${host}:${port}/postgres`;
  await writeFile(
    config,
    JSON.stringify({ name: 'r1', kind: 'access', folder, postgres, httpPort, database: 'metrics' }),
  );
  const todo = async (): Promise<(string | null)[]> => {
    const { stdout } = await varve(['plan', '--config', config, '--json']);
    return (JSON.parse(stdout) as { nodes: NodePlan[] }).nodes[0]?.steps.map(({ reason }) => reason) ?? [];
  };
  expect(await todo()).toEqual([null, 'there is no database metrics', 'once the database is there']);
  const node = start(['node', '--config', config]);
  let output = '';
  for (const stream of [node.stdout, node.stderr])
    stream?.on('data', (text: Buffer) => (output += text.toString()));
  const ready = (): Promise<number> =>
    fetch(`http://127.0.0.1:${httpPort}/readyz`).then(
      ({ status }) => status,
      () => 0,
    );
  const exited = once(node, 'exit').then(() => {
    throw new Error(`the node ended: ${output}`);
  });
  await Promise.race([exited, expect.poll(ready, { timeout: 30_000 }).toBe(200)]);
  exited.catch(() => {});
  expect(await todo()).toEqual([null, null, null]);
  node.kill('SIGTERM');
  expect((await once(node, 'exit'))[0]).toBe(0);
  await using connection = await Connection.open(server.admin('metrics'), { connectTimeoutMs: 10_000 });
  expect((await connection.query('select * from varve.data_nodes')).rows).toEqual([]);
});

test('a port that is taken is named, and the start fails with nothing left running', async () => {
  const dir = join(base, 'taken');
  // The second of its ports is that of PostgreSQL on an1.
  const [first = 0] = await chooseFreePorts(1, []);
  const holder = createServer().listen(first + 1, '127.0.0.1');
  await once(holder, 'listening');
  const result = await varve([
    'up',
    '--dir',
    dir,
    '--data',
    '0',
    '--no-metrics',
    '--port-base',
    String(first),
  ]);
  holder.close();
  expect(result.code).toBe(1);
  expect(result.stderr).toMatch(new RegExp(`node an1 .*\\n.*port ${first + 1}`));
  expect(processesOf(dir)).toEqual([]);
});

test.runIf(isRoot)('an ordinary user runs a system from a checkout that is not his', async (context) => {
  const checkout = fileURLToPath(new URL('../..', import.meta.url));
  const blocked = await blockedAt(checkout, { user: 'nobody', ...NOBODY });
  if (blocked !== undefined) context.skip(`${blocked} is closed to him`);
  const home = join(tmpdir(), `varve-test-ordinary-${process.pid}`);
  await mkdir(home);
  try {
    await chown(home, NOBODY.uid, NOBODY.gid);
    await chmod(home, 0o700);
    const system = await up(join(home, 'system'), ['--data', '1'], NOBODY);
    expect((await stat(`/proc/${system.postgresPid('an1')}`)).uid).toBe(NOBODY.uid);
    await system.stop();
    expect(processesOf(home)).toEqual([]);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
});
