import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chooseFreePorts } from '../src/node/ports.ts';
import { Connection, type Endpoint } from '../src/postgres/connection.ts';
import { PATRONI_PROGRAM, PatroniCluster } from './cluster/patroni.ts';
import { VarveGroup } from './cluster/varve-group.ts';
import { lostRows, WriteLoad } from './cluster/write-load.ts';
import { median, noise } from './measure.ts';

/**
 * A group of three access nodes beside Patroni (Debian: patroni, postgresql-15, etcd-server), with the same etcd
 * and the same lease, in turns:
 *   npm run bench -- cluster [ROUNDS]
 * Bootstrap: from three empty folders to data on all three. Switch-over and fail-over (`kill -9` of daemon and
 * server): for how long no server took a write, and how many acknowledged rows were gone afterwards.
 */
const ROUNDS = Number(process.argv[2] ?? 3);
/** The shortest that Patroni allows, for both. */
const TTL_S = 20;
const WHOLE_TIMEOUT_MS = 120_000;
const TAKEOVER_TIMEOUT_MS = 120_000;

interface Group<N> extends AsyncDisposable {
  readonly nodes: readonly N[];
  start(node: N): void;
  isWhole(): Promise<boolean>;
  primary(): Promise<N | undefined>;
  endpoint(node: N): Endpoint;
  kill(node: N): Promise<void>;
  switchover(): Promise<void>;
}

type Figure = 'bootstrap' | 'switch-over' | 'fail-over';
const figures = new Map<string, Map<Figure, number[]>>();
const lost = new Map<string, number>();

if (!existsSync(PATRONI_PROGRAM))
  throw new Error('this needs patroni, postgresql-15 and etcd-server (Debian)');
await using etcd = await startEtcd();
for (let round = 0; round <= ROUNDS; round += 1) {
  const scope = `bench${round}`;
  const times = { ttlS: TTL_S, loopWaitS: 1, retryTimeoutS: 3 };
  const varve = async (): Promise<void> =>
    measure('Varve', await VarveGroup.prepare(etcd.port, scope, TTL_S), round > 0);
  const patroni = async (): Promise<void> =>
    measure('Patroni', await PatroniCluster.prepare(etcd.port, scope, times), round > 0);
  for (const turn of round % 2 === 0 ? [varve, patroni] : [patroni, varve]) await turn();
}
report();

async function measure<N>(name: string, prepared: Group<N>, counts: boolean): Promise<void> {
  await using group = prepared;
  const note = (figure: Figure, ms: number): void => {
    console.log(
      `  ${name.padEnd(8)} ${figure.padEnd(12)} ${Math.round(ms)} ms${counts ? '' : ' (not counted)'}`,
    );
    if (!counts) return;
    const own = figures.get(name) ?? new Map<Figure, number[]>();
    figures.set(name, own.set(figure, [...(own.get(figure) ?? []), ms]));
  };
  const began = performance.now();
  for (const node of group.nodes) group.start(node);
  await until(() => group.isWhole(), WHOLE_TIMEOUT_MS, `${name} is whole`);
  note('bootstrap', performance.now() - began);

  await makeTable(group);
  const load = new WriteLoad(group.nodes.map((node) => group.endpoint(node)));
  load.start();
  await pause(2000);
  const switched = performance.now();
  await group.switchover();
  await pause(6000);
  note('switch-over', load.longestGapMs(switched));

  const victim = await present(group);
  const killed = performance.now();
  await group.kill(victim);
  await load.firstAfter(killed + 500, TAKEOVER_TIMEOUT_MS);
  await pause(1000);
  note('fail-over', load.longestGapMs(killed));
  await load.stop();
  const missing = await lostRows(group.endpoint(await present(group)), load.acknowledgedIds);
  lost.set(name, (lost.get(name) ?? 0) + missing);
}

async function present<N>(group: Group<N>): Promise<N> {
  const primary = await group.primary();
  if (primary === undefined) throw new Error('there is no write master');
  return primary;
}

async function makeTable<N>(group: Group<N>): Promise<void> {
  const primary = await present(group);
  await using connection = await Connection.open(group.endpoint(primary), { connectTimeoutMs: 5000 });
  await connection.query('create table public.load (id bigint primary key)');
}

function report(): void {
  const at = (name: string, figure: Figure): number[] => figures.get(name)?.get(figure) ?? [];
  console.log(`\nmedians of ${ROUNDS} rounds, lease ${TTL_S} s, etcd`);
  for (const figure of ['bootstrap', 'switch-over', 'fail-over'] as const) {
    const [ours, theirs] = [at('Varve', figure), at('Patroni', figure)];
    const ratio = median(ours) / median(theirs);
    console.log(
      `  ${figure.padEnd(12)} Varve ${median(ours).toFixed(0)} ms ± ${(noise(ours) * 100).toFixed(0)} %, Patroni ${median(theirs).toFixed(0)} ms ± ${(noise(theirs) * 100).toFixed(0)} %: ${ratio.toFixed(2)}× (goal ${figure === 'bootstrap' ? '0.6' : '1'}×)`,
    );
  }
  for (const [name, rows] of lost) console.log(`  acknowledged rows lost by ${name}: ${rows}`);
}

async function startEtcd(): Promise<AsyncDisposable & { readonly port: number }> {
  const [port = 0, peer = 0] = await chooseFreePorts(2, []);
  const folder = await mkdtemp(join(tmpdir(), 'varve-bench-etcd-'));
  const url = (at: number): string => `http://127.0.0.1:${at}`;
  const args = [
    ['--data-dir', folder],
    ['--listen-client-urls', url(port)],
    ['--advertise-client-urls', url(port)],
    ['--listen-peer-urls', url(peer)],
    ['--initial-advertise-peer-urls', url(peer)],
    ['--initial-cluster', `default=${url(peer)}`],
  ].flat();
  const child = spawn('etcd', args, { stdio: 'ignore' });
  await until(
    () =>
      fetch(`${url(port)}/health`).then(
        (response) => response.ok,
        () => false,
      ),
    20_000,
    'etcd is up',
  );
  return {
    port,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await pause(200);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function until(isSo: () => Promise<boolean>, timeoutMs: number, what: string): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await isSo())) {
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain until ${what}`);
    await pause(20);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
