import { Hono } from 'hono';
import { CONTROL_DATABASE, type GroupContext } from '../cluster/bootstrap/context.ts';
import { backupActions, type BackupDeps } from '../cluster/backup/backup-actions.ts';
import { adminApp } from '../cluster/broker/admin-app.ts';
import { brokerApp } from '../cluster/broker/broker-app.ts';
import { DatabasePool } from '../cluster/broker/database-pool.ts';
import { CoordinatorServiceClusters } from '../cluster/broker/http-service-cluster.ts';
import { poolActions } from '../cluster/broker/pool-actions.ts';
import { PoolDatabases } from '../cluster/broker/pool-databases.ts';
import { reconcileActions } from '../cluster/broker/reconcile-actions.ts';
import type { GroupKeys } from '../cluster/group-keys.ts';
import type { GroupMember } from '../cluster/master/group-member.ts';
import type { GroupShape } from '../cluster/schema/default-rows.ts';
import type { GroupServices } from '../cluster/services/group-services.ts';
import { HEALTH_PATHS, HealthChecks, type HealthPath } from '../cluster/services/health-checks.ts';
import { MasterControlDatabase } from '../cluster/tasks/control-database.ts';
import { GroupWork } from '../cluster/tasks/group-work.ts';
import type { MemberRole } from '../cluster/tasks/worker.ts';
import { upkeepActions } from '../cluster/tasks/upkeep-actions.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import type { Clock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { Endpoint } from '../postgres/connection.ts';
import type { GroupView } from './group-layer.ts';
import { healthEndpoints } from './group-proxies.ts';
import { readBrokerPassword, type GroupSecrets } from './group-secrets.ts';
import type { GroupSettings } from './group-settings.ts';
import type { Log } from './log.ts';
import type { RunningPostgres } from './postgres-service.ts';

export interface GroupJobsDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly coordinator: Coordinator;
  readonly keys: GroupKeys;
  readonly context: GroupContext;
  readonly member: GroupMember;
  readonly services: GroupServices;
  readonly postgres: () => RunningPostgres;
}

export interface GroupJobsOptions {
  readonly node: string;
  readonly secrets: GroupSecrets;
  readonly shape: GroupShape;
  readonly group: GroupSettings;
  readonly view: () => GroupView;
}

/** What a member does for its group besides being one, and what it answers over HTTP for it. */
export interface GroupJobs extends AsyncDisposable {
  readonly work: GroupWork;
  readonly http: Hono;
  /** A backup's needs, for one that is asked for by hand. */
  readonly backups: BackupDeps;
  /** A restore's, which may make the database. */
  readonly databases: PoolDatabases;
  readonly log: Log;
  run(signal: AbortSignal): Promise<void>;
}

const HEALTH_TIMEOUT_MS = 4_000;
const QUORUM_TIMEOUT_MS = 10_000;

export function groupJobs(deps: GroupJobsDeps, options: GroupJobsOptions): GroupJobs {
  const { clock, log, context, keys } = deps;
  const { servers, self } = context;
  const { node, shape, group, view, secrets } = options;
  const control = new MasterControlDatabase({
    master: () => {
      const { master } = view();
      return master && servers.endpoint(master, CONTROL_DATABASE);
    },
  });
  const local = (database: string): Endpoint => servers.endpoint(self, database);
  const backups: BackupDeps = {
    control,
    shape,
    local,
    folder: group.backupFolder,
    master: (database) => servers.endpoint(masterOf(view()), database),
  };
  const databases = new PoolDatabases({ mesh: context.mesh, servers, keys, log });
  const waitForQuorum = (): Promise<void> => controlQuorum(deps, options);
  const pool = new DatabasePool(
    {
      control,
      databases,
      log,
      waitForQuorum,
      entrance: async () => {
        // The write master's HAProxy, which follows it; registered by whoever is write master.
        const [present] = await deps.coordinator.services(`${shape.cluster}-master`);
        return present && { host: present.address, port: present.port };
      },
      rolesChanged: () => deps.services.reconfigure(),
    },
    shape,
  );
  const clusters = new CoordinatorServiceClusters(deps.coordinator, secrets.adminToken);
  const reconfigure = (): Promise<void> => deps.services.reconfigure();
  const actions = {
    ...upkeepActions({ control, shape, local, reconfigure }),
    ...backupActions(backups),
    ...(group.kind === 'manager' ? reconcileActions(clusters) : poolActions({ ...backups, pool, databases })),
  };
  const role = (): MemberRole | undefined => roleOf(node, view());
  const work = new GroupWork(
    { log, clock, control, actions, role, members: () => view().members },
    { node, shape },
  );
  return {
    work,
    backups,
    databases,
    log,
    http: jobsHttp(deps, options, { pool, clusters, control, waitForQuorum }),
    run: (signal) => work.run(signal),
    [Symbol.asyncDispose]: () => control[Symbol.asyncDispose](),
  };
}

