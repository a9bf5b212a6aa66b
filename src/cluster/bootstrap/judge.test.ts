import { expect, test } from 'vitest';
import type { MemberRecord } from '../group-keys.ts';
import { enoughMembers } from './group-steps.ts';
import { judgeIdentity, judgeShape } from './identity.ts';
import type { Roster } from './members.ts';
import { checkClocks } from './prepare-server.ts';
import { enoughNodes } from './register.ts';
import { isMine } from './requests.ts';

const A = '00000000-0000-4000-8000-00000000000a';
const B = '00000000-0000-4000-8000-00000000000b';
const facts = (local: string | undefined, group: string | undefined, node = 'n1') => ({
  cluster: 'main',
  node,
  local: new Map(local === undefined ? [] : [['rdpg', { groupUuid: local, node: 'n1' }]]),
  group: group === undefined ? undefined : { uuid: group },
});

test.each([
  ['a new server and no group', facts(undefined, undefined), undefined],
  ['a new server and a group', facts(undefined, A), undefined],
  ['a member of the group', facts(A, A), undefined],
  ['a member of another group', facts(B, A), 'GROUP_FOREIGN'],
  ['a member whose group is forgotten', facts(A, undefined), 'GROUP_FORGOTTEN'],
  ['the folder of another member', facts(A, A, 'n2'), 'GROUP_FOREIGN'],
])('identity: %s', (_, given, code) => {
  if (code === undefined) judgeIdentity(given);
  else expect(() => judgeIdentity(given)).toThrow(expect.objectContaining({ code }) as Error);
});

test.each([
  [{ kind: 'manager', accessDatabase: 'varve' }, true],
  [{ kind: 'manager', accessDatabase: 'other' }, false],
  [{ kind: 'service', accessDatabase: undefined }, false],
] as const)('shape: a node for %o joins a manager group with varve: %s', (shape, fits) => {
  const judge = () =>
    judgeShape('main', { kind: 'manager', accessDatabase: 'varve' }, { ...shape, node: 'n1' });
  if (fits) judge();
  else expect(judge).toThrow(expect.objectContaining({ code: 'GROUP_SHAPE' }) as Error);
});

test.each([
  [10_000, true],
  [12_050, true],
  [12_051, false],
  [7_999, false],
])('clocks: a server at %i is near enough to 10,000 to 10,050: %s', (nowMs, near) => {
  const check = () =>
    checkClocks({ name: 'n2', nowMs }, { beforeMs: 10_000, afterMs: 10_050, maxSkewMs: 2000 });
  if (near) check();
  else expect(check).toThrow(expect.objectContaining({ code: 'GROUP_CLOCKS_APART' }) as Error);
});

const record = (
  node: string,
  state: MemberRecord['state'],
): [string, { value: MemberRecord; version: bigint }] => [
  node,
  {
    version: 1n,
    value: {
      node,
      nodeUuid: A,
      host: 'h',
      port: 1,
      state,
      tags: {},
      databases: [],
      joinedAt: '2026-01-01T00:00:00Z',
    },
  },
];
const roster = (states: Record<string, MemberRecord['state']>, alive: string[]): Roster => ({
  records: new Map(Object.entries(states).map(([node, state]) => record(node, state))),
  alive: new Set(alive),
});

test('the wait for nodes names who is missing', () => {
  const seen = roster({ n1: 'joining', n2: 'joining' }, ['n1']);
  expect(enoughNodes(seen, { size: 3, expectedNodes: undefined })).toEqual({
    met: false,
    waitingFor: 'n2 (registered, gives no sign of life), 1 more of 3 (registered: n1)',
  });
  expect(enoughNodes(seen, { size: 3, expectedNodes: ['n1', 'n2', 'n3'] })).toEqual({
    met: false,
    waitingFor: 'n2, n3',
  });
  expect(enoughNodes(roster({}, ['n1', 'n2', 'n3']), { size: 3, expectedNodes: undefined }).met).toBe(true);
});

test('the wait for members counts those who are in and alive', () => {
  expect(enoughMembers(roster({ n1: 'member', n2: 'joining', n3: 'member' }, ['n1', 'n2']), 3)).toEqual({
    met: false,
    waitingFor: 'n2 (joining), n3 (gives no sign of life)',
  });
  expect(enoughMembers(roster({ n1: 'member' }, ['n1']), 2)).toEqual({
    met: false,
    waitingFor: '1 more of 2 to join',
  });
  expect(enoughMembers(roster({ n1: 'member', n2: 'member' }, ['n1', 'n2']), 2).met).toBe(true);
});

test.each([
  ['the first who lives removes another', 'n1', { kind: 'leave', node: 'n3' }, true],
  ['the second leaves it to the first', 'n2', { kind: 'leave', node: 'n3' }, false],
  ['who leaves is not the one to do it', 'n2', { kind: 'leave', node: 'n1' }, true],
  ['content is dropped by its own node', 'n3', { kind: 'reinit', node: 'n3' }, true],
  ['and by nobody else', 'n1', { kind: 'reinit', node: 'n3' }, false],
  [
    'who works on it is left alone',
    'n1',
    { kind: 'leave', node: 'n3', state: 'running', worker: 'n2' },
    false,
  ],
  ['unless it died', 'n1', { kind: 'leave', node: 'n3', state: 'running', worker: 'n9' }, true],
  ['what is done is done', 'n1', { kind: 'leave', node: 'n3', state: 'done' }, false],
] as const)('requests: %s', (_, node, request, expected) => {
  const whole = { id: 'x', arguments: {}, by: 'test', at: '2026-01-01T00:00:00Z', state: 'asked' as const };
  const alive = new Set(['n0', 'n1', 'n2', 'n3']);
  // n0 joins.
  const members = new Set(['n1', 'n2', 'n3', 'n4']);
  expect(isMine(node, { ...whole, ...request }, { alive, members })).toBe(expected);
});
