import { describe, expect, test } from 'vitest';
import { applyEvent, emptyBoard } from '../run/board.ts';
import type { RunEvent } from '../run/step.ts';
import { currentStep, runStatuses, systemStatus, type AskedNode, type NodeStatus } from './node-status.ts';
import { statusLines } from './status-lines.ts';
import { storageStatus } from './storage-status.ts';

const status = (name: string, more: Partial<NodeStatus> = {}): NodeStatus => ({
  name,
  kind: 'data',
  role: null,
  term: null,
  state: 'ready',
  step: null,
  waitingFor: null,
  reasons: [],
  pid: 7,
  startedAt: '2026-01-01T00:00:00.000Z',
  postgres: { version: '18.4', host: '127.0.0.1', port: 5433, up: true, pid: 8, restartCount: 0 },
  runs: [],
  dataNode: null,
  ...more,
});

const asked = (name: string, answer: AskedNode['answer']): AskedNode => ({
  name,
  kind: 'data',
  http: 'http://127.0.0.1:1',
  pid: 7,
  answer,
});

const event = (step: string, state: RunEvent['state'], more: Partial<RunEvent> = {}): RunEvent => ({
  run: 'bring-up',
  node: 'dn1',
  step,
  state,
  atMs: 0,
  ...more,
});

describe('the status of a system', () => {
  test('shows a node that does not answer, with the reason', () => {
    const document = systemStatus([
      asked('dn1', { status: status('dn1') }),
      asked('dn2', { unreachable: 'process 7 does not answer' }),
    ]);
    expect(
      document.nodes.map(({ name, state, reasons, postgres }) => [name, state, reasons, postgres?.port]),
    ).toEqual([
      ['dn1', 'ready', [], 5433],
      ['dn2', 'unreachable', ['process 7 does not answer'], undefined],
    ]);
    expect(document.nodes[0]).not.toHaveProperty('runs');
  });

  test('a data node that several access nodes have is one, as the write master sees it', () => {
    const sees = (available: boolean): NodeStatus['dataNode'] => ({
      dataNodes: [{ accessDatabase: 'varve', name: 'dn1', host: 'h', port: 1, database: 'd', available }],
    });
    const document = systemStatus([
      asked('an1', { status: status('an1', { role: 'member', dataNode: sees(false) }) }),
      asked('an2', { status: status('an2', { role: 'write master', dataNode: sees(true) }) }),
    ]);
    expect(document.dataNodes).toMatchObject([{ name: 'dn1', available: true }]);
    expect(document.dataNodes).toHaveLength(1);
    expect(statusLines(document).join('\n')).toMatch(/an2 .*data, write master .*\n\n1 data node added/s);
  });

  test('joins the lists of all nodes', () => {
    const layer = { dataNodes: [{ name: 'dn1' }], other: 1 };
    const document = systemStatus([
      asked('an1', {
        status: status('an1', {
          dataNode: layer,
          runs: runStatuses(applyEvent(emptyBoard, event('', 'running'))),
        }),
      }),
      asked('an2', { status: status('an2', { dataNode: { dataNodes: 'no list' } }) }),
    ]);
    expect(document).toMatchObject({ dataNodes: [{ name: 'dn1' }], shards: [], namespaces: [] });
    expect(document.runs).toHaveLength(1);
  });

  test('for people has a line a node, and one for each run that goes on or failed', () => {
    const board = [
      event('', 'running'),
      event('copy', 'running', { done: 1, total: 4, unit: 'files', waitingFor: 'dn3' }),
    ].reduce(applyEvent, emptyBoard);
    const runs = runStatuses(board);
    const document = systemStatus([
      asked('dn1', { status: status('dn1', { state: 'starting', ...currentStep(runs), runs }) }),
      asked('dn2', { unreachable: 'the system is not running' }),
    ]);
    const lines = statusLines(document);
    expect(lines[2]).toMatch(/dn1 .* starting .* 18\.4 on 127\.0\.0\.1:5433 .* copy: waiting for dn3$/);
    expect(lines[3]).toMatch(/dn2 .* unreachable .* the system is not running$/);
    expect(lines.at(-1)).toBe('dn1: bring-up running at copy; 1/4 files · 25%; dn3');
  });
});

