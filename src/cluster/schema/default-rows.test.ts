import { expect, test } from 'vitest';
import { defaultSchedules, type GroupShape } from './default-rows.ts';

const names = (shape: Omit<GroupShape, 'cluster'>): string[] =>
  defaultSchedules({ cluster: 'c', ...shape }).map(
    ({ action, nodeType, every }) => `${action} ${nodeType} ${every}`,
  );

test('a manager backs up and reconciles', () => {
  expect(names({ kind: 'manager', replicated: true })).toEqual([
    'Vacuum each 5 minutes',
    'MeasureDatabases each 5 minutes',
    'DeleteBackupHistory write 1 hour',
    'BackupDatabase read 1 hour',
    'BackupAllDatabases write 1 hour',
    'EnforceFileRetention each 1 hour',
    'ClearStuckTasks write 1 hour',
    'ReconcileAvailableDatabases read 1 minute',
    'ReconcileAllDatabases read 5 minutes',
  ]);
});

test('a service group makes databases and takes them away', () => {
  expect(names({ kind: 'service', replicated: true })).toEqual([
    'Vacuum each 5 minutes',
    'MeasureDatabases each 5 minutes',
    'DeleteBackupHistory write 1 hour',
    'BackupDatabase read 1 hour',
    'EnforceFileRetention each 1 hour',
    'ClearStuckTasks write 1 hour',
    'ScheduleNewDatabaseBackups write 1 minute',
    'PrecreateDatabases write 1 minute',
    'DecommissionDatabases write 15 minutes',
    'Reconfigure each 1 hour',
  ]);
});

test('in a group of one nothing waits for a read node', () => {
  for (const kind of ['manager', 'service'] as const) {
    expect(names({ kind, replicated: false }).filter((name) => / read /.test(name))).toEqual([]);
  }
});
