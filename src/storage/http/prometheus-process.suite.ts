import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'vitest';
import { freePorts } from '../../../test/free-ports.ts';

const READY_LIMIT_MS = 30_000;

/** Where Prometheus is; undefined when there is none, which is a failure where services are required. */
export function findPrometheus(): string | undefined {
  const found = process.env['VARVE_PROMETHEUS_BIN'] ?? onPath('prometheus');
  if (found === undefined && process.env['VARVE_REQUIRE_SERVICES'] === '1') {
    throw new Error(
      'Prometheus is required here: set VARVE_PROMETHEUS_BIN or put it on PATH (Debian: prometheus)',
    );
  }
  return found;
}

/** Says loudly what is not tested. */
export function skipWithoutPrometheus(what: string): void {
  process.stderr.write(`SKIPPED: ${what}: set VARVE_PROMETHEUS_BIN or put prometheus on PATH\n`);
  test.skip(`${what} (no Prometheus: set VARVE_PROMETHEUS_BIN)`, () => {});
}

function sorted(labels: Readonly<Record<string, string>>): [string, string][] {
  return Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1));
}

function onPath(name: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
  } catch {
    return undefined;
  }
}

export interface RangeSeries {
  readonly metric: Readonly<Record<string, string>>;
  readonly values: readonly (readonly [seconds: number, value: string])[];
}

/** A Prometheus of its own, on an empty folder. */
export class PrometheusProcess implements AsyncDisposable {
  readonly url: string;
  readonly #folder: string;
  readonly #child: ChildProcess;
  #output = '';

  private constructor(folder: string, url: string, child: ChildProcess) {
    this.#folder = folder;
    this.url = url;
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.#output += chunk.toString()));
    }
  }

  /** `config` is made when its own address is known. Resolves when it is ready. */
  static async start(command: string, config: (address: string) => string): Promise<PrometheusProcess> {
    const folder = await mkdtemp(join(tmpdir(), 'varve-test-prometheus-'));
    const [port = 0] = await freePorts(1);
    const address = `127.0.0.1:${port}`;
    await writeFile(join(folder, 'prometheus.yml'), config(address));
    const flags = [
      `--config.file=${join(folder, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=${address}`,
      '--log.level=info',
    ];
    const child = spawn(command, flags, { stdio: ['ignore', 'pipe', 'pipe'] });
    const prometheus = new PrometheusProcess(folder, `http://${address}`, child);
    const limit = Date.now() + READY_LIMIT_MS;
    while (!(await fetch(`${prometheus.url}/-/ready`).catch(() => undefined))?.ok) {
      if (child.exitCode !== null || Date.now() > limit) {
        const output = prometheus.#output;
        await prometheus[Symbol.asyncDispose]();
        throw new Error(`Prometheus does not become ready:\n${output}`);
      }
      await sleep(20);
    }
    return prometheus;
  }

  get output(): string {
    return this.#output;
  }

  /** The samples of an instant query with a range, in the order of the series' labels. */
  async samples(selector: string, atMs: number): Promise<readonly RangeSeries[]> {
    const params = new URLSearchParams({ query: selector, time: String(atMs / 1000) });
    const response = await fetch(`${this.url}/api/v1/query`, { method: 'POST', body: params });
    const answer = (await response.json()) as {
      status: string;
      error?: string;
      data: { result: RangeSeries[] };
    };
    if (answer.status !== 'success') throw new Error(`${selector}: ${answer.error}`);
    const key = ({ metric }: RangeSeries): string => JSON.stringify(sorted(metric));
    return answer.data.result.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await once(this.#child, 'exit');
    }
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}
