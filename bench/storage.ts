/**
 * Varve's storage engine side by side with VictoriaMetrics and Prometheus, on this machine and in one run: ingest
 * over HTTP, kill -9, restarts, sizes, reads. Data sets as `storage-data.ts` makes them, ending now.
 *   npm run bench -- storage [--scale 1] [--rounds 3] [--only ingest-A,…] [--contenders varve,vm] [--folder DIR]
 * A quarter of an hour in full on two cores that nobody else uses; `--scale 0.1` for trying out. What fails is told,
 * and its figures are `not measured`. Parts: ingest-A, ingest-B, ingest-C, reads, decode.
 */
import { cpus, tmpdir } from 'node:os';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { median } from './measure.ts';
import { DATA_SETS, scaled, STEP_MS, type DataSet } from './storage-data.ts';
import { SAMPLES_PER_BODY, writeBodies, type BodyFile } from './storage/bodies.ts';
import {
  PROMETHEUS,
  prometheus,
  varve,
  versionOf,
  VICTORIA_METRICS,
  victoriaMetrics,
  type Contender,
} from './storage/contenders.ts';
import { decodeFigures } from './storage/decode.ts';
import { engineFigures, NO_ENGINE_FIGURES, type EngineFigures } from './storage/engine.ts';
import { goal, mebi, mega, middle, printGoals, short, Table } from './storage/figures.ts';
import { ingest, spanOf, type IngestFigures } from './storage/ingest.ts';
import { endOnSignal, killAll, machineCpu } from './storage/server.ts';

const { values } = parseArgs({
  options: {
    scale: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'ingest-A,ingest-B,ingest-C,reads,decode' },
    contenders: { type: 'string', default: 'varve,varveSync,vm,prom' },
    folder: { type: 'string', default: tmpdir() },
  },
});
const scale = Number(values.scale);
const rounds = Number(values.rounds);
const parts = new Set(values.only.split(','));
const folder = await mkdtemp(join(values.folder, 'varve-bench-'));
const startedAt = performance.now();

type Kind = 'varve' | 'varveSync' | 'vm' | 'prom';
type Results = Partial<Record<Kind, IngestFigures[]>>;

const wantedKinds = new Set(values.contenders.split(','));
const available = (['varve', 'varveSync', 'vm', 'prom'] as const).filter((kind) => {
  const isThere =
    (kind !== 'vm' || existsSync(VICTORIA_METRICS)) && (kind !== 'prom' || existsSync(PROMETHEUS));
  return isThere && wantedKinds.has(kind);
});
let pastHours = 4;

function make(kind: Kind, at: string): Promise<Contender> {
  switch (kind) {
    case 'vm':
      return victoriaMetrics(at);
    case 'prom':
      return prometheus(at);
    case 'varve':
      return varve(at, { logMode: 'behind', pastHours });
    case 'varveSync':
      return varve(at, { logMode: 'sync', pastHours });
  }
}

let madeFolders = 0;

async function withContender<T>(kind: Kind, use: (contender: Contender) => Promise<T>): Promise<T> {
  const at = join(folder, `${kind}-${madeFolders++}`);
  await mkdir(at, { recursive: true });
  try {
    return await use(await make(kind, at));
  } finally {
    await rm(at, { recursive: true, force: true });
  }
}

async function withBodies(set: DataSet, use: (bodies: BodyFile) => Promise<void>): Promise<void> {
  const path = join(folder, `bodies-${set.name}`);
  const spanMs = set.samplesPerSeries * STEP_MS;
  // Varve takes what is behind its namespace's buffer: the buffer is larger than the data set is old.
  pastHours = Math.ceil(spanMs / 3_600_000) + 1;
  const bodies = writeBodies(path, set, Date.now() - spanMs - STEP_MS);
  console.log(
    `\ndata set ${set.name}: ${set.series} series × ${set.samplesPerSeries} = ${mega(bodies.samples)} samples, ` +
      `${bodies.bodies} requests, ${short(bodies.rawBytes / bodies.samples)} bytes a sample raw, ` +
      `${short(bodies.snappyBytes / bodies.samples)} as snappy`,
  );
  try {
    await use(bodies);
  } finally {
    await rm(path, { force: true });
  }
}

