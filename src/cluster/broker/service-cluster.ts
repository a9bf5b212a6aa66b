import type { ClusterService } from '../schema/default-rows.ts';
import type { Assignment, InstanceRecord } from './instances.ts';

/** Where clients reach a database. */
export interface ServiceAddress {
  readonly host: string;
  readonly port: number;
}

/**
 * A service group as the broker and the manager see it: in the same process (`DatabasePool`) or over HTTP
 * (`HttpServiceCluster`). Every call may be repeated: a second one finds what the first has done.
 */
export interface ServiceCluster {
  readonly cluster: string;
  readonly service: ClusterService;
  databases(): Promise<readonly InstanceRecord[]>;
  available(): Promise<readonly InstanceRecord[]>;
  database(name: string): Promise<InstanceRecord | undefined>;
  /** The database that the instance has or gets; undefined when none is available. */
  assign(assignment: Assignment): Promise<InstanceRecord | undefined>;
  /** From then on the role with this SCRAM verifier can log in to the database. */
  bind(database: string, role: string, verifier: string): Promise<ServiceAddress>;
  /** From then on it cannot, and its sessions are ended. What it made belongs to the database's owner. */
  unbind(database: string, role: string): Promise<void>;
  /** Nobody logs in any more; the database is backed up and dropped by a task. */
  release(database: string): Promise<InstanceRecord>;
}

/** All service groups, at this moment. */
export interface ServiceClusters {
  list(): Promise<readonly ServiceCluster[]>;
}
