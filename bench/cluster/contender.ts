import type { Endpoint } from '../../src/postgres/connection.ts';

export interface ContenderNode {
  readonly name: string;
}

/** Three nodes of a system that is measured, each a process with its PostgreSQL. */
export interface Contender<N extends ContenderNode = ContenderNode> extends AsyncDisposable {
  readonly nodes: readonly N[];
  start(node: N): void;
  /** What a bootstrap has to reach. */
  isWhole(): Promise<boolean>;
  primary(): Promise<N | undefined>;
  /** Whether another could take over without a loss. */
  isSettled(): Promise<boolean>;
  endpoint(node: N): Endpoint;
  /** What was started, and its server's first process, from which all others come. */
  processes(node: N): Promise<readonly number[]>;
  /** The daemon and its server at once, as when a machine fails. */
  kill(node: N): Promise<void>;
  switchover(): Promise<void>;
  /** What the nodes wrote last, for a bench that does not get on. */
  complaints(): Promise<string>;
}

/** @throws when there is none at the moment */
export async function primaryOf<N extends ContenderNode>(group: Contender<N>): Promise<N> {
  const primary = await group.primary();
  if (primary === undefined) throw new Error('there is no write master');
  return primary;
}

/** Each look takes processor time from those who are looked at. */
const LOOK_MS = 50;

/** @throws with what the nodes wrote last */
export async function untilWhole(group: Contender, timeoutMs: number): Promise<void> {
  await until(() => group.isWhole(), timeoutMs, LOOK_MS).catch(async (error: unknown) => {
    throw new Error(`it did not come up in ${timeoutMs} ms\n${await group.complaints()}`, { cause: error });
  });
}

export async function until(isSo: () => Promise<boolean>, timeoutMs: number, everyMs = 20): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await isSo())) {
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain`);
    await pause(everyMs);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A process and those that it started, unless they made themselves independent. */
export function killProcessGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  signal(-pid);
}

export function signal(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is gone.
  }
}
