import { Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { namespaceOptions } from '../storage/engine/namespace-options.ts';
import type {
  BootstrapSourceStatus,
  EngineStatus,
  NamespaceStatus,
} from '../storage/engine/storage-engine.ts';
import { storageMetrics } from './storage-metrics.ts';
import {
  recoveryText,
  storageStatus,
  systemNamespaces,
  systemShards,
  type StorageStatus,
} from './storage-status.ts';

const HOUR_NS = 3_600_000_000_000n;

function namespace(name: string, more: Partial<NamespaceStatus> = {}): NamespaceStatus {
  return {
    options: namespaceOptions({ name }),
    series: 3,
    samplesWritten: 7n,
    rejected: { tooOld: 1, tooNew: 0, invalidLabels: 0, seriesLimit: 0 },
    openBlocks: [{ blockStartNs: HOUR_NS, samples: 5, cold: false }],
    filesets: 2,
    filesetBytes: 2048,
    quarantined: 0,
    tombstones: 0,
    cache: { bytes: 0, hits: 0, misses: 0 },
    shards: [
      { shard: 0, state: 'bootstrapped' },
      { shard: 1, state: 'bootstrapping' },
    ],
    ...more,
  };
}

const source = (name: string, fulfilledBlocks: number, detail: string): BootstrapSourceStatus => ({
  source: name,
  pass: 'memory',
  namespace: 'a',
  requestedBlocks: 10,
  fulfilledBlocks,
  detail,
  tookMs: 5,
});

function engine(more: Partial<EngineStatus> = {}): EngineStatus {
  return {
    state: 'ready',
    shardCount: 2,
    namespaces: [namespace('a')],
    bootstrapRuns: [
      {
        attempt: 1,
        reason: 'start',
        shardCount: 2,
        openShards: 2,
        state: 'done',
        startedAtNs: 0n,
        tookMs: 120,
        sources: [
          source('fs', 2, '2 filesets'),
          source('commitlog', 3, '5 samples from the log'),
          source('uninitialized', 0, 'none'),
        ],
        unfulfilled: [],
        error: undefined,
      },
    ],
    memory: { usedBytes: 1, limitBytes: 2, refusing: false },
    log: { mode: 'behind', state: 'writing', reason: undefined, bytes: 9 },
    snapshots: { lastAtNs: 1_500_000_000n, failures: 0, lastFailure: undefined },
    disk: { freeBytes: 3, full: false },
    ...more,
  };
}

const shown = (status: EngineStatus | undefined, reason?: string): StorageStatus =>
  storageStatus({ engine: status, reason, problems: new Map([['a', 'refused']]), placement: null });

test('an engine says what it has, and which source its data came from', () => {
  const status = shown(engine());
  expect(JSON.parse(JSON.stringify(status))).toEqual(status);
  expect(status).toMatchObject({
    state: 'ready',
    reason: null,
    lastSnapshot: '1970-01-01T00:00:01.5Z',
    bootstrap: { attempts: 1, state: 'done', tookMs: 120 },
  });
  expect(status.namespaces[0]).toMatchObject({
    name: 'a',
    openSamples: 5,
    openBlocks: [{ start: '1970-01-01T01:00:00Z', samples: 5, cold: false }],
    problem: 'refused',
    shards: [
      { id: 0, state: 'bootstrapped', source: 'fs+commitlog' },
      { id: 1, state: 'bootstrapping', source: null },
    ],
  });
});

test('an engine that is not open says why', () => {
  expect(shown(undefined, 'the folder is in use')).toMatchObject({
    state: 'closed',
    reason: 'the folder is in use',
    namespaces: [],
    bootstrap: null,
  });
});

test('nodes are joined by namespace and by shard', () => {
  const nodes = [
    { name: 'dn1', storage: shown(engine()) },
    { name: 'dn2', storage: shown(engine({ namespaces: [namespace('b'), namespace('a', { series: 9 })] })) },
    { name: 'an1', storage: null },
  ];
  expect(
    systemNamespaces(nodes).map(({ name, nodes: on }) => [
      name,
      on.map(({ node, series }) => [node, series]),
    ]),
  ).toEqual([
    [
      'a',
      [
        ['dn1', 3],
        ['dn2', 9],
      ],
    ],
    ['b', [['dn2', 3]]],
  ]);
  expect(
    systemShards(nodes).map(({ id, instances }) => [
      id,
      instances.map(({ node, namespace: of }) => `${node} ${of}`),
    ]),
  ).toEqual([
    [0, ['dn1 a', 'dn2 b', 'dn2 a']],
    [1, ['dn1 a', 'dn2 b', 'dn2 a']],
  ]);
});

test('a start tells what it found and where, and nothing when there was nothing', () => {
  expect(recoveryText(engine())).toBe(
    'metrics are there again in 120 ms: 2 filesets (2.0 KiB), 5 samples of open blocks; fs (a): 2 filesets; commitlog (a): 5 samples from the log',
  );
  expect(recoveryText(engine({ namespaces: [namespace('a', { filesets: 0, openBlocks: [] })] }))).toBe('');
  expect(recoveryText(engine({ bootstrapRuns: [] }))).toBe('');
});

test('metrics are those of now: a namespace that is gone has none, and neither has an engine that is closed', async () => {
  let status: EngineStatus | undefined = engine({ namespaces: [namespace('a'), namespace('b')] });
  const registry = new Registry();
  storageMetrics(registry, () => status);
  const first = await registry.metrics();
  expect(first).toContain('varve_storage_namespace_series{namespace="b"} 3');
  expect(first).toContain('varve_storage_namespace_rejected_samples_total{namespace="a",reason="tooOld"} 1');
  expect(first).toContain('varve_storage_ready 1');
  expect(first).toContain('varve_storage_last_snapshot_timestamp_seconds 1.5');
  status = engine();
  expect(await registry.metrics()).not.toContain('namespace="b"');
  status = undefined;
  const last = await registry.metrics();
  expect(last).not.toContain('namespace="a"');
  expect(last).toContain('varve_storage_ready 0');
});
