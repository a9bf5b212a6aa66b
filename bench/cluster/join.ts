import { messageOf } from '../../src/core/errors.ts';
import { Connection, type Endpoint } from '../../src/postgres/connection.ts';
import type { GroupProcesses, NodeProcess } from '../../test/group-processes.ts';
import { goal, middle, Table } from '../storage/figures.ts';
import { median } from '../measure.ts';
import { pause, primaryOf, until, untilWhole } from './contender.ts';
import { ratesOf, type JoinRates } from './load-rate.ts';
import { BeatWatch, PacedLoad } from './paced-load.ts';
import { patroniJoin } from './patroni-join.ts';
import type { PatroniCluster } from './patroni.ts';
import { varveGroup } from './varve-group.ts';

export interface JoinOptions {
  readonly etcdPort: number;
  readonly rounds: number;
  readonly rowsPerSecond: number;
  readonly leaseTtlS: number;
  /** Three nodes and one to come, of Patroni's; undefined where it is not installed. */
  readonly patroni: ((scope: string) => Promise<PatroniCluster>) | undefined;
}

interface Stall {
  readonly maxMs: number;
  readonly medianMs: number;
}

interface Joined {
  /** From the start of the process with an empty folder; and of that, since it asked to be let in. */
  readonly totalMs: number;
  readonly joiningMs: number;
  readonly rates: JoinRates;
  readonly lostRows: number;
  /** Members whose content is not the write master's. */
  readonly differing: number;
  readonly stalls: ReadonlyMap<string, { readonly before: Stall; readonly during: Stall }>;
}

const ROWS_BEFORE = 40_000;
const JOIN_TIMEOUT_MS = 120_000;
const CATCH_UP_MS = 60_000;
/** Of the rate that is asked for; less means that the machine did not keep up, and the rest says nothing. */
const RATE_SHARE = 0.95;

/**
 * A fourth node joins a group of three while clients write to its write master; and the same with Patroni, where it is
 * there. What the machine lets through without a join is told, too: it bounds what goes through with one.
 */
export async function measureJoin(options: JoinOptions): Promise<void> {
  const found: Joined[] = [];
  const theirs: JoinRates[] = [];
  for (let round = 1; round <= options.rounds; round += 1) {
    const joined = await joinOnce(options, `join${round}`).catch((error: unknown) => {
      console.log(`  join: FAILED: ${messageOf(error)}`);
    });
    if (!joined) continue;
    found.push(joined);
    console.log(
      `  join: ${Math.round(joined.totalMs)} ms, ${Math.round(joined.joiningMs)} ms of it joining; ${joined.lostRows} rows lost`,
    );
    const { patroni, rowsPerSecond } = options;
    if (!patroni) continue;
    const prepared = await patroni(`join${round}`);
    const rates = await patroniJoin(prepared, { rowsPerSecond, rowsBefore: ROWS_BEFORE }).catch(
      (error: unknown) => console.log(`  join of Patroni: FAILED: ${messageOf(error)}`),
    );
    if (rates) theirs.push(rates);
  }
  tell(found, theirs, options);
}

async function joinOnce(options: JoinOptions, cluster: string): Promise<Joined> {
  const { etcdPort, leaseTtlS } = options;
  await using group = await varveGroup({ etcdPort, cluster, leaseTtlS, joiners: 1 });
  try {
    return await joinUnderLoad(group, options);
  } catch (error) {
    throw new Error(`${messageOf(error)}\n${await group.complaints()}`, { cause: error });
  }
}

async function joinUnderLoad(group: GroupProcesses, { rowsPerSecond }: JoinOptions): Promise<Joined> {
  for (const node of group.nodes) group.start(node);
  await untilWhole(group, JOIN_TIMEOUT_MS);
  // Until then a member that begins to follow ends the sessions that it finds.
  await until(() => group.isSettled(), JOIN_TIMEOUT_MS);
  const master = await primaryOf(group);
  await using load = await PacedLoad.start(group.endpoint(master), {
    rowsPerSecond,
    rowsBefore: ROWS_BEFORE,
  });
  await Promise.all(group.nodes.map((node) => untilBeat(group.endpoint(node), 1)));
  const watches = new Map(group.nodes.map((node) => [node.name, new BeatWatch(group.endpoint(node))]));
  try {
    const { joined: times, beganMs, startedMs, ...rates } = await ratesOf(load, () => join(group));
    // A stall that has not ended yet counts, too.
    await pause(500);
    await load.stop();
    await until(() => group.isSettled(), JOIN_TIMEOUT_MS);
    return {
      ...times,
      rates,
      ...(await compare(group, load, master)),
      stalls: new Map(
        [...watches].map(([name, watch]) => [
          name === master.name ? `${name} (write master)` : name,
          {
            before: stallOf(watch.gapsMs(beganMs, startedMs)),
            during: stallOf(watch.gapsMs(startedMs, times.endedMs + 500)),
          },
        ]),
      ),
    };
  } finally {
    await Promise.all([...watches.values()].map((watch) => watch[Symbol.asyncDispose]()));
  }
}

async function join(group: GroupProcesses): Promise<{ endedMs: number; totalMs: number; joiningMs: number }> {
  const [joiner] = group.joiners;
  if (!joiner) throw new Error('there is nobody to join');
  const startedMs = performance.now();
  group.start(joiner);
  let askedMs = Number.NaN;
  const isMember = async (): Promise<boolean> => {
    const record = (await group.status())?.members.find(({ node }) => node === joiner.name);
    if (record && Number.isNaN(askedMs)) askedMs = performance.now();
    return record?.state === 'member';
  };
  await until(isMember, JOIN_TIMEOUT_MS).catch((error: unknown) => {
    throw new Error('it did not join', { cause: error });
  });
  const endedMs = performance.now();
  return { endedMs, totalMs: endedMs - startedMs, joiningMs: endedMs - askedMs };
}

