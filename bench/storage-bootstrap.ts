/**
 * How fast a storage node gets what it owns:
 *   npm run bench -- storage-bootstrap [--scale 1] [--rounds 3] [--only copy,small,differ,start,add,memory]
 *     [--json FILE] [--folder DIR]
 * - copy: a GiB of filesets in 64 shards from two peers, against `cp` and `sync` of the same files, and against
 *   VictoriaMetrics' native export piped into import, on a part
 * - small: the same with filesets of about 100 KB
 * - differ: one series in 1,000 differs between the peers, against equal peers
 * - start: from start to serving, against how many blocks there are
 * - add: a fourth node to three with 256 shards each, under load
 * - memory: of the joining node, against the size of its shards
 * Each node is a process of its own. Under ten minutes in full on two cores that nobody else uses, and 8 GiB of disk;
 * `--scale 0.1` for trying out.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { median } from './measure.ts';
import { addFigures } from './storage-bootstrap/add.ts';
import { copyFigures, type CopyFigures } from './storage-bootstrap/copy.ts';
import type { History } from './storage-bootstrap/history.ts';
import { nativeCopyRate } from './storage-bootstrap/native.ts';
import { startFigures } from './storage-bootstrap/start.ts';
import { VICTORIA_METRICS } from './storage/contenders.ts';
import { goal, mebi, mega, middle, printGoals, short, Table } from './storage/figures.ts';
import { endOnSignal, killAll, machineCpu } from './storage/server.ts';

const PARTS = ['copy', 'small', 'differ', 'start', 'add', 'memory'] as const;
type Part = (typeof PARTS)[number];

const { values } = parseArgs({
  options: {
    scale: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: PARTS.join() },
    json: { type: 'string' },
    folder: { type: 'string', default: tmpdir() },
  },
});
const scale = Number(values.scale);
const rounds = Number(values.rounds);
const wanted = new Set(values.only.split(','));
const folder = await mkdtemp(join(values.folder, 'varve-bench-'));
const results: Partial<Record<Part, unknown>> = {};

function historyOf(series: number, blocks: number, shardCount = 64): History {
  return { series: Math.max(shardCount, Math.round((series * scale) / 100) * 100), blocks, shardCount };
}

function showCopy(name: string, figures: CopyFigures): void {
  const { bytes, samples, filesets, peersMs, copyMs, firstShardMs, cpuMs, peakBytes } = figures;
  const table = new Table(`${name}: ${mebi(bytes)} in ${filesets} filesets, ${mega(samples)} samples`, [
    'ms',
    'MiB/s',
    'M samples/s',
    'first shard',
    'CPU ms',
    'peak memory',
  ]);
  const rates = (ms: readonly number[]): string[] => [
    middle(ms),
    short(bytes / 1048576 / (median(ms) / 1000)),
    short(samples / median(ms) / 1000),
  ];
  table.row('from peers, whole and durable', [
    ...rates(peersMs),
    middle(firstShardMs),
    middle(cpuMs),
    mebi(peakBytes),
  ]);
  table.row('cp and sync', [...rates(copyMs), '', '', '']);
  table.print();
  console.log(`  ${figures.detail}`);
}

const LARGE = historyOf(60_000, 24);

const parts: Readonly<Record<Part, () => Promise<unknown>>> = {
  copy: async () => {
    const figures = await copyFigures(folder, LARGE, { rounds });
    showCopy('copy', figures);
    const ratio = median(figures.copyMs) / median(figures.peersMs);
    goal('peers, to cp and sync', { atLeast: 0.7, unit: '×' }, ratio);
    const rate = (figures.samples / median(figures.peersMs)) * 1000;
    const nativeRate = existsSync(VICTORIA_METRICS)
      ? await nativeCopyRate(folder, Math.min(1, 0.5 * scale))
      : Number.NaN;
    console.log(`  VictoriaMetrics, native export into import: ${mega(nativeRate)} samples/s`);
    goal('peers, to VictoriaMetrics’ native copy', { atLeast: 40, unit: '×' }, rate / nativeRate);
    return { ...figures, ratioToCopy: ratio, nativeSamplesPerSecond: nativeRate };
  },
  small: async () => {
    const figures = await copyFigures(folder, historyOf(8000, 24), { rounds });
    showCopy('small filesets', figures);
    const ratio = median(figures.copyMs) / median(figures.peersMs);
    goal('small filesets from peers, to cp and sync', { atLeast: 0.7, unit: '×' }, ratio);
    return { ...figures, ratioToCopy: ratio };
  },
  differ: async () => {
    const history = historyOf(30_000, 12);
    const equal = await copyFigures(folder, history, { rounds });
    showCopy('equal peers', equal);
    const different = await copyFigures(folder, history, { rounds, differs: 1000 });
    showCopy('one series in 1,000 differs', different);
    const ratio = median(different.peersMs) / median(equal.peersMs);
    goal('one series in 1,000 differs, to equal peers', { atMost: 1.5, unit: '×' }, ratio);
    return { equal, different, ratio };
  },
  start: async () => {
    const table = new Table('start to serving', ['filesets', 'ms', 'without summary', 'reading all infos']);
    const found = [];
    for (const times of [1, 10, 100]) {
      const figures = await startFigures(folder, Math.max(1, Math.round(12 * scale)) * times, rounds);
      found.push(figures);
      table.row(`${times}× blocks`, [
        String(figures.filesets),
        short(figures.summaryMs),
        short(figures.infosMs),
        short(figures.readMs),
      ]);
    }
    table.print();
    const [first, last] = [found[0], found.at(-1)];
    if (!first || !last) throw new Error('nothing was measured');
    const allowed = (ms: number): number => 1.1 * ms + last.readMs;
    goal(
      'start with 100× blocks, to flat and a read a fileset',
      { atMost: 1, unit: '×' },
      last.summaryMs / allowed(first.summaryMs),
    );
    goal(
      'the same after kill -9, without summary',
      { atMost: 1, unit: '×' },
      last.infosMs / allowed(first.infosMs),
    );
    return found;
  },
  add: async () => {
    const figures = await addFigures(folder, historyOf(40_000, 8, 256));
    const { moved, fairShare, sentBytes, ownedBytes, idle, during, tookMs, firstShardMs } = figures;
    console.log(
      `\na fourth node to 3 × 256 shards: ${moved} shards moved (fair share ${fairShare}), ` +
        `${mebi(sentBytes)} sent for ${mebi(ownedBytes)} owned, ${short(tookMs)} ms, the first after ${short(firstShardMs)} ms`,
    );
    const table = new Table('clients meanwhile', ['requests', 'p50 ms', 'p99 ms']);
    for (const [name, { count, p50Ms, p99Ms }] of Object.entries({ idle, during })) {
      table.row(name, [String(count), short(p50Ms), short(p99Ms)]);
    }
    table.print();
    goal('shards moved, to the fair share', { atMost: 1, unit: '×' }, moved / fairShare);
    goal('bytes sent, to what is owned', { atMost: 1.05, unit: '×' }, sentBytes / ownedBytes);
    goal('p99 of clients, to idle', { atMost: 2, unit: '×' }, during.p99Ms / idle.p99Ms);
    return figures;
  },
  memory: async () => {
    // As many filesets, eight times as large.
    const small = await copyFigures(folder, historyOf(4000, 8, 8), { rounds: 1 });
    const large = await copyFigures(folder, historyOf(32_000, 8, 8), { rounds: 1 });
    const table = new Table('peak memory of the joining node', ['bytes a shard', 'peak']);
    for (const { bytes, peakBytes } of [small, large]) {
      table.row('8 shards', [mebi(bytes / 8), mebi(peakBytes)]);
    }
    table.print();
    goal('memory with shards 8× as large', { atMost: 1.25, unit: '×' }, large.peakBytes / small.peakBytes);
    return { small, large };
  },
};

const machine = machineCpu();
const startedMs = performance.now();
endOnSignal(folder);
try {
  console.log(
    `${cpus().length} × ${cpus()[0]?.model}, Node ${process.version}, scale ${scale}, ${rounds} rounds`,
  );
  for (const part of PARTS.filter((one) => wanted.has(one))) {
    try {
      results[part] = await parts[part]();
    } catch (error) {
      console.log(
        `\n${part} FAILED: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      );
      process.exitCode = 1;
    }
  }
  printGoals();
  if (values.json) await writeFile(values.json, `${JSON.stringify(results, undefined, 2)}\n`);
  const minutes = (performance.now() - startedMs) / 60_000;
  const { busy, stolen } = machineCpu();
  console.log(
    `\n${minutes.toFixed(1)} minutes; ${((busy - machine.busy) / (minutes * 60)).toFixed(1)} cores were busy; ` +
      `stolen from this machine: ${(stolen - machine.stolen).toFixed(1)} s`,
  );
} finally {
  await killAll();
  await rm(folder, { recursive: true, force: true });
}
