import type { Operation, Value } from './coordinator.ts';
import { type KeyRange, rangeOfPrefix } from './etcd-keys.ts';

export interface NetOperations {
  readonly puts: ReadonlyMap<string, Value>;
  readonly deletions: readonly KeyRange[];
}

/**
 * What operations come to when they are done one after the other. etcd refuses a transaction that touches a
 * key twice, so what is put last is left out of what is deleted: a folder that is emptied and filled again is
 * deleted in the gaps between its new keys. There are at most twice as many puts and deletions as operations.
 */
export function netOperations(operations: readonly Operation[]): NetOperations {
  const puts = new Map<string, Value>();
  const keys = new Set<string>();
  const prefixes = new Set<string>();
  for (const operation of operations) {
    switch (operation.kind) {
      case 'put':
        puts.set(operation.key, operation.value);
        break;
      case 'delete':
        puts.delete(operation.key);
        keys.add(operation.key);
        break;
      default:
        prefixes.add(operation.prefix);
        for (const key of puts.keys()) if (key.startsWith(operation.prefix)) puts.delete(key);
    }
  }
  const within = (text: string): boolean => [...prefixes].some((p) => p !== text && text.startsWith(p));
  const ranges = [...prefixes].filter((prefix) => !within(prefix)).map(rangeOfPrefix);
  const kept = [...puts.keys()].sort();
  const single = [...keys].filter((key) => !puts.has(key) && !prefixes.has(key) && !within(key));
  return {
    puts,
    deletions: [...single.map((key) => ({ key })), ...ranges.flatMap((range) => gaps(range, kept))],
  };
}

/** `range` without `kept`, which is in order. */
function gaps({ key: first, end = first }: KeyRange, kept: readonly string[]): KeyRange[] {
  const found: KeyRange[] = [];
  let key = first;
  for (const put of kept.filter((candidate) => candidate >= first && candidate < end)) {
    if (key < put) found.push({ key, end: put });
    key = `${put}\0`;
  }
  if (key < end) found.push({ key, end });
  return found;
}
