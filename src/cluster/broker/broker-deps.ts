import type { Connection } from '../../postgres/connection.ts';
import type { SecretKey } from '../schema/secret-key.ts';
import type { ControlDatabase } from '../tasks/control-database.ts';
import type { WorkLog } from '../tasks/task.ts';
import { writeAudit, type AuditEntry } from './audit.ts';
import { BrokerError } from './broker-error.ts';
import type { InstanceRecord } from './instances.ts';
import type { ServiceCluster, ServiceClusters } from './service-cluster.ts';

export interface BrokerDeps {
  readonly control: ControlDatabase;
  readonly clusters: ServiceClusters;
  /** What passwords of bindings are sealed with. */
  readonly key: SecretKey;
  readonly log: WorkLog;
  /** The group whose control database it is, and the member that answers. */
  readonly cluster: string;
  readonly node: string;
  /** Resolves when what was committed in the control database survives the loss of its server. */
  readonly waitForQuorum?: () => Promise<void>;
  /** How long an asynchronous provisioning may wait for a database; 10 minutes. */
  readonly provisionTimeoutMs?: number;
}

/** Who asks, for the audit. */
export interface Caller {
  readonly origin: Readonly<Record<string, unknown>> | undefined;
  readonly requestId: string | undefined;
}

export function audit(
  deps: Pick<BrokerDeps, 'cluster' | 'node'>,
  connection: Connection,
  entry: Caller & Pick<AuditEntry, 'action' | 'target' | 'outcome' | 'detail'>,
): Promise<void> {
  return writeAudit(connection, { cluster: deps.cluster, node: deps.node, actor: 'broker', ...entry });
}

/** @throws BrokerError ConcurrencyError when no such group is there at the moment */
export async function clusterOf(clusters: ServiceClusters, record: InstanceRecord): Promise<ServiceCluster> {
  const found = (await clusters.list()).find(({ cluster }) => cluster === record.cluster);
  if (found) return found;
  throw new BrokerError('ConcurrencyError', `Service group ${record.cluster} cannot be reached: ask again.`);
}

/**
 * Lets so many in at once. Whoever holds a row's lock needs a second connection for what it does under it: if
 * all connections were held like that, nobody could go on.
 */
export class Turnstile {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  async pass<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#free -= 1;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}

/** Of the eight connections of a control database, each taking two. */
export const TURNSTILE_PLACES = 3;
