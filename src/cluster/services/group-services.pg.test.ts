import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { connect, serverEndpoint, serverFacts } from '../../../test/database.ts';
import { FaultProxy } from '../../../test/fault-proxy.ts';
import { freePorts } from '../../../test/free-ports.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { EmbeddedCoordinator } from '../../coordination/embedded-server.ts';
import { openCoordinator } from '../../coordination/open-coordinator.ts';
import type { Coordinator } from '../../coordination/coordinator.ts';
import { systemClock } from '../../core/clock.ts';
import { GroupKeys, type MasterRecord } from '../group-keys.ts';
import { GroupServices } from './group-services.ts';
import { Haproxy } from './haproxy.ts';
import { findProxyProgram } from './proxy-programs.ts';

const program = await findProxyProgram('haproxy', {});
if (program === undefined) {
  if (process.env['VARVE_REQUIRE_SERVICES'] === '1') throw new Error('haproxy is required here');
  process.stderr.write('SKIPPED: HAProxy that follows a group: install haproxy\n');
}

/** A reload is a new process, and takes as long as the machine is busy. */
const POLL = { timeout: 10_000 } as const;
const silent = { info: () => {}, warn: () => {}, error: () => {} };

describe.skipIf(program === undefined)('services of a group', () => {
  let folder: string;
  let server: EmbeddedCoordinator;
  let coordinator: Coordinator;
  let keys: GroupKeys;
  let links: FaultProxy[];
  let services: GroupServices;
  let following: Promise<void>;
  let stop: AbortController;
  let ports: number[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}services-`));
    server = await EmbeddedCoordinator.start(
      { folder: join(folder, 'kv'), port: 0 },
      { clock: systemClock, log: silent },
    );
    coordinator = openCoordinator({ kind: 'embedded', url: server.url }, { clock: systemClock, log: silent });
    keys = new GroupKeys(coordinator, 'test');
    links = await Promise.all(['an1', 'an2', 'an3'].map(() => FaultProxy.open(serverFacts().admin)));
    ports = await freePorts(2);
    for (const [index, link] of links.entries()) await joins(`an${index + 1}`, link.port);
    const haproxy = new Haproxy(
      { clock: systemClock, log: silent },
      { program: program ?? '', folder, socketPath: join(folder, 's') },
    );
    services = servicesOf(haproxy, 'service');
    stop = new AbortController();
    following = Promise.resolve();
  });

  afterEach(async () => {
    stop.abort();
    await following;
    await services[Symbol.asyncDispose]();
    await Promise.all(links.map((link) => link[Symbol.asyncDispose]()));
    await coordinator[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  function servicesOf(haproxy: Haproxy, kind: 'manager' | 'service'): GroupServices {
    return new GroupServices(
      {
        clock: systemClock,
        log: silent,
        keys,
        haproxy,
        pgbouncer: undefined,
        withAdmin: async (_database, work) => {
          await using connection = await connect();
          return await work(connection);
        },
      },
      {
        node: 'an1',
        kind,
        host: '127.0.0.1',
        postgresPort: serverFacts().admin.port,
        httpUrl: 'http://127.0.0.1:1',
        proxies: {
          bindHost: '127.0.0.1',
          writePort: ports[0] ?? 0,
          readPort: ports[1] ?? 0,
          maxConnections: 50,
        },
        pooler: {
          listenHost: '127.0.0.1',
          listenPort: 1,
          postgres: serverFacts().admin,
          maxServerConnections: 5,
          maxClientConnections: 50,
          statsUsers: [],
        },
        internalRoles: [],
      },
    );
  }

  async function joins(node: string, port: number): Promise<void> {
    await keys.members.at(node).update(() => ({
      node,
      nodeUuid: '0191d6c0-0000-7000-8000-000000000001',
      host: '127.0.0.1',
      port: 1,
      poolerPort: port,
      state: 'member',
      tags: {},
      databases: [],
      joinedAt: '2026-01-01T00:00:00Z',
    }));
  }

  async function leads(node: string, state: MasterRecord['state'] = 'active'): Promise<void> {
    await keys.master.update((was) => ({
      node,
      term: String(Number(was?.term ?? 0) + 1),
      since: '2026-01-01T00:00:00Z',
      state,
      reason: 'test',
    }));
  }

  /** Which member a client of this port is led to. */
  async function ledTo(port: number | undefined): Promise<string> {
    for (const link of links) link.setFault(undefined);
    await using client = await connect({ ...serverEndpoint(), port: port ?? 0 }, { connectTimeoutMs: 2000 });
    await client.query('select 1');
    return links.flatMap((link, index) => (link.count > 0 ? [`an${index + 1}`] : [])).join();
  }

  test('a change of the write master moves the write port, a change of members the read port', async () => {
    await leads('an1');
    await services.reconfigure();
    expect(await ledTo(ports[0])).toBe('an1');
    following = services.run(stop.signal);
    await leads('an2');
    await expect.poll(() => ledTo(ports[0]).catch(() => 'nobody'), POLL).toBe('an2');
    await keys.members.at('an3').update((member) => member && { ...member, state: 'rejoin-needed' });
    await expect.poll(() => services.status().readers, POLL).toEqual(['an1']);
    expect(await ledTo(ports[1])).toBe('an1');
  });

  test('while a master is elected nobody is let in to write', async () => {
    await leads('an1');
    await services.reconfigure();
    following = services.run(stop.signal);
    await leads('an2', 'electing');
    await expect.poll(() => ledTo(ports[0]).catch(() => 'nobody'), POLL).toBe('nobody');
    await leads('an2');
    await expect.poll(() => ledTo(ports[0]).catch(() => 'nobody'), POLL).toBe('an2');
  });

  test('services of a service cluster are registered with their checks, and gone after the end', async () => {
    await leads('an1');
    await services.reconfigure();
    await services.register();
    const registered = async (name: string): Promise<string[]> =>
      (await coordinator.services(name)).map(({ id, port }) => `${id}:${port}`);
    expect(await registered('haproxy')).toEqual([`test-an1-haproxy:${ports[0]}`]);
    expect(await registered('postgres')).toEqual([`test-an1-postgres:${serverFacts().admin.port}`]);
    expect(await registered('pgbouncer')).toEqual([]);
    expect(await registered('test-master')).toEqual([`test-write-an1:${ports[0]}`]);
    await leads('an2');
    await services.reconfigure();
    expect(await registered('test-master')).toEqual([]);
  });

  test('a manager cluster registers none of them', async () => {
    await services[Symbol.asyncDispose]();
    const haproxy = new Haproxy(
      { clock: systemClock, log: silent },
      { program: program ?? '', folder, socketPath: join(folder, 's') },
    );
    services = servicesOf(haproxy, 'manager');
    await services.register();
    expect(await coordinator.services('postgres')).toEqual([]);
  });
});
