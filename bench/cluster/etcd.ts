import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chooseFreePorts } from '../../src/node/ports.ts';
import { pause, until } from './contender.ts';

export interface Etcd extends AsyncDisposable {
  readonly port: number;
}

/** Debian's etcd, one member, on a folder of its own. */
export async function startEtcd(): Promise<Etcd> {
  const [port = 0, peer = 0] = await chooseFreePorts(2, []);
  const folder = await mkdtemp(join(tmpdir(), 'varve-bench-etcd-'));
  const url = (at: number): string => `http://127.0.0.1:${at}`;
  const args = [
    ['--data-dir', folder],
    ['--listen-client-urls', url(port)],
    ['--advertise-client-urls', url(port)],
    ['--listen-peer-urls', url(peer)],
    ['--initial-advertise-peer-urls', url(peer)],
    ['--initial-cluster', `default=${url(peer)}`],
  ].flat();
  const child = spawn('etcd', args, { stdio: 'ignore' });
  const isUp = (): Promise<boolean> =>
    fetch(`${url(port)}/health`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until(isUp, 20_000);
  return {
    port,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await pause(200);
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
