import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '../../src/core/errors.ts';
import { Connection } from '../../src/postgres/connection.ts';
import { GroupProcesses } from '../../test/group-processes.ts';
import { goal, Table } from '../storage/figures.ts';
import { pause, primaryOf, until, untilWhole, type Contender, type ContenderNode } from './contender.ts';
import { PatroniCluster, type PatroniNode } from './patroni.ts';
import { doomFlags, varveGroup, type Doom } from './varve-group.ts';

/**
 * One node of three is killed while they come up for the first time, and started again, as a supervisor would: do
 * they get there by themselves? At the beginning of each step of our bootstrap, in each role, and in the middle of
 * the long ones; Patroni at the points that can be told from outside.
 */
export interface KillOptions {
  readonly etcdPort: number;
  readonly leaseTtlS: number;
  readonly withPatroni: boolean;
  /** No point is begun after this, by performance.now. */
  readonly untilMs: number;
  /** Of points at a time. */
  readonly lanes: number;
  /** Restrict the points to those of these steps. */
  readonly steps?: ReadonlySet<string> | undefined;
}

interface Point extends Pick<Doom, 'step' | 'role' | 'afterMs'> {
  /** What is the same in Patroni's bootstrap. */
  readonly patroni?: PatroniPoint;
}

type PatroniPoint = 'initdb' | 'server-started' | 'leader' | 'copying' | 'replica-started';

interface Outcome {
  /** Undefined when the point did not come. */
  readonly converged: boolean | undefined;
  readonly text: string;
}

/**
 * Who is not there after so many times what an undisturbed bootstrap takes on this machine, at least after so long,
 * will not be: the leases of a dead node last half a minute at most.
 */
const PATIENCE = { times: 6, atLeastMs: 40_000 } as const;
const RESTART_AFTER_MS = 300;

const at = (
  step: string,
  role: Doom['role'] = 'any',
  more: { afterMs?: number; patroni?: PatroniPoint } = {},
): Point => ({ step, role, afterMs: 0, ...more });

/** In the order in which they are tried: where time is short, the last are left out. */
const POINTS: readonly Point[] = [
  at('init-database-folder', 'any', { afterMs: 400, patroni: 'initdb' }),
  at('create-database', 'any', { patroni: 'server-started' }),
  at('create-group', 'leader'),
  at('create-control-schema', 'leader', { afterMs: 100 }),
  at('complete-group', 'leader', { patroni: 'leader' }),
  at('join-group', 'member', { afterMs: 200, patroni: 'copying' }),
  at('wait-for-members', 'member', { patroni: 'replica-started' }),
  at('set-write-master', 'leader'),
  at('create-control-schema', 'leader'),
  at('join-group', 'member'),
  at('release-bootstrap-lock', 'leader'),
  at('release-bootstrap-lock', 'member'),
  at('wait-for-members', 'leader'),
  at('wait-for-control-schema', 'member'),
  at('wait-for-write-master', 'member'),
  at('reconfigure-services', 'leader'),
  at('reconfigure-services', 'member'),
  at('take-bootstrap-lock'),
  at('init-database-folder'),
  at('start-database'),
  at('create-extensions'),
  at('create-users'),
  at('create-databases'),
  at('create-group-extensions'),
  at('register-node'),
  at('wait-for-nodes'),
  at('refresh-edges', 'member'),
  at('configure-database'),
  at('write-extension-files'),
  at('share-password'),
];

