import { messageOf } from '../../src/core/errors.ts';
import { SqlState, sqlStateOf } from '../../src/postgres/sqlstate.ts';
import { middle, goal, Table } from '../storage/figures.ts';
import { median } from '../measure.ts';
import { processorMsOf } from './processor-time.ts';
import { pause, primaryOf, until, untilWhole, type Contender, type ContenderNode } from './contender.ts';
import { lostRows, makeLoadTable, WriteLoad } from '../../test/write-load.ts';

export type Figure = 'bootstrap' | 'switch-over' | 'fail-over';

export interface RivalOptions {
  readonly rounds: number;
  readonly figures: ReadonlySet<Figure>;
  readonly leaseTtlS: number;
}

type Prepare = (scope: string) => Promise<Contender>;

interface Life {
  readonly figures: Map<Figure, number>;
  /** Not a number when it did not get so far. */
  lostRows: number;
  /** Of all processes until the bootstrap is over: what else is done on the machine hardly changes it. */
  processorMs: number;
}

const WHOLE_TIMEOUT_MS = 120_000;
const TAKEOVER_TIMEOUT_MS = 120_000;
const WRITABLE_TIMEOUT_MS = 30_000;
const AFTER_SWITCHOVER_MS = 6000;
const SETTLED_TIMEOUT_MS = 60_000;
const SETTLED_MS = 3000;
const SWITCHOVER_TIMEOUT_MS = 60_000;

/**
 * From three empty folders to data on all three; for how long no server takes a write at a switch-over and at a
 * fail-over; which acknowledged rows are gone then. In turns, after a bootstrap each that does not count.
 */
export async function compareWithPatroni(
  rivals: Readonly<Record<'Varve' | 'Patroni', Prepare>>,
  options: RivalOptions,
): Promise<void> {
  const names = ['Varve', 'Patroni'] as const;
  const lives: Record<'Varve' | 'Patroni', Life[]> = { Varve: [], Patroni: [] };
  for (let round = 0; round <= options.rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const figures = round === 0 ? new Set<Figure>(['bootstrap']) : options.figures;
      const life: Life = { figures: new Map(), lostRows: Number.NaN, processorMs: Number.NaN };
      // What came before it counts, and so do the other rounds.
      await live(await rivals[name](`bench${round}`), figures, life).catch((error: unknown) => {
        console.log(`  ${name.padEnd(8)} FAILED: ${messageOf(error)}`);
      });
      for (const [figure, ms] of life.figures) {
        const counts = round === 0 ? ' (not counted)' : '';
        console.log(`  ${name.padEnd(8)} ${figure.padEnd(12)} ${Math.round(ms)} ms${counts}`);
      }
      if (round > 0) lives[name].push(life);
    }
  }
  tell(lives, options);
}

async function live(prepared: Contender, wanted: ReadonlySet<Figure>, life: Life): Promise<void> {
  await using group = prepared;
  const { figures } = life;
  const began = performance.now();
  for (const node of group.nodes) group.start(node);
  await untilWhole(group, WHOLE_TIMEOUT_MS);
  figures.set('bootstrap', performance.now() - began);
  const processes = await Promise.all(group.nodes.map((node) => group.processes(node)));
  life.processorMs = processorMsOf(processes.flat());
  if (!wanted.has('switch-over') && !wanted.has('fail-over')) return;

  await makeTableAtPrimary(group);
  await using load = new WriteLoad(group.nodes.map((node) => group.endpoint(node)));
  load.start();
  await pause(2000);
  if (wanted.has('switch-over')) {
    const switchedMs = await switchOver(group);
    await pause(AFTER_SWITCHOVER_MS);
    figures.set('switch-over', load.longestGapMs(switchedMs));
  }
  if (wanted.has('fail-over')) figures.set('fail-over', await failOver(group, load));
  await load.stop();
  life.lostRows = await lostRows(group.endpoint(await primaryOf(group)), load.acknowledgedIds);
}

/** Whoever is to be write master may refuse for a moment still: data on all three does not mean that it is writable. */
async function makeTableAtPrimary(group: Contender): Promise<void> {
  const make = async (): Promise<boolean> => {
    try {
      await makeLoadTable(group.endpoint(await primaryOf(group)));
      return true;
    } catch (error) {
      if (sqlStateOf(error) === SqlState.readOnlySqlTransaction) return false;
      throw error;
    }
  };
  await until(make, WRITABLE_TIMEOUT_MS);
}

/** Refused until there is a member that is fit, which Patroni takes a moment to know. @returns when it was taken */
async function switchOver(group: Contender): Promise<number> {
  let askedMs = 0;
  let refusal: unknown;
  const ask = async (): Promise<boolean> => {
    askedMs = performance.now();
    try {
      await group.switchover();
      return true;
    } catch (error) {
      refusal = error;
      return false;
    }
  };
  await until(ask, SWITCHOVER_TIMEOUT_MS, 500).catch(() => {
    throw refusal;
  });
  return askedMs;
}

async function failOver<N extends ContenderNode>(group: Contender<N>, load: WriteLoad): Promise<number> {
  // Right after a switch-over Patroni has no standby that it would promote, and none ever takes over.
  await until(() => group.isSettled(), SETTLED_TIMEOUT_MS);
  await pause(SETTLED_MS);
  const victim = await primaryOf(group);
  const killed = performance.now();
  await group.kill(victim);
  await load.firstAfter(killed + 500, TAKEOVER_TIMEOUT_MS).catch(async (error: unknown) => {
    throw new Error(`nobody took over from ${victim.name}\n${await group.complaints()}`, { cause: error });
  });
  await pause(1000);
  return load.longestGapMs(killed);
}

function tell(
  lives: Readonly<Record<'Varve' | 'Patroni', readonly Life[]>>,
  { rounds, figures, leaseTtlS }: RivalOptions,
): void {
  const at = (name: 'Varve' | 'Patroni', figure: Figure): number[] =>
    lives[name].flatMap((life) => life.figures.get(figure) ?? []);
  const table = new Table(`medians of ${rounds} rounds, lease ${leaseTtlS} s, etcd (ms)`, [
    'Varve',
    'Patroni',
    'ratio',
  ]);
  for (const figure of figures) {
    const [ours, theirs] = [at('Varve', figure), at('Patroni', figure)];
    const ratio = median(ours) / median(theirs);
    table.row(figure, [middle(ours), middle(theirs), `${ratio.toFixed(2)}×`]);
    goal(`${figure}, to Patroni`, { atMost: figure === 'bootstrap' ? 0.6 : 1, unit: '×' }, ratio);
  }
  if (figures.has('bootstrap')) {
    const used = (name: 'Varve' | 'Patroni'): number[] => lives[name].map(({ processorMs }) => processorMs);
    const [ours, theirs] = [used('Varve'), used('Patroni')];
    const ratio = median(ours) / median(theirs);
    table.row('bootstrap, processor time', [middle(ours), middle(theirs), `${ratio.toFixed(2)}×`]);
  }
  table.print();
  if (!figures.has('switch-over') && !figures.has('fail-over')) return;
  for (const name of ['Varve', 'Patroni'] as const) {
    const counted = lives[name].filter((life) => !Number.isNaN(life.lostRows));
    const sum = counted.length === 0 ? Number.NaN : counted.reduce((total, life) => total + life.lostRows, 0);
    goal(`acknowledged rows lost by ${name}`, { atMost: 0, unit: 'rows' }, sum);
  }
}
