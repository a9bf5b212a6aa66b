import { describe, expect, it } from 'vitest';
import { judgeLeftovers, type MultiNodeTraces } from './leftovers.ts';

const OWN = '00000000-0000-4000-8000-00000000000a';
const OTHER = '00000000-0000-4000-8000-00000000000b';

const none: MultiNodeTraces = {
  database: 'app',
  uuid: OWN,
  distUuid: null,
  label: null,
  dataNodes: [],
  distributedHypertables: [],
  memberHypertables: [],
  prepared: [],
  sessionCount: 0,
};

function found(traces: Partial<MultiNodeTraces>): [string, string, boolean][] {
  return judgeLeftovers({ ...none, ...traces }).map(({ kind, name, removable }) => [kind, name, removable]);
}

it('finds nothing where there is nothing', () => {
  expect(found({})).toEqual([]);
  expect(found({ uuid: null })).toEqual([]);
});

it.each([
  ['an access node', OWN, 'The mark of an access node'],
  ['a data node', OTHER, `The mark of a data node, of the access node with uuid ${OTHER}`],
])('a mark alone of %s is a leftover, and says what it was', (_what, distUuid, explanation) => {
  const [mark, ...more] = judgeLeftovers({ ...none, distUuid });
  expect(more).toEqual([]);
  expect(mark).toMatchObject({ kind: 'dist-uuid', name: distUuid, removable: true });
  expect(mark?.explanation).toContain(explanation);
  expect(mark?.explanation).toContain('2.14');
});

it('removing the mark of a data node comes with a warning about its access node', () => {
  expect(judgeLeftovers({ ...none, distUuid: OTHER })[0]?.remedy).toContain(
    'unless that access node is alive',
  );
  expect(judgeLeftovers({ ...none, distUuid: OWN })[0]?.remedy).not.toContain('alive');
});

it('a label without a mark, as deleting the last data node leaves it, is a leftover', () => {
  expect(found({ label: `dist_uuid:${OWN}` })).toEqual([['security-label', `dist_uuid:${OWN}`, true]]);
});

describe('a mark under which something lives is no leftover', () => {
  it.each<[string, Partial<MultiNodeTraces>, [string, string, boolean]]>([
    ['data nodes', { dataNodes: ['dn1'] }, ['data-node', 'dn1', false]],
    [
      'distributed hypertables',
      { distributedHypertables: ['public.t'] },
      ['distributed-hypertable', 'public.t', false],
    ],
    ['their parts', { memberHypertables: ['public.t'] }, ['member-hypertable', 'public.t', false]],
    ['transactions in doubt', { prepared: ['ts-1-2-3-4'] }, ['prepared-transaction', 'ts-1-2-3-4', false]],
    ['sessions of an access node', { sessionCount: 2 }, ['access-node-session', '2 sessions', false]],
  ])('%s', (_what, traces, expected) => {
    const label = `dist_uuid:${OWN}`;
    expect(found({ distUuid: OWN, label, ...traces })).toEqual([
      ['dist-uuid', OWN, false],
      ['security-label', label, false],
      expected,
    ]);
  });

  it('names the first of them', () => {
    const dataNodes = ['dn1', 'dn2', 'dn3', 'dn4', 'dn5'];
    expect(judgeLeftovers({ ...none, distUuid: OWN, dataNodes })[0]?.remedy).toBe(
      'It is in use and stays: data node dn1, data node dn2, data node dn3 and 2 more.',
    );
  });
});
