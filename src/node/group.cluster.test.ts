import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { SystemProcess, varve } from '../../test/system-process.ts';
import { findProxyProgram } from '../cluster/services/proxy-programs.ts';
import { messageOf } from '../core/errors.ts';
import { CertificateAuthority } from '../postgres/certificates.ts';
import { Connection, type TlsOptions } from '../postgres/connection.ts';
import type { GroupStatus } from './group-control.ts';
import type { SystemLayout } from './layout.ts';

const TAKEOVER_MS = 60_000;

const haproxy = await findProxyProgram('haproxy', {});
if (haproxy === undefined) {
  if (process.env['VARVE_REQUIRE_SERVICES'] === '1') throw new Error('haproxy is required here');
  process.stderr.write('SKIPPED: clients that come through HAProxy: install haproxy\n');
}

/** One system for all: what one test leaves is where the next begins, as for those who run it. */
describe('three access nodes and two data nodes', () => {
  let dir: string;
  let system: SystemProcess;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}group-`));
    system = await SystemProcess.up(dir, ['--data', '2', '--no-metrics', '--lease-ttl', '2s']);
  });

  afterAll(async () => {
    await system?.stop();
    await rm(dir, { recursive: true, force: true });
  });

  async function group(): Promise<GroupStatus> {
    const { stdout } = await varve(['cluster', 'status', '--dir', dir, '--json']);
    return JSON.parse(stdout) as GroupStatus;
  }

  async function master(): Promise<string> {
    await expect.poll(async () => (await group()).master, { timeout: TAKEOVER_MS }).not.toBeNull();
    return (await group()).master ?? '';
  }

  async function others(): Promise<string[]> {
    const now = await master();
    return ['an1', 'an2', 'an3'].filter((name) => name !== now);
  }

  /** A client of one access node, or through a port. */
  async function open(at: string | number): Promise<Connection> {
    const [first] = system.connections().access;
    const port =
      typeof at === 'number' ? at : (system.connections().access.find(({ name }) => name === at)?.port ?? 0);
    const password = (await readFile(first?.passwordFile ?? '', 'utf8')).trim();
    const endpoint = { host: '127.0.0.1', port, database: 'varve', user: 'postgres', password };
    return Connection.open(endpoint, { connectTimeoutMs: 5000, throughPooler: typeof at === 'number' });
  }

  async function rowsOn(node: string, table: string): Promise<number> {
    await using client = await open(node);
    return (await client.one<{ count: number }>(`select count(*)::int4 as count from ${table}`)).count;
  }

  /** Writes rows to whoever takes them until stopped; gives the numbers of those that were acknowledged. */
  function writeRows(table: string): { stop: () => Promise<number[]> } {
    const acknowledged: number[] = [];
    let next = 1;
    const over = new AbortController();
    const done = Promise.all(
      ['an1', 'an2', 'an3'].map(async (node) => {
        while (!over.signal.aborted) {
          try {
            await using client = await open(node);
            while (!over.signal.aborted) {
              const id = next++;
              await client.query(`insert into ${table} values (now(), 'd' || ($1 % 7), $1)`, [id], {
                timeoutMs: 5000,
              });
              acknowledged.push(id);
            }
          } catch {
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
        }
      }),
    );
    return {
      stop: async () => {
        over.abort();
        await done;
        return acknowledged;
      },
    };
  }

  /** A row that is committed there, and sent to nobody: by processes that stand still from now on. */
  async function commitUnconfirmed(node: string): Promise<number[]> {
    await using client = await open(node);
    const { rows } = await client.query<{ pid: number }>('select pid from pg_stat_replication');
    for (const { pid } of rows) process.kill(pid, 'SIGSTOP');
    const lone = await open(node);
    void lone.query("insert into public.plain values (now(), 'lone', -99)").catch(() => lone.destroy());
    const waiting = async (): Promise<number> =>
      (
        await client.query(
          `select 1 from pg_stat_activity where wait_event = 'SyncRep' and query like '%lone%' and pid <> pg_backend_pid()`,
        )
      ).rows.length;
    await expect.poll(waiting).toBeGreaterThan(0);
    return rows.map(({ pid }) => pid);
  }

  async function missing(node: string, table: string, ids: readonly number[]): Promise<number[]> {
    await using client = await open(node);
    const { rows } = await client.query<{ id: number }>(
      `select id from unnest($1::int4[]) as want (id) where not exists (select from ${table} t where t.id = want.id)`,
      [ids],
    );
    return rows.map(({ id }) => id);
  }

  it('are one group with one write master; the data nodes were added through it', async () => {
    const status = await group();
    expect(status).toMatchObject({ state: 'complete', kind: 'manager', paused: false });
    expect(status.members.map(({ node, state, alive }) => [node, state, alive])).toEqual([
      ['an1', 'member', true],
      ['an2', 'member', true],
      ['an3', 'member', true],
    ]);
    for (const node of ['an1', 'an2', 'an3']) {
      await using client = await open(node);
      const { rows } = await client.query('select node_name::text as name from varve.data_nodes order by 1');
      expect(rows).toEqual([{ name: 'dn1' }, { name: 'dn2' }]);
    }
  });

  it('what is made and written on the write master is on all of them', async () => {
    await using client = await open(await master());
    await client.query('create table public.plain (at timestamptz, device text, id int4 primary key)');
    await client.query("insert into public.plain values (now(), 'd', 1)");
    for (const node of await others()) {
      await expect.poll(() => rowsOn(node, 'public.plain').catch(() => 0)).toBe(1);
    }
  });

  it('others refuse writes and say who takes them', async () => {
    const now = await master();
    const [other = ''] = await others();
    await using client = await open(other);
    await expect(client.query("insert into public.plain values (now(), 'd', 2)")).rejects.toMatchObject({
      sqlstate: '25006',
    });
    const insert = "insert into public.plain values (now(), 'd', 2)";
    const typed = await varve(['sql', '--dir', dir, '--node', other, '-c', insert]);
    expect(typed.stderr).toMatch(new RegExp(`^ERROR 25006: .*\n(?:.*\n)*HINT: The write master is "${now}"`));
    const add = client.query("select * from add_data_node('dn9', '127.0.0.1')");
    await expect(add).rejects.toMatchObject({
      sqlstate: '25006',
      hint: expect.stringContaining(now) as string,
    });
  });

  it('distributed hypertables are usable from every access node', async () => {
    await using client = await open(await master());
    await client.query('create table public.conditions (time timestamptz not null, device text, id int4)');
    await client.query("select * from create_distributed_hypertable('public.conditions', 'time', 'device')");
    await client.query(
      "insert into public.conditions select now(), 'd' || (i % 7), -i from generate_series(1, 50) as i",
    );
    for (const node of ['an1', 'an2', 'an3']) {
      await expect.poll(() => rowsOn(node, 'public.conditions').catch(() => 0), { timeout: 20_000 }).toBe(50);
    }
  });

  it('when the write master dies another takes over: nothing acknowledged is lost; what nobody had confirmed is on all or on none', async () => {
    const before = await master();
    const plain = writeRows('public.plain');
    const spread = writeRows('public.conditions');
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const [ids, spreadIds] = await Promise.all([plain.stop(), spread.stop()]);
    const senders = await commitUnconfirmed(before);
    await system.kill([system.daemonPid(before), system.postgresPid(before), ...senders]);
    await expect
      .poll(async () => (await group().catch(() => undefined))?.master ?? before, { timeout: TAKEOVER_MS })
      .not.toBe(before);
    const now = await master();
    expect(ids.length).toBeGreaterThan(0);
    expect(await missing(now, 'public.plain', ids)).toEqual([]);
    expect(await missing(now, 'public.conditions', spreadIds)).toEqual([]);
    await system.allReady();
    const settled = async (): Promise<string | undefined> =>
      (await group()).members.find(({ node }) => node === before)?.role;
    // Back before the others had settled, what it has alone is taken from it; otherwise it is to join anew.
    await expect.poll(settled, { timeout: TAKEOVER_MS }).toMatch(/^(rejoin-needed|following)$/);
    if ((await settled()) === 'rejoin-needed') {
      const told = (await varve(['cluster', 'status', '--dir', dir])).stdout;
      expect(told).toContain(`varve cluster reinit ${before}`);
      const reinit = await varve(['cluster', 'reinit', before, '--yes', '--dir', dir]);
      expect([reinit.code, reinit.stderr]).toEqual([0, expect.any(String)]);
      await expect.poll(settled, { timeout: TAKEOVER_MS }).toBe('following');
    }
    const count = await rowsOn(now, 'public.plain');
    for (const node of await others()) {
      await expect.poll(() => rowsOn(node, 'public.plain'), { timeout: 20_000 }).toBe(count);
    }
  });

  it.skipIf(haproxy === undefined)(
    'clients come to the write master through any node, and follow a switch-over',
    async () => {
      const layout = JSON.parse(await readFile(join(dir, 'system.json'), 'utf8')) as SystemLayout;
      const ports = layout.nodes.flatMap(({ proxies }) => (proxies ? [proxies.write] : []));
      const asked = async (port: number): Promise<string> => {
        await using client = await open(port);
        return (await client.one<{ name: string }>("select current_setting('cluster_name') as name")).name;
      };
      const before = await master();
      for (const port of ports)
        await expect.poll(() => asked(port).catch(() => ''), { timeout: 10_000 }).toBe(before);
      const [target = ''] = await others();
      const { code, stderr } = await varve(['cluster', 'switchover', target, '--dir', dir]);
      expect([code, stderr]).toEqual([0, expect.any(String)]);
      expect(await master()).toBe(target);
      for (const port of ports)
        await expect.poll(() => asked(port).catch(() => ''), { timeout: 10_000 }).toBe(target);
    },
  );

  it.skipIf(haproxy === undefined)(
    'clients that check certificates come in directly, through HAProxy and through PgBouncer',
    async () => {
      const layout = JSON.parse(await readFile(join(dir, 'system.json'), 'utf8')) as SystemLayout;
      const [first] = system.connections().access;
      const password = (await readFile(first?.passwordFile ?? '', 'utf8')).trim();
      const caPem = await readFile(join(dir, 'ca', 'ca.crt'), 'utf8');
      const foreign = await CertificateAuthority.open(join(dir, 'another-ca'));
      const login = async (port: number, tls: TlsOptions): Promise<boolean> => {
        const endpoint = { host: 'localhost', port, database: 'varve', user: 'postgres', password, tls };
        // Without TLS it would fail.
        await using client = await Connection.open(endpoint, { connectTimeoutMs: 5000, throughPooler: true });
        return (await client.maybeOne('select 1')) !== undefined;
      };
      const ways = layout.nodes.flatMap(({ pgPort, proxies }) =>
        proxies ? [pgPort, proxies.write, proxies.read, proxies.pooler] : [],
      );
      expect(ways).toHaveLength(12);
      for (const port of ways) {
        await expect
          .poll(() => login(port, { mode: 'verify-full', caPem }).catch(messageOf), { timeout: 10_000 })
          .toBe(true);
        await expect(login(port, { mode: 'verify-full', caPem: foreign.caPem })).rejects.toMatchObject({
          code: 'CONNECTION_FAILED',
        });
      }
    },
  );

  it('in maintenance nobody takes over; afterwards the same one goes on', async () => {
    expect((await varve(['cluster', 'pause', '--dir', dir])).code).toBe(0);
    expect((await group()).paused).toBe(true);
    expect((await varve(['cluster', 'resume', '--dir', dir])).code).toBe(0);
    expect((await group()).paused).toBe(false);
  });

  it('all of it killed at once comes back with everything', async () => {
    const count = await rowsOn(await master(), 'public.plain');
    await system.kill(system.allPids());
    system = await SystemProcess.up(dir, ['--no-metrics', '--lease-ttl', '2s']);
    const now = await master();
    expect(await rowsOn(now, 'public.plain')).toBe(count);
    await using client = await open(now);
    await client.query("insert into public.plain values (now(), 'after', -1)");
    for (const node of ['an1', 'an2', 'an3']) {
      await expect
        .poll(() => rowsOn(node, 'public.plain').catch(() => 0), { timeout: 20_000 })
        .toBe(count + 1);
    }
  });
});
