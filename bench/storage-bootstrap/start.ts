import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { median } from '../measure.ts';
import { NAMESPACE, nowMsOf, writeHistory } from './history.ts';
import { PeerProcess } from './peer-process.ts';

export interface StartFigures {
  readonly blocks: number;
  readonly filesets: number;
  /** From the engine's opening until it serves: after a clean stop, and without the summary that one leaves. */
  readonly summaryMs: number;
  readonly infosMs: number;
  /** To read all info files, in the same process. */
  readonly readMs: number;
}

const SHARDS = 8;
const SERIES = 400;

/** How soon a node serves, against how many blocks it has, under `recentlyRead`. */
export async function startFigures(base: string, blocks: number, rounds: number): Promise<StartFigures> {
  const folder = join(base, `start-${blocks}`);
  try {
    await writeHistory(folder, { series: SERIES, blocks, shardCount: SHARDS });
    const figures = { summary: [] as number[], infos: [] as number[], read: [] as number[] };
    let filesets = 0;
    for (let round = 0; round < 2 * rounds; round++) {
      const hasSummary = round % 2 === 0;
      if (!hasSummary) await rm(join(folder, 'data', NAMESPACE, 'summary.db'), { force: true });
      const options = { name: 'n1', folder, shardCount: SHARDS, nowMs: nowMsOf({ blocks }), blocks };
      await using node = await PeerProcess.start({ ...options, readsInfos: true });
      const found = await node.figures();
      ({ filesets } = found);
      figures[hasSummary ? 'summary' : 'infos'].push(found.readyMs);
      figures.read.push(found.infosMs);
    }
    return {
      blocks,
      filesets,
      summaryMs: median(figures.summary),
      infosMs: median(figures.infos),
      readMs: median(figures.read),
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
