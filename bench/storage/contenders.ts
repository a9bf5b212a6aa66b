import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePorts } from '../../test/free-ports.ts';
import { folderBytes, Server } from './server.ts';

/** What a server is asked for the whole of a data set. */
export interface Span {
  readonly startMs: number;
  readonly endMs: number;
}

/** A kind of server, and how it is driven. One object is one data folder; it may be started more than once. */
export interface Contender {
  readonly name: string;
  readonly folder: string;
  readonly port: number;
  readonly writePath: string;
  /** From the start of the process until it says that it is ready. */
  start(): Promise<{ server: Server; readyMs: number }>;
  /** How many samples can be read. */
  count(span: Span): Promise<number>;
  /** The sum of all samples; by the server's own query where it has any. */
  sum?(span: Span): Promise<number>;
  /** Bytes of sealed data and of its index, after everything was put into its final form. */
  sealed?(server: Server): Promise<{ dataBytes: number; indexBytes: number }>;
  /** What a restart could be quicker with is taken away: only the log is left. */
  leaveLogOnly?(): Promise<void>;
}

export const VICTORIA_METRICS = '/usr/bin/victoria-metrics';
export const PROMETHEUS = '/usr/bin/prometheus';
const NAMESPACE = 'bench';

export function versionOf(binary: string): string | undefined {
  if (!existsSync(binary)) return undefined;
  const name = binary.slice(binary.lastIndexOf('/') + 1);
  try {
    return execFileSync('dpkg-query', ['-W', '-f', '${Version}', name]).toString();
  } catch {
    return 'unknown version';
  }
}

async function query(port: number, expression: string, span: Span): Promise<number> {
  const seconds = Math.ceil((span.endMs - span.startMs) / 1000) + 2;
  const parameters = new URLSearchParams({
    query: expression.replace('RANGE', `${seconds}s`),
    time: String(Math.ceil(span.endMs / 1000) + 1),
    nocache: '1',
    timeout: '120s',
  });
  const response = await fetch(`http://127.0.0.1:${port}/api/v1/query`, { method: 'POST', body: parameters });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${expression}: ${response.status} ${text.slice(0, 300)}`);
  const { data } = JSON.parse(text) as { data: { result: { value: [number, string] }[] } };
  return Number(data.result[0]?.value[1] ?? 0);
}

const ALL = '{__name__!=""}[RANGE]';

export async function victoriaMetrics(folder: string): Promise<Contender> {
  const [port = 0] = await freePorts(1);
  const post = async (path: string): Promise<void> => void (await fetch(`http://127.0.0.1:${port}${path}`));
  const flush = (): Promise<void> => post('/internal/force_flush');
  return {
    name: 'VictoriaMetrics',
    folder,
    port,
    writePath: '/api/v1/write',
    start: () =>
      Server.start(
        [
          VICTORIA_METRICS,
          `-storageDataPath=${join(folder, 'data')}`,
          `-httpListenAddr=127.0.0.1:${port}`,
          '-retentionPeriod=1y',
          '-search.maxUniqueTimeseries=1000000',
          '-search.maxQueryDuration=2m',
          '-search.latencyOffset=0s',
          '-loggerLevel=WARN',
        ],
        { port, readyPath: '/health', logFile: join(folder, 'out.log') },
      ),
    count: async (span) => {
      await flush();
      return await query(port, `sum(count_over_time(${ALL}))`, span);
    },
    sum: (span) => query(port, `sum(sum_over_time(${ALL}))`, span),
    sealed: async (server) => {
      await flush();
      await post('/internal/force_merge');
      await server.settle(20_000);
      const data = join(folder, 'data');
      return {
        dataBytes: await folderBytes(join(data, 'data')),
        indexBytes: await folderBytes(join(data, 'indexdb')),
      };
    },
  };
}

