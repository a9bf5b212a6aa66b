import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fencesNeeded, isFenced, notFenced, ruleFor, standbyNames } from './quorum.ts';

const SAFE = { policy: 'safety', confirm: 'majority' } as const;

describe('who has to confirm', () => {
  test.each([
    [1, 0, 0],
    [2, 1, 1],
    [3, 1, 2],
    [4, 2, 2],
    [5, 2, 3],
    [7, 3, 4],
  ])('of %i members %i of the others confirm, and %i of them have to be fenced', (size, count, fences) => {
    const members = Array.from({ length: size }, (_, i) => `n${i}`);
    const rule = ruleFor('n0', members, SAFE);
    expect(rule.count).toBe(count);
    expect(rule.others).not.toContain('n0');
    expect(fencesNeeded(rule)).toBe(fences);
  });

  test('where availability is wanted nobody has to', () => {
    expect(ruleFor('a', ['a', 'b'], { policy: 'availability', confirm: 'majority' }).count).toBe(0);
  });

  test('where all have to, one that is fenced stops the master', () => {
    const rule = ruleFor('a', ['a', 'b', 'c'], { policy: 'safety', confirm: 'all' });
    expect(rule.count).toBe(2);
    expect(isFenced([rule], new Set(['c']))).toBe(true);
  });

  test('what is fenced cannot reach its quorum, and has one of every quorum among it', () => {
    const nodes = fc.uniqueArray(fc.stringMatching(/^[a-z]$/), { minLength: 2, maxLength: 9 });
    fc.assert(
      fc.property(nodes, fc.boolean(), fc.infiniteStream(fc.boolean()), (members, all, coin) => {
        const [master = ''] = members;
        const rule = ruleFor(master, members, { policy: 'safety', confirm: all ? 'all' : 'majority' });
        const fenced = new Set(rule.others.filter(() => coin.next().value));
        const quorum = rule.others.filter(() => coin.next().value).slice(0, rule.count);
        const free = rule.others.filter((node) => !fenced.has(node));
        expect(isFenced([rule], fenced)).toBe(free.length < rule.count);
        if (isFenced([rule], fenced) && quorum.length === rule.count) {
          expect(quorum.some((node) => fenced.has(node))).toBe(true);
        }
      }),
    );
  });

  test('while rules change a master is fenced under both', () => {
    const three = ruleFor('a', ['a', 'b', 'c'], SAFE);
    const four = ruleFor('a', ['a', 'b', 'c', 'd'], SAFE);
    expect(isFenced([four], new Set(['c', 'd']))).toBe(true);
    expect(isFenced([three, four], new Set(['c', 'd']))).toBe(false);
    expect(notFenced([three, four], new Set(['c', 'd']))).toEqual(['b']);
  });
});

test('names of walsenders, quoted', () => {
  const rule = ruleFor('n1', ['n1', 'n2', 'n3'], SAFE);
  expect(standbyNames(rule, ['varve'])).toBe('ANY 1 ("varve_n2_varve", "varve_n3_varve")');
  expect(standbyNames(undefined, ['varve'])).toBe('ANY 1 ("varve_nobody")');
  expect(standbyNames({ others: ['n2'], count: 0 }, ['varve'])).toBe('');
  expect(standbyNames({ others: ['n2'], count: 1 }, ['a', 'b'])).toBe('FIRST 2 ("varve_n2_a", "varve_n2_b")');
});
