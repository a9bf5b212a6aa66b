import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';
import type { RunEvents } from '../run/events.ts';
import type { NodeStatus } from './node-status.ts';

/** The figures of one node for `/metrics`: the process, its runs and steps, its PostgreSQL. */
export function nodeMetrics(events: RunEvents, status: () => NodeStatus): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const steps = new Counter({
    name: 'varve_steps_total',
    help: 'Steps of bootstrap runs that ended, by how.',
    labelNames: ['run', 'step', 'state'],
    registers,
  });
  const runs = new Counter({
    name: 'varve_runs_total',
    help: 'Bootstrap runs that ended, by how.',
    labelNames: ['run', 'state'],
    registers,
  });
  events.subscribe(({ run, step, state }) => {
    if (!['done', 'skipped', 'failed', 'cancelled'].includes(state)) return;
    // Runs that carry an id in their name would make a series each.
    const kind = run.replace(/[\s:/#].*$/, '');
    if (step === '') runs.inc({ run: kind, state });
    else steps.inc({ run: kind, step, state });
  });
  const gauge = (name: string, help: string, read: (status: NodeStatus) => number): void => {
    const made: Gauge = new Gauge({ name, help, registers: [], collect: () => made.set(read(status())) });
    registry.registerMetric(made);
  };
  gauge('varve_ready', '1 when the node is ready to serve.', ({ state }) => (state === 'ready' ? 1 : 0));
  gauge('varve_postgres_up', '1 while the PostgreSQL server of the node runs.', ({ postgres }) =>
    postgres?.up ? 1 : 0,
  );
  gauge('varve_postgres_restarts', 'How often the node has restarted its PostgreSQL.', ({ postgres }) =>
    postgres === null ? 0 : postgres.restartCount,
  );
  return registry;
}
