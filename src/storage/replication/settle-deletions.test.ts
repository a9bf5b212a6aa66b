import { expect, test } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { decodeDeletions, encodeDeletions } from './deletion-ledger.ts';
import type { ReplicaDelete, ReplicaTransport } from './replica-transport.ts';
import { settleDeletions } from './settle-deletions.ts';

const { signal } = new AbortController();
const deletion = (stamp: bigint, namespace = 'default'): ReplicaDelete => ({
  namespace,
  stamp,
  startNs: 0n,
  endNs: 10n,
  selectors: [[['__name__', '=', 'm']]],
});

/** Nodes with the deletions that they know; of `down` nothing comes. */
function transportOf(
  ledgers: Readonly<Record<string, ReplicaDelete[]>>,
  down: readonly string[] = [],
): ReplicaTransport {
  const ledgerOf = (id: string): ReplicaDelete[] => {
    if (down.includes(id)) throw new VarveError('REPLICA_UNREACHABLE', `${id} is down`);
    return ledgers[id] ?? [];
  };
  return {
    write: () => expect.unreachable(),
    handOver: () => expect.unreachable(),
    delete: async ({ id }, one) => void ledgerOf(id).push(...decodeDeletions(encodeDeletions([one]))),
    async *ask({ id }, question) {
      expect(question).toEqual({ kind: 'deletions' });
      // An answer comes in parts, some of them empty.
      const bytes = encodeDeletions(ledgerOf(id));
      yield bytes.subarray(0, 7);
      yield bytes.subarray(7, 7);
      yield bytes.subarray(7);
    },
  };
}

const nodes = (...ids: string[]): Parameters<typeof settleDeletions>[1] => ({
  nodes: ids.map((id) => ({ id, endpoint: id })),
  namespaces: ['default', 'other'],
  signal,
});

test('each replica carries out what any of them has deleted, the oldest first', async () => {
  const ledgers = {
    a: [deletion(1n), deletion(3n), deletion(4n, 'gone')],
    b: [deletion(2n), deletion(2n, 'other')],
    c: [],
  };
  const { silent, deletions } = await settleDeletions(transportOf(ledgers), nodes('a', 'b', 'c'));
  expect([...silent]).toEqual([]);
  const stamps = (all: readonly ReplicaDelete[]): string[] =>
    all.map((one) => `${one.stamp}/${one.namespace}`);
  expect(deletions.map(({ stamp }) => stamp)).toEqual([1n, 2n, 2n, 3n]);
  expect(stamps(ledgers.c)).toEqual(['1/default', '2/default', '2/other', '3/default']);
  expect(stamps(ledgers.a)).toEqual(['1/default', '3/default', '4/gone', '2/default', '2/other']);
  expect(stamps(ledgers.b)).toEqual(['2/default', '2/other', '1/default', '3/default']);
});

test('a node that is down does not hold up the others, and is told', async () => {
  const ledgers = { a: [deletion(1n)], b: [], c: [] };
  const { silent } = await settleDeletions(transportOf(ledgers, ['c']), nodes('a', 'b', 'c'));
  expect([...silent]).toEqual([['c', 'c is down']]);
  expect(ledgers.b).toHaveLength(1);
});

test('what whoever asks has deleted itself the others carry out as well', async () => {
  const ledgers = { a: [deletion(1n)], b: [] };
  const request = { ...nodes('a', 'b'), own: [deletion(2n)] };
  const { deletions } = await settleDeletions(transportOf(ledgers), request);
  expect(deletions.map(({ stamp }) => stamp)).toEqual([1n, 2n]);
  for (const ledger of [ledgers.a, ledgers.b]) expect(ledger.map(({ stamp }) => stamp)).toEqual([1n, 2n]);
});
