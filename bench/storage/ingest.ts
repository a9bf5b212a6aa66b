import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { BodyFile } from './bodies.ts';
import type { Contender, Span } from './contenders.ts';
import type { LoadOptions, LoadResult } from './load.ts';
import { folderBytes, machineCpu, type Server } from './server.ts';

export interface IngestFigures {
  readonly samplesPerSecond: number;
  /** Of the server, until the last acknowledgement. */
  readonly cpuPerMillion: number;
  /** And with what it put off until then. */
  readonly settledCpuPerMillion: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly peakBytes: number;
  readonly diskBytes: number;
  readonly refused: number;
  /** Cores that others were busy with meanwhile. */
  readonly foreignCores: number;
  /** Present when the server was killed: acknowledged samples that were gone after the restart. */
  readonly lost?: number;
  readonly restartMs?: number;
}

export interface IngestOptions {
  readonly bodies: BodyFile;
  readonly connections: number;
  /** With -9, right behind the last acknowledgement; then it is started again and what it has is counted. */
  readonly kills: boolean;
  /** With the server running: what else is to be measured. */
  readonly whileUp?: (server: Server) => Promise<void>;
}

/** A contender from an empty folder to a data set in it. Afterwards the server has ended. */
export async function ingest(contender: Contender, options: IngestOptions): Promise<IngestFigures> {
  const { bodies, connections, kills } = options;
  const first = await contender.start();
  let { server } = first;
  try {
    const cpuBefore = server.cpuSeconds();
    const { result, foreignCores } = await load(
      { file: bodies.path, port: contender.port, path: contender.writePath, connections },
      () => server.cpuSeconds(),
    );
    const cpu = server.cpuSeconds() - cpuBefore;
    const acknowledged = (result.acknowledged / bodies.bodies) * bodies.samples;
    let after: { lost?: number; restartMs?: number } = {};
    let settledCpu = Number.NaN;
    let peakBytes = server.memory().peakBytes;
    if (kills) {
      await server.kill();
      const again = await contender.start();
      ({ server } = again);
      after = { restartMs: again.readyMs, lost: acknowledged - (await contender.count(spanOf(bodies))) };
    } else {
      await server.settle();
      settledCpu = server.cpuSeconds() - cpuBefore;
      ({ peakBytes } = server.memory());
    }
    const diskBytes = await folderBytes(contender.folder);
    await options.whileUp?.(server);
    return {
      samplesPerSecond: (acknowledged / result.elapsedMs) * 1000,
      cpuPerMillion: (cpu / acknowledged) * 1e6,
      settledCpuPerMillion: (settledCpu / acknowledged) * 1e6,
      p50Ms: result.p50Ms,
      p99Ms: result.p99Ms,
      peakBytes,
      diskBytes,
      refused: result.refused,
      foreignCores,
      ...after,
    };
  } finally {
    await server.kill();
  }
}

export function spanOf({ startMs, set }: BodyFile): Span {
  return { startMs, endMs: startMs + (set.samplesPerSeries + 1) * 15_000 };
}

/** What others did on this machine meanwhile is counted: its busy time less the server's, the client's and ours. */
async function load(
  options: LoadOptions,
  serverCpu: () => number,
): Promise<{ result: LoadResult; foreignCores: number }> {
  const script = fileURLToPath(new URL('load.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, JSON.stringify(options)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  // When it ends early, that is told below.
  child.stdin.on('error', () => {});
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  await lines.next();
  const [machine, server, own] = [machineCpu(), serverCpu(), process.cpuUsage()];
  const startedAt = performance.now();
  child.stdin.write('\n');
  const { value } = await lines.next();
  const seconds = (performance.now() - startedAt) / 1000;
  const ownUsage = process.cpuUsage(own);
  const busy = machineCpu().busy - machine.busy;
  const serverSeconds = serverCpu() - server;
  if (value === undefined) {
    await once(child, 'exit');
    throw new Error('the client ended early, see above');
  }
  const result = JSON.parse(value as string) as LoadResult;
  const ours = serverSeconds + result.cpuSeconds + (ownUsage.user + ownUsage.system) / 1e6;
  return { result, foreignCores: Math.max(0, busy - ours) / seconds };
}
