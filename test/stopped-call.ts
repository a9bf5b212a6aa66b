import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import type { Connection } from '../src/postgres/connection.ts';
import type { TestAccessNode } from './access-node.ts';
import { connect, serverFacts } from './database.ts';
import type { FaultProxy } from './fault-proxy.ts';

/** A call of an access node that sends messages to data nodes over `link`, and is to be stopped at each of them. */
export interface StoppedCall {
  readonly link: FaultProxy;
  readonly access: TestAccessNode;
  /** Makes the same situation each time. */
  prepare(): Promise<void>;
  call(session: Connection): Promise<unknown>;
  /** Everything that a stopped call could have left. */
  fingerprint(): Promise<string[]>;
  /** Takes away what a call that succeeded has made. */
  cleanUp(session: Connection): Promise<void>;
  /** One point in so many is drawn where time is short. */
  readonly drawOneIn: number;
}

/** How a call is stopped, given the session that it is made in. */
export type Stop = (caller: Connection) => Promise<void>;

interface Point {
  readonly at: number;
  readonly when: 'before' | 'after';
}

/**
 * Stops the call at one point after the other. Each time all has to be as before, and the same call then
 * succeeds; and most points have to hurt.
 */
export async function stopAtEach(stopped: StoppedCall, stop: Stop): Promise<void> {
  const count = await messageCount(stopped);
  const points = Array.from({ length: count }, (_, i) => i + 1).flatMap((at) => [
    { at, when: 'before' as const },
    { at, when: 'after' as const },
  ]);
  const drawn = sample(points, stopped.drawOneIn);
  let failures = 0;
  for (const point of drawn) if (await stopAt(stopped, point, stop)) failures += 1;
  // A message that only says goodbye, or one of the cleaning up after the commit, can be lost without harm.
  expect(failures * 3).toBeGreaterThanOrEqual(drawn.length);
}

/** By breaking every connection to the data nodes. */
export function brokenLink(link: FaultProxy): Stop {
  return () => Promise.resolve(link.breakAll());
}

/** By a cancel from another session. */
export const cancelled: Stop = async (caller) => {
  await using admin = await connect();
  await admin.query('select pg_cancel_backend($1)', [caller.backendPid]);
  await pause(20);
};

/** Resolves when the daemon has confirmed or undone every call. */
export async function untilSettled(session: Connection): Promise<void> {
  for (;;) {
    const { rows } = await session.query(`select 1 from varve.runs where state = 'begun'`);
    if (rows.length === 0) return;
    await pause(15);
  }
}

/** Says whether the call failed. */
async function stopAt(stopped: StoppedCall, point: Point, stop: Stop): Promise<boolean> {
  const { link, access } = stopped;
  await stopped.prepare();
  const before = await stopped.fingerprint();
  const caller = await access.connect();
  let stopping = Promise.resolve();
  link.setFault({ ...point, onFault: () => (stopping = stop(caller)) });
  const failed = await stopped.call(caller).then(
    () => false,
    () => true,
  );
  // The fault may hit a goodbye, behind the caller's back.
  if (!failed) await pause(60);
  link.setFault(undefined);
  await stopping;
  await caller.close();
  await using session = await access.connect();
  if (failed) {
    await untilSettled(session);
    expect(await stopped.fingerprint(), JSON.stringify(point)).toEqual(before);
    await stopped.call(session);
  }
  await stopped.cleanUp(session);
  return failed;
}

/** Of the call without a fault. */
async function messageCount(stopped: StoppedCall): Promise<number> {
  const { link, access } = stopped;
  await stopped.prepare();
  link.setFault(undefined);
  await using session = await access.connect();
  await stopped.call(session);
  const { count } = link;
  await stopped.cleanUp(session);
  return count;
}

/** All points in the long run; a few drawn ones, by a printed seed, where time is short. */
function sample(all: readonly Point[], oneIn: number): readonly Point[] {
  if (process.env['VARVE_SOAK'] === '1') return all;
  const seed = Number(process.env['VARVE_SEED'] ?? Date.now() % 1_000_000);
  console.log(`drawn with VARVE_SEED=${seed}`);
  return all.filter((_, i) => (i + seed) % oneIn === 0);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The daemon of an access node in a process of its own, in place of the one in this process. */
export class KillableDaemon implements AsyncDisposable {
  readonly #access: TestAccessNode;
  #process: ChildProcess;

  private constructor(access: TestAccessNode, process: ChildProcess) {
    this.#access = access;
    this.#process = process;
  }

  static async start(access: TestAccessNode): Promise<KillableDaemon> {
    await access.service[Symbol.asyncDispose]();
    return new KillableDaemon(access, await startProcess(access));
  }

  /** By `kill -9`; the next one starts on the same folder. */
  async killAndRestart(): Promise<void> {
    await this.#kill();
    this.#process = await startProcess(this.#access);
  }

  /** Puts the daemon of this process back. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#kill();
    await this.#access.restart();
  }

  async #kill(): Promise<void> {
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await gone;
  }
}

async function startProcess(access: TestAccessNode): Promise<ChildProcess> {
  const { serviceOptions } = access;
  const optionsFile = join(serviceOptions.folder, 'daemon.json');
  await writeFile(optionsFile, JSON.stringify({ admin: serverFacts().admin, service: serviceOptions }));
  const script = fileURLToPath(new URL('daemon-process.ts', import.meta.url));
  const daemon = fork(script, [optionsFile], {
    execArgv: ['--import', 'tsx'],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const [{ port, secret }] = (await once(daemon, 'message')) as [{ port: number; secret: string }];
  await access.tell(port, secret);
  return daemon;
}