export async function measureKills(options: KillOptions): Promise<void> {
  const points = POINTS.filter(({ step }) => options.steps?.has(step) ?? true);
  const flags = await mkdtemp(join(tmpdir(), 'varve-bench-kills-'));
  const outcomes = new Map<string, Outcome>();
  const limitMs = await patienceMs(options);
  const jobs: (() => Promise<void>)[] = [];
  // Told as they come, too: the table is only there when all have been tried.
  const note = (key: string, who: string, outcome: Outcome): void => {
    outcomes.set(key, outcome);
    console.log(`  ${who}: ${outcome.text}`);
  };
  for (const what of ['machine', 'daemon'] as const) {
    for (const [index, point] of points.entries()) {
      const key = `${index} ${what}`;
      jobs.push(async () => {
        const flag = join(flags, key.replace(' ', '-'));
        const cluster = `kill-${index}-${what}`;
        const outcome = await killVarve({ ...point, what, flag }, { ...options, cluster, limitMs });
        note(key, `${point.step} (${point.role}), ${what}`, outcome);
      });
      // After ours of the same name: what is compared stands or falls together when time is short.
      const { patroni } = point;
      if (what === 'machine' && patroni && options.withPatroni) {
        jobs.push(async () =>
          note(patroni, `Patroni, ${patroni}`, await killPatroni(patroni, { ...options, limitMs })),
        );
      }
    }
  }
  try {
    await Promise.all(Array.from({ length: options.lanes }, () => work(jobs, options.untilMs)));
  } finally {
    await rm(flags, { recursive: true, force: true });
  }
  tell(points, outcomes);
}

async function work(jobs: (() => Promise<void>)[], untilMs: number): Promise<void> {
  while (performance.now() < untilMs) {
    const job = jobs.shift();
    if (!job) return;
    await job().catch((error: unknown) => console.log(`  a kill: FAILED: ${messageOf(error)}`));
  }
}

interface Limited extends KillOptions {
  readonly limitMs: number;
}

/** By an undisturbed bootstrap, with as many others at the same time as there will be. */
async function patienceMs({ lanes, ...options }: KillOptions): Promise<number> {
  const began = performance.now();
  const one = async (lane: number): Promise<void> => {
    await using group = await varveGroup({ ...options, cluster: `undisturbed-${lane}`, canDie: true });
    for (const node of group.nodes) group.start(node);
    await untilWhole(group, 300_000);
  };
  await Promise.all(Array.from({ length: lanes }, (_, lane) => one(lane)));
  return Math.max(PATIENCE.atLeastMs, PATIENCE.times * (performance.now() - began));
}

async function killVarve(doom: Doom, options: Limited & { readonly cluster: string }): Promise<Outcome> {
  await using group = await varveGroup({ ...options, canDie: true });
  for (const node of group.nodes) group.start(node, doomFlags(node, doom));
  const { limitMs } = options;
  const victim = await untilOne(group.nodes, ({ process }) => process?.signalCode === 'SIGKILL', limitMs);
  if (!victim) return { converged: undefined, text: 'did not come' };
  await pause(RESTART_AFTER_MS);
  const isOne = async (): Promise<boolean> => {
    const status = await group.status();
    const members = status?.members.filter(({ state }) => state === 'member') ?? [];
    return status?.state === 'complete' && members.length === group.nodes.length;
  };
  return await convergence(group, victim, { limitMs, isOne });
}

async function killPatroni(point: PatroniPoint, options: Limited): Promise<Outcome> {
  const times = { ttlS: options.leaseTtlS, loopWaitS: 1, retryTimeoutS: 3 };
  await using cluster = await PatroniCluster.prepare(options.etcdPort, `kill-${point}`, times);
  for (const node of cluster.nodes) cluster.start(node);
  const { limitMs } = options;
  const victim = await patroniAt(cluster, point, limitMs);
  if (!victim) return { converged: undefined, text: 'did not come' };
  await cluster.kill(victim);
  await pause(RESTART_AFTER_MS);
  return await convergence(cluster, victim, { limitMs, isOne: () => Promise.resolve(true) });
}