/** What goes wrong with one of them costs its figures, which are `not measured` then, and not all the others'. */
async function attempt(what: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.log(`\n${what} FAILED: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
    await killAll();
  }
}

interface IngestPlan {
  readonly connections: number;
  readonly rounds: number;
  readonly kinds: readonly Kind[];
  /** In the last round, which then has no figures of what was put off. */
  readonly kills: boolean;
  readonly afterKill?: (kind: Kind, contender: Contender, bodies: BodyFile) => Promise<void>;
}

/** All contenders in turn, round by round, in an order that changes. */
async function ingestRounds(bodies: BodyFile, plan: IngestPlan): Promise<Results> {
  const results: Results = {};
  for (let round = 0; round < plan.rounds; round++) {
    const kinds = plan.kinds.filter((kind) => available.includes(kind));
    for (const kind of round % 2 === 0 ? kinds : kinds.toReversed()) {
      const kills = plan.kills && round === plan.rounds - 1;
      await attempt(`ingest of ${bodies.set.name}, ${NAMES[kind]}, round ${round + 1}:`, () =>
        withContender(kind, async (contender) => {
          const figures = await ingest(contender, { bodies, connections: plan.connections, kills });
          (results[kind] ??= []).push(figures);
          if (kills) await plan.afterKill?.(kind, contender, bodies);
        }),
      );
    }
  }
  return results;
}

const NAMES: Readonly<Record<Kind, string>> = {
  varve: 'Varve, log written',
  varveSync: 'Varve, fdatasync',
  vm: 'VictoriaMetrics',
  prom: 'Prometheus',
};

function showIngest(title: string, results: Results): void {
  const table = new Table(title, [
    'samples/s',
    'CPU s/M',
    'with what was put off',
    'p50 ms',
    'p99 ms',
    'peak memory',
    'on disk',
    'lost by kill -9',
    'foreign cores',
  ]);
  for (const [kind, figures] of Object.entries(results) as [Kind, IngestFigures[]][]) {
    const of = (pick: (one: IngestFigures) => number): number[] => figures.map(pick);
    table.row(NAMES[kind], [
      middle(
        of((one) => one.samplesPerSecond),
        mega,
      ),
      middle(of((one) => one.cpuPerMillion)),
      middle(of((one) => one.settledCpuPerMillion)),
      middle(of((one) => one.p50Ms)),
      middle(of((one) => one.p99Ms)),
      middle(
        of((one) => one.peakBytes),
        mebi,
      ),
      middle(
        of((one) => one.diskBytes),
        mebi,
      ),
      figures.flatMap(({ lost }) => (lost === undefined ? [] : [String(lost)])).join() || '-',
      middle(of((one) => one.foreignCores)),
    ]);
  }
  table.print();
}

function figure(results: Results, kind: Kind, pick: (one: IngestFigures) => number): number {
  const known = (results[kind] ?? []).map(pick).filter((value) => !Number.isNaN(value));
  return known.length === 0 ? Number.NaN : median(known);
}

const rate = (one: IngestFigures): number => one.samplesPerSecond;
const cpu = (one: IngestFigures): number => one.cpuPerMillion;
const p99 = (one: IngestFigures): number => one.p99Ms;
const peak = (one: IngestFigures): number => one.peakBytes;

const restartMs: Record<string, number[]> = {};

/** Several starts after kill -9, then from the log alone. */
async function restarts(kind: Kind, contender: Contender, bodies: BodyFile): Promise<void> {
  for (const [what, prepare] of [
    ['ready', undefined],
    ['replay', () => contender.leaveLogOnly?.()],
  ] as const) {
    if (what === 'replay' && bodies.set.name !== 'A') continue;
    for (let i = 0; i < 3; i++) {
      await prepare?.();
      const { server, readyMs } = await contender.start();
      await server.kill();
      (restartMs[`${bodies.set.name} ${what} ${kind}`] ??= []).push(readyMs);
    }
  }
}

function showRestarts(set: string): void {
  const table = new Table(
    `restart after kill -9, ${set}: ms from the start of the process until it is ready`,
    ['ready', 'log alone'],
  );
  for (const kind of available) {
    const cells = ['ready', 'replay'].map((what) => middle(restartMs[`${set} ${what} ${kind}`] ?? []));
    if (cells.some((cell) => cell !== '-')) table.row(NAMES[kind], cells);
  }
  table.print();
}

const restartRatio = (set: string, what: string): number =>
  median(restartMs[`${set} ${what} prom`] ?? []) / median(restartMs[`${set} ${what} varve`] ?? []);

/** Sums and sizes of those that have queries of their own; what Varve's reader is compared with. */
const sumMs: Partial<Record<Kind, number>> = {};

async function readAndSize(bodies: BodyFile): Promise<void> {
  const table = new Table('all of A summed by a query, and sealed', [
    'ms',
    'M samples/s',
    'bytes/sample',
    'index',
  ]);
  for (const kind of available.filter((kind) => kind === 'vm' || kind === 'prom')) {
    const sumAll = async (contender: Contender): Promise<void> => {
      const whileUp = async (server: Parameters<NonNullable<Contender['sealed']>>[0]): Promise<void> => {
        const sizes = await contender.sealed?.(server);
        const times: number[] = [];
        for (let i = 0; i <= rounds; i++) {
          const from = performance.now();
          await contender.sum?.(spanOf(bodies));
          if (i > 0) times.push(performance.now() - from);
        }
        sumMs[kind] = median(times);
        table.row(NAMES[kind], [
          middle(times),
          short(bodies.samples / median(times) / 1000),
          short((sizes?.dataBytes ?? Number.NaN) / bodies.samples),
          short((sizes?.indexBytes ?? Number.NaN) / bodies.samples),
        ]);
      };
      await ingest(contender, { bodies, connections: 2, kills: false, whileUp });
    };
    await attempt(`reading A, ${NAMES[kind]}:`, () => withContender(kind, sumAll));
  }
  table.print();
}

const BEHIND_ALL = ['vm', 'prom', 'varve', 'varveSync'] as const;

async function partA(): Promise<void> {
  await withBodies(scaled(DATA_SETS.A, scale), async (bodies) => {
    if (parts.has('ingest-A')) {
      const two = await ingestRounds(bodies, {
        connections: 2,
        rounds,
        kinds: BEHIND_ALL,
        kills: true,
        afterKill: restarts,
      });
      showIngest(`ingest A over two connections, ${rounds} rounds`, two);
      const ratio = (pick: (one: IngestFigures) => number, one: Kind, other: Kind): number =>
        figure(two, one, pick) / figure(two, other, pick);
      goal(
        'ingest A, two connections, to VictoriaMetrics',
        { atLeast: 3, unit: '×' },
        ratio(rate, 'varve', 'vm'),
      );
      goal(
        'ingest A, two connections, to Prometheus',
        { atLeast: 10, unit: '×' },
        ratio(rate, 'varve', 'prom'),
      );
      goal(
        'ingest A, fdatasync before, to VictoriaMetrics',
        { atLeast: 1.5, unit: '×' },
        ratio(rate, 'varveSync', 'vm'),
      );
      goal('CPU per sample, to VictoriaMetrics', { atMost: 0.25, unit: '×' }, ratio(cpu, 'varve', 'vm'));
      goal('p99 latency, to VictoriaMetrics', { atMost: 0.333, unit: '×' }, ratio(p99, 'varve', 'vm'));
      goal(
        'A lost by kill -9',
        { atMost: 0, unit: 'samples' },
        figure(two, 'varve', ({ lost }) => lost ?? Number.NaN),
      );
      goal(
        'A lost by kill -9, fdatasync before',
        { atMost: 0, unit: 'samples' },
        figure(two, 'varveSync', ({ lost }) => lost ?? Number.NaN),
      );
      goal('A memory', { atMost: 150, unit: 'MB' }, figure(two, 'varve', peak) / 1e6);
      showRestarts('A');
      goal(
        'A ready after kill -9, to Prometheus',
        { atLeast: 3, unit: '× faster' },
        restartRatio('A', 'ready'),
      );
      goal(
        'A replay of the log alone, to Prometheus',
        { atLeast: 3, unit: '× faster' },
        restartRatio('A', 'replay'),
      );
      const one = await ingestRounds(bodies, { connections: 1, rounds: 1, kinds: BEHIND_ALL, kills: false });
      showIngest('ingest A over one connection, one round', one);
    }
    if (parts.has('reads')) await readAndSize(bodies);
  });
}

async function partB(): Promise<void> {
  await withBodies(scaled(DATA_SETS.B, scale), async (bodies) => {
    const kinds = ['vm', 'prom', 'varve'] as const;
    const results = await ingestRounds(bodies, { connections: 1, rounds: 1, kinds, kills: false });
    showIngest('ingest B over one connection, one round', results);
  });
}

async function partC(): Promise<void> {
  await withBodies(scaled(DATA_SETS.C, scale), async (bodies) => {
    const kinds = ['vm', 'prom', 'varve'] as const;
    const plan = { connections: 2, rounds: 2, kinds, kills: true, afterKill: restarts };
    const results = await ingestRounds(bodies, plan);
    showIngest('ingest C (every series is new) over two connections, 2 rounds', results);
    const ratio = (pick: (one: IngestFigures) => number): number =>
      figure(results, 'varve', pick) / figure(results, 'vm', pick);
    goal('ingest C, to VictoriaMetrics', { atLeast: 4, unit: '×' }, ratio(rate));
    goal(
      'C lost by kill -9',
      { atMost: 0, unit: 'samples' },
      figure(results, 'varve', ({ lost }) => lost ?? Number.NaN),
    );
    goal('C memory, to VictoriaMetrics', { atMost: 1, unit: '×' }, ratio(peak));
    showRestarts('C');
    goal(
      'C ready after kill -9, to Prometheus',
      { atLeast: 10, unit: '× faster' },
      restartRatio('C', 'ready'),
    );
  });
}

/** The engine in this process, on data whose time goes by as fast as it is written. */
async function partEngine(): Promise<void> {
  let found: EngineFigures = NO_ENGINE_FIGURES;
  await attempt('the engine:', async () => {
    found = await engineFigures(folder, scaled(DATA_SETS.A, scale), rounds);
  });
  goal('sealed A, two hours a block', { atMost: 1.45, unit: 'bytes/sample' }, found.bytesPerSample);
  goal('index of sealed A', { atMost: 0.18, unit: 'bytes/sample' }, found.indexBytesPerSample);
  const ratio = (sumMs.vm ?? Number.NaN) / found.readMs;
  goal('all of A read and summed, to VictoriaMetrics', { atLeast: 3, unit: '× faster' }, ratio);
  goal(
    'start with 1,000 filesets, engine, to node -e 0',
    { atMost: 0.5, unit: '×' },
    found.startMs / found.bareNodeMs,
  );
}

const machine = machineCpu();
endOnSignal(folder);
try {
  console.log(
    `${cpus().length} × ${cpus()[0]?.model}, Node ${process.version}, requests of ${SAMPLES_PER_BODY} samples; ` +
      `VictoriaMetrics ${versionOf(VICTORIA_METRICS) ?? 'is missing'}, Prometheus ${versionOf(PROMETHEUS) ?? 'is missing'}`,
  );
  if (parts.has('ingest-A') || parts.has('reads')) await partA();
  if (parts.has('ingest-B')) await partB();
  if (parts.has('ingest-C')) await partC();
  if (parts.has('reads')) await partEngine();
  if (parts.has('decode')) {
    const times = decodeFigures(scaled(DATA_SETS.A, scale), rounds);
    goal('decode, to the XOR chunk kernel', { atLeast: 4, unit: '× faster' }, times.xorNs / times.columnNs);
    console.log(
      '  (where no times are shared, which files never do: ' +
        short(times.xorNs / times.ownNs) +
        ' × faster)',
    );
  }
  printGoals();
  const minutes = (performance.now() - startedAt) / 60_000;
  console.log(
    `\n${minutes.toFixed(1)} minutes; stolen from this machine: ${(machineCpu().stolen - machine.stolen).toFixed(1)} s; ` +
      `"foreign cores" are those that other processes kept busy`,
  );
} finally {
  await killAll();
  await rm(folder, { recursive: true, force: true });
}
