import { expect, test } from 'vitest';
import { ranges, shellWord, summaryLines, type SummaryPlaces } from './summary.ts';
import type { SummaryData } from './summary-data.ts';
import { textTable } from './text-table.ts';

const places: SummaryPlaces = {
  folder: '/data/my system',
  passfile: '/data/my system/pgpass',
  coordinatorUrl: 'http://127.0.0.1:7000',
  nodes: [
    { name: 'an1', kind: 'access', pgPort: 7001, http: 'http://127.0.0.1:7002' },
    { name: 'dn1', kind: 'data', pgPort: 7004, http: 'http://127.0.0.1:7005' },
  ],
};

const data: SummaryData = {
  dataNodes: [
    { name: 'dn1', address: '127.0.0.1:7004', available: true },
    { name: 'dn2', address: '127.0.0.1:7007', available: false },
  ],
  shards: [{ table: 'public.host_metrics', node: 'dn1', shards: [0, 1, 2, 5] }],
  rows: [{ node: 'dn1', rows: 120, newest: '2026-01-01 00:00:00+00' }],
  latest: [
    { metric: 'load', labels: '{"minutes": "1"}', value: 0.1250001 },
    { metric: 'memory_bytes', labels: '{"kind": "available"}', value: 2 ** 31 },
  ],
  error: null,
};

test('the summary says how to connect, where the shards are, and what a live query finds', () => {
  expect(summaryLines(places, data)).toEqual([
    '',
    'Varve is running in /data/my system. Ctrl-C stops it; the next start carries on.',
    '',
    "  SQL          PGPASSFILE='/data/my system/pgpass' psql postgresql://postgres@127.0.0.1:7001/varve",
    "               npx varve sql --dir '/data/my system'",
    '  dashboard    http://127.0.0.1:7002/',
    '  coordinator  http://127.0.0.1:7000',
    '  dn1          PostgreSQL on port 7004, http://127.0.0.1:7005',
    '',
    ' table               | data node | shards | which',
    '---------------------+-----------+--------+-------',
    ' public.host_metrics | dn1       |      4 | 0-2 5',
    'not available: dn2',
    '',
    'public.host_metrics, last 60 s: 120 rows',
    ' data node | rows | newest',
    '-----------+------+------------------------',
    ' dn1       |  120 | 2026-01-01 00:00:00+00',
    '',
    'load 1 0.13, memory_bytes available 2.0 GiB',
    '',
  ]);
});

test('a database that is away is part of the summary', () => {
  const lines = summaryLines(places, { dataNodes: [], shards: [], rows: [], latest: [], error: 'no answer' });
  expect(lines.slice(-3)).toEqual(['No data nodes yet.', 'the live query failed: no answer', '']);
});

test.each([
  [[], ''],
  [[3], '3'],
  [[2, 1, 0, 7, 9, 8], '0-2 7-9'],
])('shard numbers are shown as ranges: %j', (numbers, expected) => {
  expect(ranges(numbers)).toBe(expected);
});

test.each([
  ['/a/b-c_d.e', '/a/b-c_d.e'],
  ['/a b', "'/a b'"],
  ["/it's", String.raw`'/it'\''s'`],
  ['/$HOME', "'/$HOME'"],
])('a path can be pasted into a shell: %s', (path, expected) => {
  expect(shellWord(path)).toBe(expected);
});

test('a table without rows has its header', () => {
  expect(textTable(['a', 'bc'], [])).toEqual([' a | bc', '---+----']);
});
