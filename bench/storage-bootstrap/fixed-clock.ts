import { randomInt } from 'node:crypto';
import { systemClock, type Clock } from '../../src/core/clock.ts';
import { NodeFileSystem } from '../../src/core/node-file-system.ts';
import type { EngineDeps } from '../../src/storage/engine/engine-parts.ts';

/** Begins at an instant and goes on from there as time does. */
export class FixedClock implements Clock {
  readonly #offsetMs: number;

  constructor(nowMs: number) {
    this.#offsetMs = nowMs - systemClock.nowMs();
  }

  nowMs(): number {
    return systemClock.nowMs() + this.#offsetMs;
  }

  monotonicMs(): number {
    return systemClock.monotonicMs();
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return systemClock.sleep(ms, signal);
  }
}

const SILENT = { info: () => {}, warn: () => {}, error: () => {} };

/** Of an engine on this machine's disk. */
export function engineDeps(clock: Clock): EngineDeps {
  return {
    fs: new NodeFileSystem(),
    clock,
    random: Math.random,
    randomUint32: () => randomInt(2 ** 32),
    log: { ...SILENT, error: (facts, message) => console.error(message, facts) },
  };
}
