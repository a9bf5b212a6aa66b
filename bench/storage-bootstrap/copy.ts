import { execFile } from 'node:child_process';
import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { folderBytes } from '../storage/server.ts';
import { nowMsOf, samplesOf, writeHistory, type History } from './history.ts';
import { PeerProcess, type PeerFigures } from './peer-process.ts';
import { everywhere } from './placements.ts';

const run = promisify(execFile);

export interface CopyFigures {
  readonly bytes: number;
  readonly samples: number;
  readonly filesets: number;
  /** From the placement's change until all shards were whole and durable; one a round. */
  readonly peersMs: readonly number[];
  readonly firstShardMs: readonly number[];
  /** Of the joining node's process. */
  readonly cpuMs: readonly number[];
  /** `cp` of the same files, and `sync`. */
  readonly copyMs: readonly number[];
  readonly peakBytes: number;
  readonly detail: string;
}

/**
 * A node gets everything from two that have it, in processes of their own, over HTTP. In turn with it, the same files
 * are copied by `cp` and `sync`.
 * @param differs as in `History`, of the second one
 */
export async function copyFigures(
  base: string,
  history: History,
  { rounds, differs = 0 }: { readonly rounds: number; readonly differs?: number },
): Promise<CopyFigures> {
  const folder = join(base, 'copy');
  await mkdir(folder, { recursive: true });
  try {
    await writeHistory(join(folder, 'n1'), history);
    if (differs === 0) await cp(join(folder, 'n1'), join(folder, 'n2'), { recursive: true });
    else await writeHistory(join(folder, 'n2'), { ...history, differs });
    const bytes = await folderBytes(join(folder, 'n1', 'data'));
    const common = { shardCount: history.shardCount, nowMs: nowMsOf(history), blocks: history.blocks };
    await using one = await PeerProcess.start({ ...common, name: 'n1', folder: join(folder, 'n1') });
    await using two = await PeerProcess.start({ ...common, name: 'n2', folder: join(folder, 'n2') });
    const { shardCount } = history;
    const givers = [
      [one, 'available'],
      [two, 'available'],
    ] as const;
    for (const [node] of givers) await node.place(everywhere(givers, { version: 1, shardCount }));
    const filled: PeerFigures[] = [];
    const copyMs: number[] = [];
    for (let round = 0; round <= rounds; round++) {
      const copy = async (): Promise<number> => await copied(join(folder, 'n1', 'data'), join(folder, 'cp'));
      const fill = async (): Promise<PeerFigures> => {
        const own = join(folder, 'n3');
        await mkdir(own);
        try {
          await using three = await PeerProcess.start({ ...common, name: 'n3', folder: own });
          const placement = everywhere([...givers, [three, 'initializing']], {
            version: round + 2,
            shardCount,
          });
          for (const [node] of givers) await node.place(placement);
          await run('sync');
          return await three.fill(placement, shardCount);
        } finally {
          await rm(own, { recursive: true });
        }
      };
      const first = round % 2 === 0 ? await fill() : undefined;
      const ms = await copy();
      const figures = first ?? (await fill());
      // The first round warms up.
      if (round === 0 && rounds > 1) continue;
      copyMs.push(ms);
      filled.push(figures);
      if (rounds === 1) break;
    }
    const last = filled.at(-1);
    return {
      bytes,
      samples: samplesOf(history),
      filesets: last?.filesets ?? 0,
      peersMs: filled.map(({ ms }) => ms),
      firstShardMs: filled.map(({ firstMs }) => firstMs),
      cpuMs: filled.map(({ cpuMs }) => cpuMs),
      copyMs,
      peakBytes: Math.max(...filled.map(({ peakBytes }) => peakBytes)),
      detail: last?.detail ?? '',
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function copied(from: string, to: string): Promise<number> {
  await run('sync');
  const fromMs = performance.now();
  await run('cp', ['-r', from, to]);
  await run('sync', ['-f', to]);
  const ms = performance.now() - fromMs;
  await rm(to, { recursive: true });
  return ms;
}
