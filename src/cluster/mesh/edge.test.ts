import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allEdges, edgeNames, slotName } from './edge.ts';

test('names of an edge tell its ends', () => {
  expect(edgeNames({ from: 'an1', to: 'an2', database: 'varve' })).toEqual({
    subscription: 'varve_an1_varve',
    slot: 'varve_an2_varve',
  });
});

const node = fc.stringMatching(/^[a-z][a-z0-9-]{0,39}$/);
const database = fc.oneof(
  fc.stringMatching(/^[a-z_-]{1,63}$/),
  fc.string({ minLength: 1, maxLength: 63, unit: 'grapheme' }),
);

test('any node and database give names that PostgreSQL takes for slots', () => {
  fc.assert(
    fc.property(node, database, (to, name) => {
      expect(edgeNames({ from: 'a', to, database: name }).slot).toMatch(/^[a-z0-9_]{1,63}$/);
    }),
  );
});

test('different nodes or databases never share a name', () => {
  fc.assert(
    fc.property(node, database, node, database, (n1, d1, n2, d2) => {
      fc.pre(n1 !== n2 || d1 !== d2);
      expect(slotName(n1, d1)).not.toBe(slotName(n2, d2));
    }),
  );
});

test('a mesh of three has six edges a database', () => {
  const edges = allEdges(['a', 'b', 'c'], ['x', 'y']);
  expect(edges).toHaveLength(12);
  expect(edges.filter(({ from, to }) => from === to)).toEqual([]);
});

test('where a node ends and a database begins is never in doubt', () => {
  expect(slotName('a', 'b_c')).toBe('varve_a_b_c');
  expect(slotName('a-b', 'c')).toMatch(/^varve_a_b_c_h[0-9a-f]{10}$/);
});
