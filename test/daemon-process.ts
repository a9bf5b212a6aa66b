import { readFile } from 'node:fs/promises';
import { systemClock } from '../src/core/clock.ts';
import { DataNodeService, type DataNodeServiceOptions } from '../src/data-node/service.ts';
import { Connection, type Endpoint } from '../src/postgres/connection.ts';
import { RunEvents } from '../src/run/events.ts';

/** A daemon in a process of its own, to be killed. Its one argument is a file with what it needs. */
export interface DaemonProcessOptions {
  readonly admin: Endpoint;
  readonly service: DataNodeServiceOptions;
}

const { admin, service } = JSON.parse(await readFile(process.argv[2] ?? '', 'utf8')) as DaemonProcessOptions;
const quiet = { info: () => {}, warn: () => {}, error: (facts: object) => console.error(facts) };
const daemon = await DataNodeService.start(
  {
    clock: systemClock,
    events: new RunEvents(),
    log: quiet,
    withAdmin: async (database, work) => {
      await using connection = await Connection.open({ ...admin, database }, { connectTimeoutMs: 5_000 });
      return await work(connection);
    },
  },
  service,
);
process.send?.({ port: daemon.addressPort, secret: daemon.secret });
// Without its parent it has nobody to end it.
process.on('disconnect', () => process.exit(1));
