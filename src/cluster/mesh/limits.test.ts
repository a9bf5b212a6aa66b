import { expect, test } from 'vitest';
import { groupSettingsFor, requiredLimits, tooLow } from './limits.ts';

const observedOf = (major: number, settings: Readonly<Record<string, string>>) => ({
  major,
  walLevel: settings['wal_level'] ?? 'replica',
  settings: Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, Number(value)])),
});

test.each([
  [16, { members: 3, databases: 2 }],
  [17, { members: 2, databases: 40 }],
  [18, { members: 9, databases: 12 }],
])('the settings that are made for a group of PostgreSQL %i are enough for it', (major, scale) => {
  expect(tooLow(observedOf(major, groupSettingsFor(major, scale)), requiredLimits(scale))).toEqual([]);
});

test('PostgreSQL’s own defaults are too low, and each setting is told', () => {
  const defaults = {
    max_replication_slots: '10',
    max_wal_senders: '10',
    max_logical_replication_workers: '4',
    max_worker_processes: '8',
    max_active_replication_origins: '10',
  };
  expect(tooLow(observedOf(18, defaults), requiredLimits({ members: 3, databases: 2 }))).toEqual([
    'wal_level is replica, must be logical',
    'max_logical_replication_workers is 4, must be at least 8',
    'max_worker_processes is 8, must be at least 16',
  ]);
});

test('a server before 18 counts origins among its slots', () => {
  const settings = groupSettingsFor(17, { members: 3, databases: 2 });
  expect(settings).not.toHaveProperty('max_active_replication_origins');
  expect(groupSettingsFor(18, { members: 3, databases: 2 })).toHaveProperty('max_active_replication_origins');
});

test('a single server needs slots only for filling gaps', () => {
  expect(requiredLimits({ members: 1, databases: 2 })).toMatchObject({
    max_replication_slots: 2,
    max_wal_senders: 0,
  });
});
