import { assert, constantFrom, array, oneof, property, record, constant } from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Operation } from './coordinator.ts';
import type { KeyRange } from './etcd-keys.ts';
import { netOperations } from './etcd-operations.ts';

const put = (key: string, value = 'x'): Operation => ({ kind: 'put', key, value });
const remove = (key: string): Operation => ({ kind: 'delete', key });
const clear = (prefix: string): Operation => ({ kind: 'delete-prefix', prefix });

function inside({ key, end }: KeyRange, candidate: string): boolean {
  return end === undefined ? candidate === key : key <= candidate && candidate < end;
}

/** As Consul does them: each sees what those before it have done. */
function oneByOne(
  before: ReadonlyMap<string, string>,
  operations: readonly Operation[],
): Map<string, string> {
  const rows = new Map(before);
  for (const operation of operations) {
    if (operation.kind === 'put') rows.set(operation.key, String(operation.value));
    else if (operation.kind === 'delete') rows.delete(operation.key);
    else for (const key of rows.keys()) if (key.startsWith(operation.prefix)) rows.delete(key);
  }
  return rows;
}

const key = constantFrom('a', 'a/', 'a/1', 'a/1/x', 'a/2', 'ab', 'b', 'b/1');
const operation = oneof(
  record({ kind: constant('put' as const), key, value: constantFrom('1', '2', '3') }),
  record({ kind: constant('delete' as const), key }),
  record({ kind: constant('delete-prefix' as const), prefix: constantFrom('', 'a', 'a/', 'a/1', 'b/', 'z') }),
);

describe('what operations come to', () => {
  test('is what they do one after the other, touches no key twice, and fits etcd where it fits us', () => {
    assert(
      property(array(key), array(operation, { maxLength: 12 }), (present, operations) => {
        const before = new Map<string, string>(present.map((name) => [name, 'before']));
        const { puts, deletions } = netOperations(operations);
        const after = new Map(
          [...before].filter(([name]) => !deletions.some((range) => inside(range, name))),
        );
        for (const [name, value] of puts) after.set(name, String(value));
        expect(after).toEqual(oneByOne(before, operations));
        for (const name of puts.keys()) expect(deletions.some((range) => inside(range, name))).toBe(false);
        expect(puts.size + deletions.length).toBeLessThanOrEqual(2 * operations.length);
      }),
      { numRuns: 2000 },
    );
  });

  test.each<[string, Operation[], string[], KeyRange[]]>([
    ['nothing', [], [], []],
    ['a key put twice is put once', [put('a', '1'), put('a', '2')], ['a=2'], []],
    ['a key put and then deleted is deleted', [put('a'), remove('a')], [], [{ key: 'a' }]],
    ['a key deleted and then put is put', [remove('a'), put('a')], ['a=x'], []],
    [
      'a folder emptied and filled again',
      [clear('a/'), put('a/1'), put('a/2')],
      ['a/1=x', 'a/2=x'],
      [
        { key: 'a/', end: 'a/1' },
        { key: 'a/1\0', end: 'a/2' },
        { key: 'a/2\0', end: 'a0' },
      ],
    ],
    ['a folder filled and then emptied', [put('a/1'), clear('a/')], [], [{ key: 'a/', end: 'a0' }]],
    [
      'folders within each other',
      [clear('a/1/'), clear('a/'), remove('a/2')],
      [],
      [{ key: 'a/', end: 'a0' }],
    ],
    ['all keys, and none of the adapter’s own', [clear('')], [], [{ key: '\0', end: '~' }]],
  ])('%s', (_what, operations, puts, deletions) => {
    const net = netOperations(operations);
    expect([...net.puts].map(([name, value]) => `${name}=${String(value)}`)).toEqual(puts);
    expect(net.deletions).toEqual(deletions);
  });
});
