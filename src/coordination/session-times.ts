import { VarveError } from '../core/errors.ts';
import type { CoordinatorBounds, SessionOptions } from './coordinator.ts';

/** With its default. @throws INVALID_ARGUMENT when a time is outside of the bounds */
export function checkedTimes(
  bounds: CoordinatorBounds,
  { ttlMs, lockDelayMs = bounds.lockDelayMs }: SessionOptions,
): { readonly ttlMs: number; readonly lockDelayMs: number } {
  within('a session TTL', ttlMs, [bounds.minTtlMs, bounds.maxTtlMs]);
  within('a lock delay', lockDelayMs, [0, bounds.maxLockDelayMs]);
  return { ttlMs, lockDelayMs };
}

function within(what: string, ms: number, [min, max]: readonly [number, number]): void {
  if (ms >= min && ms <= max) return;
  throw new VarveError('INVALID_ARGUMENT', `${what} of ${ms} ms is not between ${min} and ${max} ms`);
}
