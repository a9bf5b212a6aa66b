import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Namespace } from './namespace.ts';

/** So many series take a few milliseconds; of half a million nobody waits for all. */
const SERIES_A_TURN = 4000;

/**
 * The index of the memory, as far as a file has it, and made for the others, has all series when it resolves, or the namespace is closed. Others get their turns
 * meanwhile.
 */
export async function completeIndex(namespace: Namespace): Promise<void> {
  await namespace.memoryIndex.load(namespace.buffer);
  while (!namespace.closed && namespace.buffer.indexSome(SERIES_A_TURN) > 0) await nextTurn();
}
