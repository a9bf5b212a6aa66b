import { Gauge, type Registry } from 'prom-client';
import type { GroupStatus } from './group-control.ts';

/** The gauges of one scrape ask once. */
const FRESH_MS = 500;

/** What of a group is worth an alarm, asked of this member when its metrics are. */
export function registerGroupMetrics(registry: Registry, status: () => Promise<GroupStatus>): void {
  let asked: { readonly atMs: number; readonly answer: Promise<GroupStatus | undefined> } | undefined;
  const now = (): Promise<GroupStatus | undefined> => {
    if (!asked || performance.now() - asked.atMs > FRESH_MS) {
      asked = { atMs: performance.now(), answer: status().catch(() => undefined) };
    }
    return asked.answer;
  };
  const gauge = (
    name: string,
    help: string,
    labelNames: readonly string[],
    fill: (self: Gauge, seen: GroupStatus) => void,
  ): void => {
    const self: Gauge = new Gauge({
      name: `varve_group_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect: async () => {
        self.reset();
        const seen = await now();
        if (seen) fill(self, seen);
      },
    });
  };
  gauge('has_write_master', '1 while the group has a write master.', [], (self, { master }) =>
    self.set(master === null ? 0 : 1),
  );
  gauge('term', 'Term of the write master.', [], (self, { term }) => self.set(Number(term ?? 0)));
  gauge(
    'member_alive',
    '1 for members that give a sign of life.',
    ['member', 'state'],
    (self, { members }) => {
      for (const { node, state, alive } of members) self.set({ member: node, state }, alive ? 1 : 0);
    },
  );
  const edge = ['from', 'database'];
  gauge(
    'replication_lag_bytes',
    'Written on another member and not confirmed here.',
    edge,
    (self, { edges }) => {
      for (const { from, database, lagBytes } of edges) {
        if (lagBytes !== null) self.set({ from, database }, lagBytes);
      }
    },
  );
  gauge(
    'conflicts',
    'Conflicts and errors of replication, by kind.',
    [...edge, 'kind'],
    (self, { edges }) => {
      for (const { from, database, conflicts } of edges) {
        for (const [kind, count] of Object.entries(conflicts)) self.set({ from, database, kind }, count);
      }
    },
  );
}
