import { expect, it } from 'vitest';
import { OfferMemory } from './offer-memory.ts';

const server = { host: 'h', port: 1 };
const offers = { varve: ['0.1.0'] };

it('keeps what a server has on offer until the last call on it ends', () => {
  const memory = new OfferMemory();
  const [first, second] = [memory.hold(server), memory.hold(server)];
  expect(memory.recall(server)).toBeUndefined();
  memory.remember(server, offers);
  first[Symbol.dispose]();
  expect(memory.recall(server)).toEqual(offers);
  expect(memory.recall({ ...server, port: 2 })).toBeUndefined();
  second[Symbol.dispose]();
  expect(memory.recall(server)).toBeUndefined();
});

it('keeps nothing of a server on which no call is under way', () => {
  const memory = new OfferMemory();
  memory.remember(server, offers);
  expect(memory.recall(server)).toBeUndefined();
});
