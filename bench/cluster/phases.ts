import type { RunEvent } from '../../src/run/step.ts';
import { pidFileOf, postmasterOf, type NodeProcess } from '../../test/group-processes.ts';
import { median } from '../measure.ts';
import { short, Table } from '../storage/figures.ts';
import { pause, until, untilWhole } from './contender.ts';
import { processorTime, treeProcessorMs } from './processor-time.ts';
import { varveGroup } from './varve-group.ts';

export interface PhaseOptions {
  readonly etcdPort: number;
  readonly leaseTtlS: number;
  readonly rounds: number;
  /** A data folder of an earlier start is there to be copied. */
  readonly warm: boolean;
}

/** Who used the processor: the daemon, programs that it ran to their end (initdb), the server with all of its processes. */
const USERS = ['daemon', 'programs', 'server'] as const;
type User = (typeof USERS)[number];
type Times = Readonly<Record<User, number>>;

interface Sample {
  /** Since the Unix epoch. */
  readonly atMs: number;
  readonly times: Times;
}

/** A step of one node's bootstrap. */
interface Phase {
  readonly name: string;
  /** Since the Unix epoch. */
  readonly beginMs: number;
  readonly endMs: number;
  /** Of this node, meanwhile. */
  readonly times: Times;
}

const SAMPLE_MS = 40;
const TIMEOUT_MS = 120_000;
const NOTHING: Times = { daemon: 0, programs: 0, server: 0 };
const BEFORE = '(process starts)';

/**
 * Where the time of a bootstrap goes, step by step: on the clock, which other work on the machine stretches, and on
 * the processor, which it hardly does. Processor time is counted for the node that is at the step, whoever caused it.
 */
export async function measurePhases(options: PhaseOptions): Promise<void> {
  const lives: Phase[][][] = [];
  const totals: Record<User | 'wall', number[]> = { daemon: [], programs: [], server: [], wall: [] };
  for (let round = 0; round <= options.rounds; round += 1) {
    const { phases, wallMs, times } = await oneLife(options, `phases${round}`);
    if (round === 0) continue;
    lives.push(phases);
    totals.wall.push(wallMs);
    for (const user of USERS) totals[user].push(times[user]);
  }
  tell(lives, totals);
}

async function oneLife(
  { etcdPort, leaseTtlS, warm }: PhaseOptions,
  cluster: string,
): Promise<{ phases: Phase[][]; wallMs: number; times: Times }> {
  await using group = await varveGroup({ etcdPort, cluster, leaseTtlS, warm });
  const samples = new Map<NodeProcess, Sample[]>(group.nodes.map((node) => [node, []]));
  const take = async (): Promise<void> => {
    for (const [node, taken] of samples) taken.push(await sample(node));
  };
  const beganMs = Date.now();
  for (const node of group.nodes) group.start(node);
  const whole = new AbortController();
  const sampling = (async () => {
    while (!whole.signal.aborted) {
      await take();
      await pause(SAMPLE_MS);
    }
  })();
  try {
    await untilWhole(group, TIMEOUT_MS);
  } finally {
    whole.abort();
    await sampling;
  }
  const wholeMs = Date.now();
  await take();
  const phases = await Promise.all(
    [...samples].map(async ([node, taken]) => phasesOf(await eventsOf(node), taken, { beganMs, wholeMs })),
  );
  const ends = [...samples.values()].map((taken) => taken.at(-1)?.times ?? NOTHING);
  return { phases, wallMs: wholeMs - beganMs, times: ends.reduce(plus, NOTHING) };
}

async function sample(node: NodeProcess): Promise<Sample> {
  const daemon = node.process?.pid ?? 0;
  const postmaster = await postmasterOf(pidFileOf(node));
  const all = treeProcessorMs([daemon], new Set([postmaster]));
  const own = processorTime(daemon)?.ownMs ?? 0;
  return {
    atMs: Date.now(),
    times: {
      daemon: own,
      programs: all - own,
      server: postmaster === undefined ? 0 : treeProcessorMs([postmaster]),
    },
  };
}

