import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { freePorts } from '../../test/free-ports.ts';
import { start, varve, type CommandResult } from '../../test/system-process.ts';

let base: string;
let port: number;
let url: string;
let running: ServeProcess | undefined;

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'varve-test-serve-'));
  [port = 0] = await freePorts(1);
  url = `http://127.0.0.1:${port}`;
});

afterEach(async () => {
  await running?.end('SIGTERM');
  running = undefined;
});

afterAll(() => rm(base, { recursive: true }));

/** `varve storage serve` as a process. */
class ServeProcess {
  readonly #child: ChildProcess;
  output = '';

  constructor(child: ChildProcess) {
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    }
  }

  async ready(): Promise<this> {
    for (;;) {
      const answer = await fetch(`${url}/-/ready`).catch(() => undefined);
      if (answer?.ok) return this;
      if (this.#child.exitCode !== null) throw new Error(this.output);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async end(signal: NodeJS.Signals): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill(signal);
      await once(this.#child, 'exit');
    }
    return this.#child.exitCode;
  }
}

async function serve(name: string, more: readonly string[] = []): Promise<ServeProcess> {
  const args = ['storage', 'serve', '--dir', join(base, name), '--port', String(port), ...more];
  running = new ServeProcess(start(args));
  return running.ready();
}

async function send(from: number, count: number, namespace = 'default'): Promise<void> {
  const nowMs = Date.now();
  const lines = Array.from({ length: count }, (_, i) => `m,n=${from + i} v=${from + i} ${nowMs}`).join('\n');
  const response = await fetch(`${url}/write?db=${namespace}&precision=ms`, { method: 'POST', body: lines });
  expect([response.status, await response.text()]).toEqual([204, '']);
}

const client = (...args: string[]): Promise<CommandResult> => varve([...args, '--url', url]);

const exported = async (...args: string[]): Promise<number[]> => {
  const { stdout, code } = await client('storage', 'export', ...args);
  expect(code).toBe(0);
  const lines = stdout.split('\n').filter((line) => line !== '');
  return lines.flatMap((line) => (JSON.parse(line) as { values: number[] }).values).sort((a, b) => a - b);
};

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

test.each(['behind', 'sync'])(
  'what was acknowledged with --log-mode %s is there after kill -9, and the start says where it was',
  async (mode) => {
    const first = await serve(mode, ['--log-mode', mode]);
    await send(0, 500);
    await send(500, 500);
    await first.end('SIGKILL');
    const second = await serve(mode, ['--log-mode', mode]);
    expect(await exported()).toEqual(upTo(1000));
    await expect
      .poll(() => second.output)
      .toMatch(/metrics are there again.*1000 samples of open blocks; commitlog/);
    await send(1000, 10);
    expect(await second.end('SIGTERM')).toBe(0);
    await serve(mode, ['--log-mode', mode]);
    expect(await exported()).toEqual(upTo(1010));
  },
);

test('namespaces are made, changed, listed and deleted from a shell, and outlive the process', async () => {
  const first = await serve('namespaces');
  const made = await client(
    'namespace',
    'create',
    'long',
    '--retention',
    '30d',
    '--cold-writes',
    'on',
    '--json',
  );
  expect([made.code, JSON.parse(made.stdout)]).toEqual([
    0,
    expect.objectContaining({ name: 'long', retention: '720h', coldWritesEnabled: true }),
  ]);
  await send(0, 3, 'long');
  const again = await client('namespace', 'create', 'long');
  expect([again.code, again.stderr]).toEqual([2, expect.stringContaining('already')]);
  const wrong = await client('namespace', 'change', 'long', '--retention', '1m');
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringMatching(/retention .* at least one block/)]);
  const block = await client('namespace', 'change', 'long', '--block-size', '4h');
  expect([block.code, block.stderr]).toEqual([1, expect.stringContaining('cannot change')]);
  expect((await client('namespace', 'change', 'long', '--buffer-past', '1h')).code).toBe(0);
  expect((await client('namespace', 'change', 'none')).code).toBe(1);
  await first.end('SIGKILL');
  await serve('namespaces');
  const list = await client('namespace', 'list');
  expect(list.stdout).toMatch(/ long +\| 720h +\| 2h +\| 1h /);
  expect(await exported('--namespace', 'long')).toEqual(upTo(3));
  expect((await client('namespace', 'delete', 'long')).code).toBe(0);
  expect((await client('namespace', 'delete', 'long')).code).toBe(1);
  expect((await client('namespace', 'list')).stdout).not.toContain('long');
});

test('files can be looked at and checked, whether the engine runs or not; damage is found', async () => {
  const first = await serve('files');
  await send(0, 100);
  const dir = ['--dir', join(base, 'files')];
  const inspected = await varve(['storage', 'inspect', ...dir]);
  expect([inspected.code, inspected.stdout]).toEqual([0, expect.stringContaining('nothing was flushed yet')]);
  expect((await varve(['storage', 'verify', ...dir])).stdout).toBe('Everything is as it was written.\n');
  await first.end('SIGKILL');
  running = undefined;
  const [catalog = ''] = (await readdir(join(base, 'files'))).filter((name) => name.startsWith('catalog'));
  const file = await open(join(base, 'files', catalog), 'r+');
  await file.write(Buffer.from([0xff]), 0, 1, 20);
  await file.close();
  const damaged = await varve(['storage', 'verify', '--json', ...dir]);
  expect(damaged.code).toBe(3);
  expect(JSON.parse(damaged.stdout)).toMatchObject({
    kind: 'namespaces',
    file: expect.stringContaining(catalog) as string,
  });
});

test('a folder in use, that of a system, and an address for everybody without a token are refused', async () => {
  await serve('once');
  const [other = 0] = await freePorts(1);
  const second = await varve(['storage', 'serve', '--dir', join(base, 'once'), '--port', String(other)]);
  expect([second.code, second.stderr]).toEqual([1, expect.stringContaining('is in use by process')]);
  const taken = await varve(['storage', 'serve', '--dir', join(base, 'twice'), '--port', String(port)]);
  expect([taken.code, taken.stderr]).toEqual([1, expect.stringContaining(`port ${port} for HTTP is in use`)]);
  await writeFile(join(base, 'system.json'), '{}');
  const system = await varve(['storage', 'serve', '--dir', base]);
  expect([system.code, system.stderr]).toEqual([2, expect.stringContaining('the folder of a whole system')]);
  await rm(join(base, 'system.json'));
  const everybody = await varve(['storage', 'serve', '--dir', join(base, 'x'), '--http-host', '0.0.0.0']);
  expect([everybody.code, everybody.stderr]).toEqual([2, expect.stringContaining('without a token')]);
});

test('with a token only those who have it are served', async () => {
  const token = join(base, 'token');
  await writeFile(token, 'a-long-secret\n');
  await serve('guarded', ['--storage-token-file', token, '--http-host', '0.0.0.0']);
  expect((await fetch(`${url}/api/v1/namespaces`)).status).toBe(401);
  expect((await fetch(`${url}/api/status`)).status).toBe(401);
  expect((await fetch(`${url}/metrics`)).status).toBe(401);
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
  const without = await client('namespace', 'list');
  expect([without.code, without.stderr]).toEqual([1, expect.stringContaining('bearer token')]);
  const list = await client('namespace', 'list', '--storage-token-file', token);
  expect(list.stdout).toContain('default');
  const metrics = await fetch(`${url}/metrics`, { headers: { authorization: 'Bearer a-long-secret' } });
  expect(await metrics.text()).toContain('varve_storage_ready 1');
});