test('for people a node whose storage engine is not open says so', () => {
  const storage = storageStatus({
    engine: undefined,
    reason: 'the disk is away',
    problems: new Map(),
    placement: null,
  });
  const lines = statusLines(systemStatus([asked('dn1', { status: status('dn1', { storage }) })]));
  expect(lines[2]).toMatch(/dn1 .* ready .* metrics: the disk is away$/);
});

test('for people the last runs in which a node filled its shards are told', () => {
  const run = (attempt: number, shardCount: number, openShards: number) => ({
    attempt,
    reason: 'topology' as const,
    shardCount,
    openShards,
    state: 'done' as const,
    startedAtNs: BigInt(attempt) * 1_000_000_000n,
    tookMs: 1234,
    sources: [],
    unfulfilled: [],
    error: undefined,
  });
  const runs = [run(1, 0, 0), run(2, 256, 256), run(3, 128, 0), run(4, 192, 64), run(5, 256, 64)];
  const storage = storageStatus({
    engine: {
      state: 'ready',
      shardCount: 256,
      namespaces: [],
      bootstrapRuns: runs,
      memory: { usedBytes: 1, limitBytes: 2, refusing: false },
      log: { mode: 'behind', state: 'writing', reason: undefined, bytes: 9 },
      snapshots: { lastAtNs: undefined, failures: 0, lastFailure: undefined },
      disk: { freeBytes: 3, full: false },
    },
    reason: undefined,
    problems: new Map(),
    placement: null,
  });
  const lines = statusLines(systemStatus([asked('dn1', { status: status('dn1', { storage }) })]));
  const first = lines.findIndex((line) => line.includes('bootstrap of'));
  expect(lines.slice(first + 2, first + 6).map((line) => line.split('|').map((cell) => cell.trim()))).toEqual(
    [
      ['dn1', expect.stringMatching(/^1970-/), 'topology', '256', '256', 'done', '1.2 s'],
      ['dn1', expect.stringMatching(/^1970-/), 'topology', '128', '0', 'done', '1.2 s'],
      ['dn1', expect.stringMatching(/^1970-/), 'topology', '192', '64', 'done', '1.2 s'],
      ['dn1', expect.stringMatching(/^1970-/), 'topology', '256', '64', 'done', '1.2 s'],
    ],
  );
});

test('for people the placement has a row for each instance, as the node that knows most says', () => {
  const instance = (node: string, initializing: number, available: number, leaving: number) => ({
    node,
    isolationGroup: node,
    weight: 1,
    endpoint: `http://${node}:1`,
    isLeaving: available === 0,
    shards: { initializing, available, leaving },
  });
  const knows = (version: number, instances: ReturnType<typeof instance>[]) => ({
    status: status('dn1', {
      storage: storageStatus({
        engine: undefined,
        reason: undefined,
        problems: new Map(),
        placement: { version, replicaFactor: 2, shardCount: 32, instances, problem: null },
      }),
    }),
  });
  const document = systemStatus([
    asked('dn1', knows(7, [instance('dn1', 0, 32, 0)])),
    asked('dn2', knows(9, [instance('dn1', 4, 28, 1), instance('dn4', 0, 0, 5)])),
  ]);
  const lines = statusLines(document).map((line) => line.trim());
  const first = lines.findIndex((line) => line.startsWith('instance'));
  expect(lines.slice(first)).toEqual([
    'instance | available | initialising | leaving |',
    expect.stringMatching(/^-+/),
    'dn1      |        28 |            4 |       1 |',
    'dn4      |         0 |            0 |       5 | is being taken out',
    'placement 9: 32 shards, 2 replicas of each',
  ]);
});

test('the current step is that of the newest run that goes on', () => {
  const later = { run: 'later' };
  const board = [
    event('', 'running'),
    event('a', 'running'),
    event('', 'running', later),
    event('b', 'running', later),
  ];
  const at = (events: RunEvent[]) => currentStep(runStatuses(events.reduce(applyEvent, emptyBoard))).step;
  expect(at(board)).toBe('b');
  expect(at([...board, event('', 'done', later)])).toBe('a');
  expect(at([...board, event('', 'done', later), event('', 'failed')])).toBeNull();
});
