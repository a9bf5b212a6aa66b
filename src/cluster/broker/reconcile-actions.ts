import { messageOf, VarveError } from '../../core/errors.ts';
import type { Actions, Action } from '../tasks/task.ts';
import { upsertInstances, type InstanceRecord } from './instances.ts';
import type { ServiceCluster, ServiceClusters } from './service-cluster.ts';

/**
 * What a manager knows of the databases of service groups, brought up to date. The service groups are asked, so
 * one that was away is caught up with as soon as it answers; nothing here changes anything there.
 */
export function reconcileActions(clusters: ServiceClusters): Actions {
  return {
    ReconcileAvailableDatabases: reconcile(clusters, (cluster) => cluster.available()),
    ReconcileAllDatabases: reconcile(clusters, (cluster) => cluster.databases()),
  };
}

function reconcile(
  clusters: ServiceClusters,
  ask: (cluster: ServiceCluster) => Promise<readonly InstanceRecord[]>,
): Action {
  return async ({ log, signal }) => {
    const records: InstanceRecord[] = [];
    const failed: string[] = [];
    const all = await clusters.list();
    for (const cluster of all) {
      signal.throwIfAborted();
      try {
        // A group speaks for its own databases only.
        records.push(...(await ask(cluster)).filter((record) => record.cluster === cluster.cluster));
      } catch (error) {
        failed.push(`${cluster.cluster}: ${messageOf(error)}`);
        log.warn({ cluster: cluster.cluster, error: messageOf(error) }, 'a service group did not answer');
      }
    }
    if (failed.length > 0 && failed.length === all.length) {
      throw new VarveError('SERVICE_CLUSTER_UNREACHABLE', 'no service group answered', {
        detail: failed.join('\n'),
      });
    }
    let changed = 0;
    return {
      result: { groups: all.length, databases: records.length, failed },
      effects: async (connection) => {
        changed = await upsertInstances(connection, records);
        if (changed === 0) return;
        // Bindings and operations follow what became of their databases.
        await connection.query(
          `update cfsb.credentials c set ineffective_at = i.decommissioned_at from cfsb.instances i
            where c.dbname = i.dbname and i.decommissioned_at is not null and c.ineffective_at is null`,
        );
        await connection.query(
          `update cfsb.bindings b set ineffective_at = now() where b.ineffective_at is null and b.effective_at is not null
              and exists (select from cfsb.credentials c where c.instance_id = b.instance_id
                and c.binding_id = b.binding_id)
              and not exists (select from cfsb.credentials c where c.instance_id = b.instance_id
                and c.binding_id = b.binding_id and c.ineffective_at is null)`,
        );
      },
    };
  };
}