async function compare(
  group: GroupProcesses,
  load: PacedLoad,
  master: NodeProcess,
): Promise<Pick<Joined, 'lostRows' | 'differing'>> {
  const all = [...group.nodes, ...group.joiners];
  const last = await newestBeat(group.endpoint(master));
  // What one session has written arrives in order, and the writers have stopped: a mark behind all of them.
  await using connection = await Connection.open(group.endpoint(master), { connectTimeoutMs: 5000 });
  await connection.query('insert into public.beat values ($1)', [last + 1]);
  await Promise.all(all.map((node) => untilBeat(group.endpoint(node), last + 1)));
  const lost = await Promise.all(all.map((node) => load.lostRows(group.endpoint(node))));
  const digests = await Promise.all(all.map((node) => digest(group.endpoint(node))));
  const wanted = await digest(group.endpoint(master));
  return {
    lostRows: lost.reduce((sum, rows) => sum + rows, 0),
    differing: digests.filter((each) => each !== wanted).length,
  };
}

async function newestBeat(endpoint: Endpoint): Promise<number> {
  await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
  const { n } = await connection.one<{ n: number }>('select coalesce(max(n), 0) as n from public.beat');
  return n;
}

/** Until the table is there, with that number. */
async function untilBeat(endpoint: Endpoint, number: number): Promise<void> {
  await until(async () => (await newestBeat(endpoint).catch(() => 0)) >= number, CATCH_UP_MS);
}

async function digest(endpoint: Endpoint): Promise<string> {
  await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
  const { digest } = await connection.one<{ digest: string }>(
    `select count(*) || ' ' || md5(string_agg(l::text, ',' order by id)) as digest from public.load as l`,
  );
  return digest;
}

function stallOf(gapsMs: readonly number[]): Stall {
  return { maxMs: Math.max(0, ...gapsMs), medianMs: median(gapsMs) };
}

function tell(found: readonly Joined[], theirs: readonly JoinRates[], { rowsPerSecond }: JoinOptions): void {
  if (found.length > 0) tellTimes(found, rowsPerSecond);
  const ours = found.map(({ rates }) => rates);
  tellRates({ Varve: ours, Patroni: theirs }, rowsPerSecond);
  const of = (pick: (joined: Joined) => number): number[] => found.map(pick);
  const total = (pick: (joined: Joined) => number): number =>
    found.length === 0 ? Number.NaN : of(pick).reduce((sum, each) => sum + each, 0);
  goal(
    'acknowledged rows lost by a join',
    { atMost: 0, unit: 'rows' },
    total((each) => each.lostRows),
  );
  goal(
    'members that differ after a join',
    { atMost: 0, unit: 'members' },
    total((each) => each.differing),
  );
  const rate = median(of(({ rates }) => rates.during.rowsPerSecond));
  goal('rows written while a node joins', { atLeast: rowsPerSecond * RATE_SHARE, unit: 'rows/s' }, rate);
}

/** Side by side: the same load on the same machine, without a join and while one is going on. */
function tellRates(all: Readonly<Record<string, readonly JoinRates[]>>, rowsPerSecond: number): void {
  const table = new Table(`a load of ${rowsPerSecond} rows/s beside a join, medians`, [
    'rows/s without',
    'rows/s with',
    'slowest commit (ms)',
    'processors busy without',
    'with',
  ]);
  for (const [name, rates] of Object.entries(all)) {
    if (rates.length === 0) continue;
    const of = (pick: (each: JoinRates) => number, digits: number): string =>
      median(rates.map(pick)).toFixed(digits);
    table.row(name, [
      of(({ without }) => without.rowsPerSecond, 0),
      of(({ during }) => during.rowsPerSecond, 0),
      of(({ during }) => during.slowestMs, 0),
      of(({ without }) => without.busyProcessors, 2),
      of(({ during }) => during.busyProcessors, 2),
    ]);
  }
  table.print();
}

function tellTimes(found: readonly Joined[], rowsPerSecond: number): void {
  const of = (pick: (joined: Joined) => number): number[] => found.map(pick);
  const times = new Table(`a join under ${rowsPerSecond} rows/s, medians of ${found.length} rounds`, ['']);
  times.row('whole, from an empty folder (ms)', [middle(of(({ totalMs }) => totalMs))]);
  times.row('since it asked to be let in (ms)', [middle(of(({ joiningMs }) => joiningMs))]);
  times.print();
  const stalls = new Table('time between two arrivals of rows that are written every 20 ms (ms)', [
    'before: median',
    'max',
    'while it joins: median',
    'max',
  ]);
  // In another round it may be another node.
  const [masters, others] = [true, false].map((wanted) =>
    found.flatMap(({ stalls }) =>
      [...stalls].filter(([name]) => name.includes('master') === wanted).map(([, each]) => each),
    ),
  );
  for (const [name, rows] of [
    ['write master', masters],
    ['other members', others],
  ] as const) {
    const figure = (pick: (each: { before: Stall; during: Stall }) => number): number[] =>
      (rows ?? []).map(pick);
    stalls.row(name, [
      middle(figure(({ before }) => before.medianMs)),
      String(Math.round(Math.max(...figure(({ before }) => before.maxMs)))),
      middle(figure(({ during }) => during.medianMs)),
      String(Math.round(Math.max(...figure(({ during }) => during.maxMs)))),
    ]);
  }
  stalls.print();
}