/** The first step of each run and step is when it was first heard of; it ends when the next begins. */
function phasesOf(
  events: readonly RunEvent[],
  samples: readonly Sample[],
  { beganMs, wholeMs }: { readonly beganMs: number; readonly wholeMs: number },
): Phase[] {
  const starts = events.filter(
    ({ step, state, atMs }) => step !== '' && state === 'checking' && atMs < wholeMs,
  );
  const names = [BEFORE, ...starts.map(({ step }) => step)];
  const times = [beganMs, ...starts.map(({ atMs }) => atMs), wholeMs];
  return names.map((name, i) => {
    const beginMs = times[i] ?? wholeMs;
    const endMs = times[i + 1] ?? wholeMs;
    return { name, beginMs, endMs, times: minus(timesAt(samples, endMs), timesAt(samples, beginMs)) };
  });
}

/** Between two samples time is taken to be used evenly. */
function timesAt(samples: readonly Sample[], atMs: number): Times {
  const next = samples.findIndex((one) => one.atMs >= atMs);
  const [before, after] = [samples[next - 1], samples[next]];
  if (!after) return samples.at(-1)?.times ?? NOTHING;
  if (!before) return NOTHING;
  const share = (atMs - before.atMs) / (after.atMs - before.atMs);
  return merge((user) => before.times[user] + share * (after.times[user] - before.times[user]));
}

/** All that a node has said of its runs so far; it is at the end of its bootstrap. */
async function eventsOf(node: NodeProcess): Promise<RunEvent[]> {
  const events: RunEvent[] = [];
  const isOver = (): boolean =>
    events.some(({ run, step, state }) => run === 'group' && step === '' && state === 'done');
  const stop = new AbortController();
  const url = `http://127.0.0.1:${node.httpPort}/api/events`;
  const reading = (async () => {
    const response = await fetch(url, { signal: stop.signal });
    let text = '';
    for await (const chunk of response.body ?? []) {
      text += Buffer.from(chunk as Uint8Array).toString();
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines)
        if (line.startsWith('data: ')) events.push(JSON.parse(line.slice(6)) as RunEvent);
    }
  })().catch(() => {});
  await until(() => Promise.resolve(isOver()), TIMEOUT_MS).finally(() => stop.abort());
  await reading;
  return events;
}

function tell(lives: readonly Phase[][][], totals: Readonly<Record<User | 'wall', number[]>>): void {
  const nodes = lives.flat();
  const names = [...new Set(nodes.flat().map(({ name }) => name))];
  const table = new Table(
    `of ${lives.length} bootstraps (ms): medians on the clock, means on the processor`,
    ['clock, leader', 'clock, member', ...USERS, 'of all nodes'],
  );
  for (const name of names) {
    const of = (phases: readonly Phase[]): Phase | undefined => phases.find((phase) => phase.name === name);
    const clock = (leads: boolean): string => {
      const taken = nodes
        .filter((phases) => isLeader(phases) === leads)
        .map((phases) => lengthOf(of(phases)));
      return short(Math.round(median(taken)));
    };
    const used = USERS.map((user) => sum(nodes.map((phases) => of(phases)?.times[user] ?? 0)) / lives.length);
    const cells = [...used, sum(used)].map((ms) => String(Math.round(ms)));
    table.row(name, [clock(true), clock(false), ...cells]);
  }
  const used = USERS.map((user) => median(totals[user]));
  table.row('from start to whole', [
    String(Math.round(median(totals.wall))),
    '',
    ...used.map((ms) => String(Math.round(ms))),
    String(Math.round(sum(used))),
  ]);
  table.print();
}

/** Only one node creates the group; for the others that step has nothing to do. */
function isLeader(phases: readonly Phase[]): boolean {
  const own = phases.find(({ name }) => name === 'create-group');
  const other = phases.find(({ name }) => name === 'join-group');
  return lengthOf(own) > lengthOf(other);
}

function lengthOf(phase: Phase | undefined): number {
  return phase ? phase.endMs - phase.beginMs : 0;
}

function merge(value: (user: User) => number): Times {
  return { daemon: value('daemon'), programs: value('programs'), server: value('server') };
}

const plus = (a: Times, b: Times): Times => merge((user) => a[user] + b[user]);
const minus = (a: Times, b: Times): Times => merge((user) => a[user] - b[user]);
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
