import { expect, test } from 'vitest';
import { eachAtOnce } from './each-at-once.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('works on each item once, never on more at a time than allowed', async () => {
  const seen: number[] = [];
  let [running, most] = [0, 0];
  await eachAtOnce([5, 1, 4, 2, 3], 2, async (item) => {
    most = Math.max(most, ++running);
    for (let i = 0; i < item; i++) await turn();
    running--;
    seen.push(item);
  });
  expect([seen.toSorted((a, b) => a - b), most]).toEqual([[1, 2, 3, 4, 5], 2]);
});

test('after a failure nothing is begun, and what is under way has ended when it is thrown', async () => {
  const [begun, ended]: [number[], number[]] = [[], []];
  const failing = eachAtOnce([1, 2, 3, 4, 5], 2, async (item) => {
    begun.push(item);
    if (item === 1) throw new Error('the first');
    for (let i = 0; i < 5; i++) await turn();
    ended.push(item);
    if (item === 2) throw new Error('the second');
  });
  await expect(failing).rejects.toThrow('the first');
  expect([begun, ended]).toEqual([[1, 2], [2]]);
});
