import { readFileSync } from 'node:fs';

/** Clock ticks of Linux, in which `/proc` counts. */
const TICK_MS = 10;

/** Of one process, in milliseconds of processor time, user's and system's. */
export interface ProcessorTime {
  readonly ownMs: number;
  /** Of its children that have ended and were waited for, with theirs. */
  readonly endedMs: number;
}

/** Undefined when there is no such process. */
export function processorTime(pid: number): ProcessorTime | undefined {
  const text = read(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  // The name stands in parentheses, and may hold some itself. Behind it: state, …, utime, stime, cutime, cstime.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = fields.slice(11, 15).map(Number);
  return { ownMs: (user + system) * TICK_MS, endedMs: (endedUser + endedSystem) * TICK_MS };
}

export function childrenOf(pid: number): readonly number[] {
  const text = read(`/proc/${pid}/task/${pid}/children`) ?? '';
  return text.split(' ').filter(Boolean).map(Number);
}

/** Of processes, and of all that have come from them; those of `apart`, and theirs, do not count. */
export function treeProcessorMs(
  pids: readonly number[],
  apart: ReadonlySet<number | undefined> = new Set(),
): number {
  let sumMs = 0;
  for (const pid of pids) {
    const time = apart.has(pid) ? undefined : processorTime(pid);
    if (time) sumMs += time.ownMs + time.endedMs + treeProcessorMs(childrenOf(pid), apart);
  }
  return sumMs;
}

/** Of processes that may come from each other, each counted once. */
export function processorMsOf(pids: readonly number[]): number {
  const all = new Set(pids);
  const each = [...all].map((pid) =>
    treeProcessorMs([pid], new Set([...all].filter((other) => other !== pid))),
  );
  return each.reduce((sum, ms) => sum + ms, 0);
}

/** Of the whole machine since it came up: how long its processors were busy, in milliseconds, all of them together. */
export function machineBusyMs(): number {
  const [line = ''] = (read('/proc/stat') ?? '').split('\n');
  // cpu, user, nice, system, idle, iowait, irq, softirq, …; what a guest used stands in the first two, too.
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return (user + nice + system + irq + softirq) * TICK_MS;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return undefined;
  }
}
