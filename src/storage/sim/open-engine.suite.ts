import { readFileSync } from 'node:fs';
import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import type { EngineDeps } from '../engine/engine-parts.ts';
import { Engine } from '../engine/engine.ts';
import type { EngineOptions } from '../engine/storage-engine.ts';
import { KERNEL_FILE } from '../kernel/kernel.ts';

let wasm: Uint8Array | undefined;

/** What the engine said while it ran, for those who look for the cause of a failure: `VARVE_SIM_LOG=1`. */
const isLoud = process.env['VARVE_SIM_LOG'] !== undefined;
const note = (facts: object, message: string): void => {
  if (isLoud) console.log(message, facts);
};

/** A small engine, bootstrapped, that does by itself only what it must. */
export async function openEngine(
  deps: { readonly fs: FileSystem; readonly clock: Clock; readonly seed: number },
  options: Pick<EngineOptions, 'folder' | 'logMode'> & Partial<EngineOptions>,
): Promise<Engine> {
  const engine = await openUnready(deps, options);
  await engine.ready();
  return engine;
}

/** The same while its bootstrap goes on. */
export async function openUnready(
  deps: Pick<EngineDeps, 'fs' | 'clock' | 'node' | 'peers'> & { readonly seed: number },
  options: Pick<EngineOptions, 'folder' | 'logMode'> & Partial<EngineOptions>,
): Promise<Engine> {
  const { seed, ...ports } = deps;
  const random = new SeededRandom(seed);
  wasm ??= readFileSync(KERNEL_FILE);
  return await Engine.open(
    {
      ...ports,
      random: () => random.next(),
      randomUint32: () => random.below(2 ** 32),
      log: { info: note, warn: note, error: note },
      wasm,
    },
    {
      shardCount: 2,
      memoryMb: 32,
      tickMs: 0,
      logSegmentBytes: 4096,
      imageLogBytes: 2000,
      keepFreeBytes: 0,
      ...options,
    },
  );
}
