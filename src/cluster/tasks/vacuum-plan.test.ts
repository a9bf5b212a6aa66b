import { expect, test } from 'vitest';
import { planVacuum, type TableSpace } from './vacuum-plan.ts';
import { parseConfig } from './config.ts';

const MB = 1_000_000;
const limits = { ratio: 0.2, bytes: MB, fullTables: ['tasks.tasks'] };
const table = (more: Partial<TableSpace>): TableSpace => ({
  relation: 'public.t',
  sizeBytes: 100 * MB,
  deadBytes: 0,
  freeBytes: 0,
  ...more,
});

test.each([
  ['nothing to gain', {}, 'none'],
  ['enough dead rows', { deadBytes: 20 * MB }, 'plain'],
  ['too small a share', { deadBytes: 19 * MB }, 'none'],
  ['too few bytes', { sizeBytes: MB, deadBytes: MB / 2 }, 'none'],
  ['free space, which plain VACUUM does not give back', { freeBytes: 90 * MB }, 'none'],
  ['free space where the table may be locked', { relation: 'tasks.tasks', freeBytes: 90 * MB }, 'full'],
  [
    'both together where it may be locked',
    { relation: 'tasks.tasks', deadBytes: 12 * MB, freeBytes: 12 * MB },
    'full',
  ],
  ['little where it may be locked', { relation: 'tasks.tasks', deadBytes: 12 * MB }, 'none'],
  ['an empty table', { sizeBytes: 0 }, 'none'],
] as const)('%s', (_, more, kind) => {
  expect(planVacuum(table(more), limits)).toBe(kind);
});

test('a limit of nothing does not vacuum what has nothing', () => {
  expect(planVacuum(table({}), { ratio: 0, bytes: 0, fullTables: ['public.t'] })).toBe('none');
});

test('settings that are missing or no numbers have their defaults', () => {
  const config = parseConfig(
    new Map([
      ['poolSize', 'many'],
      ['instanceLimit', '-1'],
      ['instanceAllowed', '3'],
      ['vacuumFullTables', ' a.b  c.d '],
    ]),
  );
  expect(config).toMatchObject({
    poolSize: 10,
    instanceLimit: 15,
    instanceAllowed: 3,
    vacuumFullTables: ['a.b', 'c.d'],
    serviceAddress: '',
  });
});