/** The node that is at that point, as soon as one is. */
async function patroniAt(
  cluster: PatroniCluster,
  point: PatroniPoint,
  limitMs: number,
): Promise<PatroniNode | undefined> {
  const initialised = ({ dataDir }: PatroniNode): boolean => existsSync(join(dataDir, 'base'));
  const started = ({ dataDir }: PatroniNode): boolean => existsSync(join(dataDir, 'postmaster.pid'));
  const { nodes } = cluster;
  const reached = (isThere: (node: PatroniNode) => boolean): Promise<PatroniNode | undefined> =>
    untilOne(nodes, isThere, limitMs);
  if (point === 'initdb') return reached(initialised);
  const first = await reached(started);
  if (point === 'server-started' || first === undefined) return first;
  if (point === 'leader') {
    await until(async () => (await cluster.primary()) !== undefined, limitMs);
    return first;
  }
  return reached((node) => node !== first && (point === 'copying' ? initialised(node) : started(node)));
}

async function untilOne<N>(
  nodes: readonly N[],
  isIt: (node: N) => boolean,
  limitMs: number,
): Promise<N | undefined> {
  let found: N | undefined;
  const look = (): Promise<boolean> => Promise.resolve((found = nodes.find(isIt)) !== undefined);
  await until(look, limitMs, 2).catch(() => {});
  return found;
}

/** Starts the victim again, and does nothing else. */
async function convergence<N extends ContenderNode>(
  group: Contender<N>,
  victim: N,
  { limitMs, isOne }: { readonly limitMs: number; readonly isOne: () => Promise<boolean> },
): Promise<Outcome> {
  group.start(victim);
  const began = performance.now();
  try {
    await until(async () => (await group.isWhole()) && (await isOne()), limitMs, 50);
    await writeEverywhere(group, limitMs);
    return { converged: true, text: `${((performance.now() - began) / 1000).toFixed(1)} s` };
  } catch (error) {
    if (group instanceof GroupProcesses) {
      console.log(`  ${victim.name} was killed: ${messageOf(error)}\n${await group.complaints()}`);
    }
    return { converged: false, text: `not in ${Math.round(limitMs / 1000)} s` };
  }
}

/** A row that is written on the write master arrives on all. */
async function writeEverywhere<N extends ContenderNode>(group: Contender<N>, limitMs: number): Promise<void> {
  const write = async (): Promise<boolean> => {
    const endpoint = group.endpoint(await primaryOf(group));
    await using connection = await Connection.open(endpoint, { connectTimeoutMs: 1000 });
    await connection.query('create table if not exists public.proof (n int primary key)');
    await connection.query('insert into public.proof values (1) on conflict do nothing');
    return true;
  };
  await until(() => write().catch(() => false), limitMs, 100);
  const isThere = async (node: N): Promise<boolean> => {
    await using connection = await Connection.open(group.endpoint(node), { connectTimeoutMs: 1000 });
    return (await connection.query('select from public.proof')).rows.length === 1;
  };
  for (const node of group.nodes) {
    await until(() => isThere(node).catch(() => false), limitMs, 50);
  }
}

function tell(points: readonly Point[], outcomes: ReadonlyMap<string, Outcome>): void {
  const table = new Table(
    'kill -9 of one node in the first bootstrap, then started again: until all three are one group that takes writes',
    ['role', 'machine', 'daemon alone', 'Patroni (machine)', 'where'],
  );
  const text = (key: string): string => outcomes.get(key)?.text ?? 'not tried';
  for (const [index, { step, role, afterMs, patroni }] of points.entries()) {
    const name = afterMs === 0 ? step : `${step}, ${afterMs} ms in`;
    const theirs = patroni ? [text(patroni), patroni] : ['', ''];
    table.row(name, [role, text(`${index} machine`), text(`${index} daemon`), ...theirs]);
  }
  table.print();
  const ours = [...outcomes].filter(([key]) => key.includes(' '));
  const stuck = (all: readonly (readonly [string, Outcome])[]): number =>
    all.filter(([, { converged }]) => converged === false).length;
  goal(`kills that needed a repair (of ${ours.length} tried)`, { atMost: 0, unit: 'kills' }, stuck(ours));
  const theirs = [...outcomes].filter(([key]) => !key.includes(' '));
  if (theirs.length > 0) {
    console.log(`  Patroni needed a repair after ${stuck(theirs)} of ${theirs.length} kills`);
  }
}
