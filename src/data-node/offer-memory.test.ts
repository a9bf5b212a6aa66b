import { expect, it } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { OfferMemory } from './offer-memory.ts';

it('remembers for a minute what a server with varve on offer had', () => {
  let nowMs = 0;
  const memory = new OfferMemory({ ...systemClock, monotonicMs: () => nowMs });
  const [one, other] = [
    { host: 'h', port: 1 },
    { host: 'h', port: 2 },
  ];
  memory.remember(one, { varve: ['0.1.0'] });
  memory.remember(other, { timescaledb: ['2.13.1'] });
  expect(memory.recall(one)).toEqual({ varve: ['0.1.0'] });
  expect(memory.recall(other)).toBeUndefined();
  nowMs = 60_000;
  expect(memory.recall(one)).toBeUndefined();
  memory.remember(one, { varve: ['0.1.0'] });
  memory.forget(one);
  expect(memory.recall(one)).toBeUndefined();
});
