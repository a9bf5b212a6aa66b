import { VarveError } from '../core/errors.ts';
import type { BackupCluster } from '../storage/backup/backup-cluster.ts';
import type { RestoreNamespaces } from '../storage/backup/restore-backup.ts';
import type { NamespaceSettings } from '../storage/protocol/namespace-json.ts';
import { firstAnswer } from './storage-access.ts';
import type { ListedNamespace, StorageClient } from './storage-client.ts';

/**
 * The storage nodes that the placement names, as any of these knows it; the first of them alone where there is none.
 * @throws STORAGE_NOT_READY when none answers
 */
export async function backupCluster(clients: readonly StorageClient[]): Promise<BackupCluster> {
  const placement = await firstAnswer(clients, async (client) => {
    try {
      return (await client.placement()).placement;
    } catch (error) {
      if (error instanceof VarveError && error.code === 'PLACEMENT_MISSING') return null;
      throw error;
    }
  });
  if (!placement) return await firstAnswer(clients, aloneCluster);
  const { version, shardCount, replicaFactor, instances, shards } = placement;
  return {
    version,
    shardCount,
    replicaFactor,
    endpoints: new Map(instances.map(({ node, endpoint }) => [node, endpoint])),
    replicas: shards.map((shard) => shard.instances),
  };
}

async function aloneCluster(client: StorageClient): Promise<BackupCluster> {
  const { name, storage } = await client.status();
  const { shardCount } = storage ?? {};
  if (shardCount === undefined || shardCount === null) {
    throw new VarveError('STORAGE_NOT_READY', `node ${name} has no storage engine that is open`, {
      hint: 'Its status says why.',
    });
  }
  return {
    version: null,
    shardCount,
    replicaFactor: 1,
    endpoints: new Map([[name, client.url]]),
    replicas: Array.from({ length: shardCount }, () => [{ node: name, state: 'available' }]),
  };
}

/** With all of their settings. */
export function listedSettings({ name, ...settings }: ListedNamespace): {
  readonly name: string;
  readonly settings: NamespaceSettings;
} {
  return { name, settings };
}

/** The namespaces of a cluster by way of any of its nodes. */
export function restoreNamespaces(clients: readonly StorageClient[]): RestoreNamespaces {
  return {
    list: async () =>
      await firstAnswer(clients, async (client) => (await client.namespaces()).map(listedSettings)),
    create: async (name, settings) => {
      await firstAnswer(clients, (client) => client.putNamespace(name, settings));
    },
    remove: async (name) => {
      await firstAnswer(clients, (client) => client.deleteNamespace(name));
    },
  };
}
