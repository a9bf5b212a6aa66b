import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { silentLog } from './contract.suite.ts';
import { type Coordinator, held } from './coordinator.ts';
import { openCoordinator } from './open-coordinator.ts';
import { TcpProxy } from './tcp-proxy.suite.ts';

let folder: string;
let child: ChildProcess | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-crash-'));
});
afterEach(async () => {
  await kill();
  await rm(folder, { recursive: true });
});

async function start(): Promise<string> {
  const script = fileURLToPath(new URL('./embedded-process.suite.ts', import.meta.url));
  child = spawn(process.execPath, ['--import', 'tsx', script, folder], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return line.toString().trim();
}

async function kill(): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

test('what was acknowledged survives kill -9 under load, three times over', async () => {
  const proxy = await TcpProxy.start(await start());
  const coordinator = openCoordinator(
    { kind: 'embedded', url: proxy.url, timeoutMs: 2000 },
    { clock: systemClock, log: silentLog },
  );
  const session = await coordinator.session({ ttlMs: 60_000, name: 'writer' });
  const lock = await coordinator.lock('lock', session, { owner: 'writer' });
  const acknowledged = new Map<string, number>();
  const attempted = new Map<string, number>();
  let highest = 0n;
  for (let round = 0; round < 3; round += 1) {
    const stop = new AbortController();
    const writers = Array.from({ length: 8 }, (_, i) =>
      write(coordinator, `w/${i}`, { attempted, acknowledged, signal: stop.signal }),
    );
    const before = sum(acknowledged);
    while (sum(acknowledged) < before + 200) await systemClock.sleep(5);
    await kill();
    stop.abort();
    await Promise.all(writers);
    proxy.pointTo(await start());
    const entries = await coordinator.list('w/');
    for (const { key, value, version } of entries) {
      const found = Number(value.toString());
      expect(found).toBeGreaterThanOrEqual(acknowledged.get(key) ?? 0);
      expect(found).toBeLessThanOrEqual(attempted.get(key) ?? 0);
      acknowledged.set(key, found);
      expect(version).toBeGreaterThan(0n);
    }
    const last = entries.map(({ version }) => version).reduce((a, b) => (a > b ? a : b), 0n);
    expect(last).toBeGreaterThan(highest);
    highest = last;
    await session.renew();
    expect(await coordinator.txn([held(lock)], [])).toMatchObject({ committed: true });
  }
  await coordinator[Symbol.asyncDispose]();
  await proxy[Symbol.asyncDispose]();
}, 60_000);

async function write(
  coordinator: Coordinator,
  key: string,
  state: {
    readonly attempted: Map<string, number>;
    readonly acknowledged: Map<string, number>;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  for (let n = (state.attempted.get(key) ?? 0) + 1; !state.signal.aborted; n += 1) {
    state.attempted.set(key, n);
    try {
      await coordinator.put(key, String(n));
      state.acknowledged.set(key, n);
    } catch {
      return; // Killed: whether this one is there nobody knows.
    }
  }
}

function sum(numbers: ReadonlyMap<string, number>): number {
  return [...numbers.values()].reduce((a, b) => a + b, 0);
}
