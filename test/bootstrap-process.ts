import { readFile } from 'node:fs/promises';
import { GroupContext, type BootstrapOptions } from '../src/cluster/bootstrap/context.ts';
import { groupBootstrapSteps } from '../src/cluster/bootstrap/group-steps.ts';
import { controlSchemaPart, groupSchemaPart } from '../src/cluster/bootstrap/parts.ts';
import { repeatBootstrap } from '../src/cluster/bootstrap/repeat.ts';
import { GroupKeys } from '../src/cluster/group-keys.ts';
import { openCoordinator, type CoordinatorOptions } from '../src/coordination/open-coordinator.ts';
import { systemClock } from '../src/core/clock.ts';
import { Connection, type Endpoint } from '../src/postgres/connection.ts';
import { RunEvents } from '../src/run/events.ts';
import { runSteps } from '../src/run/run.ts';

/** A node's bootstrap in a process of its own, to be killed. Its one argument is a file with what it needs. */
export interface BootstrapProcessOptions {
  readonly cluster: string;
  readonly coordinator: CoordinatorOptions;
  readonly admin: Endpoint;
  readonly bootstrap: BootstrapOptions;
}

/** Each step as it begins, then that it is done; the process stays. */
export type BootstrapMessage =
  | { readonly step: string }
  | { readonly done: true }
  | { readonly error: string };

const options = JSON.parse(await readFile(process.argv[2] ?? '', 'utf8')) as BootstrapProcessOptions;
const log = { info: () => {}, warn: () => {}, error: () => {} };
const coordinator = openCoordinator(options.coordinator, { clock: systemClock, log });
const keys = new GroupKeys(coordinator, options.cluster);
const tell = (message: BootstrapMessage): void => void process.send?.(message);
const events = new RunEvents();
events.subscribe(({ step, state }) => {
  if (step !== '' && (state === 'checking' || state === 'running')) tell({ step: `${step} ${state}` });
});
const context = new GroupContext(
  {
    clock: systemClock,
    log,
    keys,
    withAdmin: async (database, work) => {
      await using connection = await Connection.open(
        { ...options.admin, database },
        { connectTimeoutMs: 5_000 },
      );
      return await work(connection);
    },
    groupSchema: groupSchemaPart,
    controlSchema: controlSchemaPart(
      { cluster: options.cluster, kind: options.bootstrap.kind, replicated: true },
      'test',
    ),
    master: {
      claim: async (reason) => {
        const { node } = options.bootstrap;
        const since = new Date().toISOString();
        await keys.master.update((present) =>
          present ? undefined : { node, term: '1', since, state: 'active', reason },
        );
      },
    },
  },
  options.bootstrap,
);
const { signal } = new AbortController();
// Without its parent it has nobody to end it.
process.on('disconnect', () => process.exit(1));
try {
  await repeatBootstrap(context, signal, () =>
    runSteps(
      { clock: systemClock, events },
      { run: 'bootstrap', node: options.bootstrap.node, steps: groupBootstrapSteps(), context, signal },
    ),
  );
  tell({ done: true });
} catch (error) {
  tell({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
}
