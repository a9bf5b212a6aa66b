import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { type CoordinatorHarness, silentLog, testCoordinator } from './contract.suite.ts';
import { openCoordinator } from './open-coordinator.ts';

const binary = process.env['VARVE_CONSUL_BIN'] ?? onPath('consul');

if (binary === undefined) {
  // No package source has Consul, so this is no failure where services are required either.
  process.stderr.write(
    'SKIPPED: the contract with a real Consul: set VARVE_CONSUL_BIN or put consul on PATH\n',
  );
  test.skip('the contract of the coordinator: consul (no binary: set VARVE_CONSUL_BIN)', () => {});
} else {
  testCoordinator('consul', () => startConsul(binary));
}

function onPath(name: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
  } catch {
    return undefined;
  }
}

async function startConsul(command: string): Promise<CoordinatorHarness> {
  const deps = { clock: systemClock, log: silentLog };
  const folder = await mkdtemp(join(tmpdir(), 'varve-test-consul-'));
  const [http = 0, rpc = 0, serf = 0] = await freePorts(3);
  const url = `http://127.0.0.1:${http}`;
  const minTtlMs = 1000;
  let agent: ChildProcess;
  const start = async (): Promise<void> => {
    agent = spawn(
      command,
      [
        'agent',
        '-server',
        '-bootstrap-expect=1',
        '-node=varve',
        `-data-dir=${folder}`,
        '-bind=127.0.0.1',
        '-client=127.0.0.1',
        `-http-port=${http}`,
        `-server-port=${rpc}`,
        `-serf-lan-port=${serf}`,
        '-serf-wan-port=-1',
        '-dns-port=-1',
        '-disable-host-node-id',
        '-log-level=err',
        '-hcl=performance { raft_multiplier = 1 }',
        `-hcl=session_ttl_min = "${minTtlMs}ms"`,
      ],
      { stdio: 'ignore' },
    );
    for (;;) {
      const leader = await fetch(`${url}/v1/kv/?keys`).catch(() => undefined);
      if (leader?.ok) return;
      await systemClock.sleep(100);
    }
  };
  const kill = async (): Promise<void> => {
    agent.kill('SIGKILL');
    await once(agent, 'exit');
  };
  await start();
  return {
    url,
    minTtlMs,
    open: (to = url) => openCoordinator({ kind: 'consul', url: to, minTtlMs, timeoutMs: 3000 }, deps),
    async restart() {
      await kill();
      await start();
    },
    async [Symbol.asyncDispose]() {
      await kill();
      await rm(folder, { recursive: true });
    },
  };
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