export async function prometheus(folder: string): Promise<Contender> {
  const [port = 0] = await freePorts(1);
  const data = join(folder, 'data');
  const config = join(folder, 'prometheus.yml');
  return {
    name: 'Prometheus',
    folder,
    port,
    writePath: '/api/v1/write',
    start: async () => {
      await writeFile(config, 'global: {scrape_interval: 1h}\n');
      return await Server.start(
        [
          PROMETHEUS,
          `--config.file=${config}`,
          `--storage.tsdb.path=${data}`,
          '--storage.tsdb.retention.time=1y',
          `--web.listen-address=127.0.0.1:${port}`,
          '--web.enable-remote-write-receiver',
          '--web.enable-admin-api',
          '--query.max-samples=200000000',
          '--log.level=warn',
        ],
        { port, readyPath: '/-/ready', logFile: join(folder, 'out.log') },
      );
    },
    count: (span) => query(port, `sum(count_over_time(${ALL}))`, span),
    sum: (span) => query(port, `sum(sum_over_time(${ALL}))`, span),
    sealed: async () => {
      const response = await fetch(`http://127.0.0.1:${port}/api/v1/admin/tsdb/snapshot`, { method: 'POST' });
      const { data: made } = (await response.json()) as { data: { name: string } };
      const blocks = join(data, 'snapshots', made.name);
      let [dataBytes, indexBytes] = [0, 0];
      for (const block of await readdir(blocks)) {
        dataBytes += await folderBytes(join(blocks, block, 'chunks'));
        indexBytes +=
          (await folderBytes(join(blocks, block))) - (await folderBytes(join(blocks, block, 'chunks')));
      }
      return { dataBytes, indexBytes };
    },
    leaveLogOnly: async () => await rm(join(data, 'chunks_head'), { recursive: true, force: true }),
  };
}

/**
 * The data sets end now, and A begins three hours ago, B thirty: a namespace whose buffer reaches back so far takes
 * them all as what is written in time.
 */
export async function varve(
  folder: string,
  options: { logMode: 'sync' | 'behind'; pastHours: number },
): Promise<Contender> {
  const [port = 0] = await freePorts(1);
  const main = fileURLToPath(new URL('../../dist/bundle/entry.js', import.meta.url));
  const data = join(folder, 'data');
  const api = `http://127.0.0.1:${port}`;
  let isNew = true;
  return {
    name: options.logMode === 'sync' ? 'Varve, fdatasync first' : 'Varve',
    folder,
    port,
    writePath: `/ns/${NAMESPACE}/api/v1/write`,
    start: async () => {
      await mkdir(data, { recursive: true });
      const started = await Server.start(
        [
          process.execPath,
          main,
          'storage',
          'serve',
          '--dir',
          data,
          '--port',
          String(port),
          '--log-mode',
          options.logMode,
        ],
        { port, readyPath: '/-/ready', logFile: join(folder, 'out.log') },
      );
      if (isNew) await createNamespace(api, options.pastHours);
      isNew = false;
      return started;
    },
    count: async ({ startMs, endMs }) => await countByExport(api, startMs, endMs),
    leaveLogOnly: async () => {
      for (const name of ['snapshots', 'images', 'image']) {
        await rm(join(data, name), { recursive: true, force: true });
      }
    },
  };
}

async function createNamespace(api: string, pastHours: number): Promise<void> {
  const response = await fetch(`${api}/api/v1/namespaces/${NAMESPACE}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      retention: `${pastHours * 4}h`,
      blockSize: `${pastHours}h`,
      bufferPast: `${pastHours * 60 - 1}m`,
    }),
  });
  if (!response.ok) throw new Error(`namespace: ${response.status} ${await response.text()}`);
}

async function countByExport(api: string, startMs: number, endMs: number): Promise<number> {
  const parameters = new URLSearchParams({
    'match[]': '{__name__!=""}',
    start: String(Math.floor(startMs / 1000) - 1),
    end: String(Math.ceil(endMs / 1000) + 1),
  });
  const response = await fetch(`${api}/ns/${NAMESPACE}/api/v1/export?${parameters.toString()}`);
  if (!response.ok || response.body === null)
    throw new Error(`export: ${response.status} ${await response.text()}`);
  let count = 0;
  for await (const line of linesOf(response.body)) {
    const from = line.indexOf('"values":[') + 10;
    const to = line.indexOf(']', from);
    if (to <= from) continue;
    count++;
    for (let at = line.indexOf(',', from); at >= 0 && at < to; at = line.indexOf(',', at + 1)) count++;
  }
  return count;
}

async function* linesOf(body: AsyncIterable<Uint8Array>): AsyncIterable<string> {
  let rest = '';
  for await (const piece of body) {
    const lines = (rest + Buffer.from(piece).toString('latin1')).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  if (rest !== '') yield rest;
}
