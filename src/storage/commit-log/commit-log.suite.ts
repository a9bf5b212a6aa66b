import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { CommitLog, type CommitLogDeps, type CommitLogOptions } from './commit-log.ts';
import { replayCommitLog, type LogPosition, type ReplayReport } from './replay.ts';

/** A clock that stands still; sleepers wake when the test says so. */
export class HandClock implements Clock {
  #sleepers: (() => void)[] = [];

  get sleepers(): number {
    return this.#sleepers.length;
  }

  nowMs(): number {
    return 0;
  }

  monotonicMs(): number {
    return 0;
  }

  sleep(_ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason as Error);
        return;
      }
      signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      this.#sleepers.push(resolve);
    });
  }

  wakeAll(): void {
    for (const wake of this.#sleepers.splice(0)) wake();
  }
}

export const FOLDER = '/log';

export interface TestDeps extends CommitLogDeps {
  readonly clock: HandClock;
  readonly messages: string[];
}

export function testDeps(fs: FileSystem, seed = 1): TestDeps {
  const random = new SeededRandom(seed);
  const messages: string[] = [];
  const note = (_facts: object, message: string): void => void messages.push(message);
  let clock = 0n;
  return {
    fs,
    clock: new HandClock(),
    hybridClock: () => ++clock,
    randomUint32: () => random.below(2 ** 32),
    log: { info: note, warn: note, error: note },
    messages,
  };
}

export type SmallOptions = Omit<Partial<CommitLogOptions>, 'folder'>;

/** Reads the log, then opens it behind what was read. */
export async function reopen(
  deps: CommitLogDeps,
  options: SmallOptions = {},
  from?: LogPosition,
): Promise<{ log: CommitLog; found: Found[]; report: ReplayReport }> {
  const { found, report } = await read(deps.fs, from);
  const complete: CommitLogOptions = { folder: FOLDER, mode: 'sync', segmentBytes: 1024, ...options };
  return { log: await CommitLog.open(deps, complete, report.end), found, report };
}

export interface Found {
  readonly sequence: number;
  readonly text: string;
}

export async function read(
  fs: FileSystem,
  from?: LogPosition,
): Promise<{ found: Found[]; texts: string[]; report: ReplayReport }> {
  const found: Found[] = [];
  const report = await replayCommitLog({ fs }, { folder: FOLDER, from }, ({ sequence, payload }) => {
    found.push({ sequence, text: payload.toString('latin1') });
  });
  return { found, texts: found.map(({ text }) => text), report };
}

/** Lets everything go on that does not wait for a clock. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 200; turn++) await Promise.resolve();
}
