import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { endProcesses, isAlive, worksOn } from './postmaster.ts';

let child: ChildProcess | undefined;
afterEach(() => child?.kill('SIGKILL'));

it('a process that ended, but that its parent has not asked for, is gone', async () => {
  // The shell becomes a program that never asks for the child it had as a shell.
  child = spawn('sh', ['-c', 'sleep 0.01 & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  const pid = Number(line.toString());
  await expect.poll(() => isAlive(pid)).toBe(false);
  if (process.platform === 'linux') expect(() => process.kill(pid, 0)).not.toThrow();
});

it('a running process is alive, and one that is not PostgreSQL works on no data folder', async () => {
  expect(isAlive(process.pid)).toBe(true);
  expect(await worksOn(process.pid, process.cwd())).toBe('no');
});

it('a process that ignores the first signal is killed', async () => {
  child = spawn('sh', ['-c', 'trap "" QUIT; echo ready; while :; do sleep 0.05; done'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  await endProcesses(systemClock, [child.pid ?? 0], 100);
  expect(isAlive(child.pid ?? 0)).toBe(false);
});
