import { expect, it } from 'vitest';
import { unsettled, verdict, type Operation, type OperationRecord } from './operation.ts';

it.each([
  ['in progress', false, 'wait'],
  ['in progress', true, 'wait'],
  ['committed', true, 'confirm'],
  ['committed', false, 'undo'],
  ['aborted', false, 'undo'],
  [null, true, 'confirm'],
  [null, false, 'unknown'],
] as const)('a transaction that is %s, witnessed %s: %s', (status, witnessed, expected) => {
  expect(verdict(status, witnessed)).toBe(expected);
});

it('finds in a journal what was begun and not settled', () => {
  const begun = (id: string): OperationRecord => ({ type: 'begun', operation: { id } as Operation });
  const settled = (id: string): OperationRecord => ({ type: 'settled', id, outcome: 'undone', atMs: 0 });
  expect(unsettled([begun('a'), begun('b'), settled('a'), begun('c')]).map(({ id }) => id)).toEqual([
    'b',
    'c',
  ]);
  expect(unsettled([])).toEqual([]);
});
