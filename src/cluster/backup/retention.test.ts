import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { expiredBackups, type AgedBackup } from './retention.ts';

const HOUR = 3_600_000;
const now = Date.UTC(2026, 0, 31, 12);
const name = (hoursAgo: number): string =>
  `${new Date(now - hoursAgo * HOUR).toISOString().replaceAll(/[-:]|\.\d+/g, '')}-0000${String(hoursAgo).padStart(4, '0')}.varvebackup`;
const backup = (hoursAgo: number, isReadable = true): AgedBackup => ({
  fileName: name(hoursAgo),
  createdAtMs: isReadable ? now - hoursAgo * HOUR : undefined,
});
const rules = [
  { database: '*', hours: 48, keepCount: 1 },
  { database: 'long', hours: 200, keepCount: 3 },
];

test.each([
  ['none', [], 'd', []],
  ['young ones', [1, 2, 47], 'd', []],
  ['old ones go', [1, 49, 60], 'd', [49, 60]],
  ['the newest stays, however old', [500, 600], 'd', [600]],
  ['a rule of its own', [150, 300, 400, 500], 'long', [500]],
] as const)('%s', (_, ages, database, gone) => {
  const backups = ages.map((hours) => backup(hours));
  expect(expiredBackups(backups, database, rules, now)).toEqual(gone.map(name));
});

test('what cannot be read counts for nothing, and goes when its name is old enough', () => {
  const backups = [backup(1, false), backup(60, false), backup(100), backup(120)];
  expect(expiredBackups(backups, 'd', rules, now)).toEqual([name(120), name(60)]);
  expect(expiredBackups([{ fileName: 'x.varvebackup', createdAtMs: undefined }], 'd', rules, now)).toEqual(
    [],
  );
});

test('without any rule two days are kept', () => {
  expect(expiredBackups([backup(1), backup(47), backup(49)], 'd', [], now)).toEqual([name(49)]);
});

test('whatever there is and whatever the rule: the newest readable one stays, and no young one goes', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: 0, max: 2000 }), { maxLength: 30 }),
      fc.integer({ min: 0, max: 500 }),
      fc.integer({ min: 1, max: 5 }),
      (ages, hours, keepCount) => {
        const gone = expiredBackups(
          ages.map((age) => backup(age)),
          'd',
          [{ database: 'd', hours, keepCount }],
          now,
        );
        const left = ages.filter((age) => !gone.includes(name(age)));
        expect(left.length).toBeGreaterThanOrEqual(Math.min(keepCount, ages.length));
        expect(ages.length === 0 || left.includes(Math.min(...ages))).toBe(true);
        for (const age of ages.filter((one) => !left.includes(one))) expect(age).toBeGreaterThan(hours);
      },
    ),
  );
});