function masterOf({ master }: GroupView) {
  if (master) return master;
  throw new VarveError('WRITE_MASTER_UNKNOWN', 'the group has no write master at the moment', {
    hint: 'It elects one by itself when enough members are alive; `varve cluster status` says what it waits for.',
  });
}

function roleOf(node: string, { master, databases }: GroupView): MemberRole | undefined {
  if (databases.length === 0 || master === undefined) return undefined;
  return master.node === node ? 'write' : 'read';
}

/** What was committed in the control database is on as many members as a client's commit would be. */
async function controlQuorum(
  { context, member }: GroupJobsDeps,
  { view, node }: GroupJobsOptions,
): Promise<void> {
  const master = masterOf(view());
  // Elsewhere the position says nothing; the master's own daemon waits for what is asked of it.
  if (master.node !== node) return;
  const { lsn } = await context.servers.withConnection(master, CONTROL_DATABASE, (connection) =>
    connection.one<{ lsn: string }>('select pg_catalog.pg_current_wal_insert_lsn()::text as lsn'),
  );
  await member.waitForQuorum(lsn, CONTROL_DATABASE, { timeoutMs: QUORUM_TIMEOUT_MS });
}

interface HttpParts {
  readonly pool: DatabasePool;
  readonly clusters: CoordinatorServiceClusters;
  readonly control: MasterControlDatabase;
  readonly waitForQuorum: () => Promise<void>;
}

function jobsHttp(deps: GroupJobsDeps, options: GroupJobsOptions, parts: HttpParts): Hono {
  const { log, postgres } = deps;
  const { node, shape, group, secrets } = options;
  const app = new Hono();
  const checks = new HealthChecks({
    timeoutMs: HEALTH_TIMEOUT_MS,
    endpoints: healthEndpoints(
      { group },
      { port: postgres().endpoint.port, password: secrets.healthPassword },
    ),
  });
  for (const [way, path] of Object.entries(HEALTH_PATHS) as [HealthPath, string][]) {
    app.get(path, async (context) => {
      const health = await checks.check(way);
      return context.json(health, health.healthy ? 200 : 503);
    });
  }
  if (group.kind === 'service') {
    const onBug = (error: unknown): void => log.error({ error }, 'a request about databases met a bug');
    app.route('/databases', adminApp({ pool: parts.pool, token: secrets.adminToken, onBug }));
    return app;
  }
  // The password is read when it is asked for first: making it takes a moment, and most nodes need it never.
  let broker: Promise<Hono> | undefined;
  app.all('/v2/*', async (context) => {
    broker ??= readBrokerPassword(group.broker.passwordFile, secrets).then((password) =>
      brokerApp({
        control: parts.control,
        clusters: parts.clusters,
        key: secrets.key,
        log,
        cluster: shape.cluster,
        node,
        waitForQuorum: parts.waitForQuorum,
        login: { user: group.broker.user, password },
      }),
    );
    return await (await broker).fetch(context.req.raw);
  });
  return app;
}
