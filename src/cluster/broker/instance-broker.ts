import { isDeepStrictEqual } from 'node:util';
import { messageOf } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import {
  audit,
  clusterOf,
  Turnstile,
  TURNSTILE_PLACES,
  type BrokerDeps,
  type Caller,
} from './broker-deps.ts';
import { BrokerError } from './broker-error.ts';
import { readInstance, stageOf, upsertInstances, type InstanceRecord } from './instances.ts';
import {
  beginOperation,
  endOperation,
  findOperation,
  lockOperation,
  operationInProgress,
  type OperationRow,
} from './operations.ts';
import { findPlan, readCatalog, type CatalogService } from './service-catalog.ts';
import type { ServiceCluster } from './service-cluster.ts';

export interface InstanceRequest {
  readonly serviceId: string;
  readonly planId: string;
  readonly organizationId: string;
  readonly spaceId: string;
  /** What counts when it is repeated. */
  readonly compared: Readonly<Record<string, unknown>>;
}

export interface Asked {
  /** The platform would wait. */
  readonly isAsync: boolean;
  readonly caller: Caller;
}

export type Provisioned =
  | { readonly kind: 'created' | 'exists' }
  | { readonly kind: 'accepted'; readonly operation: string };

export type LastOperation = Pick<OperationRow, 'state' | 'description'>;

interface InstanceState {
  /** The last of that id. */
  readonly instance: InstanceRecord | undefined;
  /** The one in progress. */
  readonly operation: OperationRow | undefined;
}

const PROVISION_TIMEOUT_MS = 600_000;

/**
 * Service instances. The service groups know who has which database; the control database has the broker's own view
 * of it and the operations under way. An operation is written down before a service group is asked; what a crash
 * cuts off is taken up by the platform's repetition or its question for the last operation, and the service group
 * answers the second call as it did the first.
 */
export class InstanceBroker {
  readonly #deps: BrokerDeps;
  readonly #turnstile = new Turnstile(TURNSTILE_PLACES);

  constructor(deps: BrokerDeps) {
    this.#deps = deps;
  }

  catalog(): Promise<readonly CatalogService[]> {
    return this.#deps.control.withConnection(readCatalog);
  }

  /** @throws BrokerError BadRequest, Conflict, AsyncRequired, ConcurrencyError */
  async provision(instanceId: string, request: InstanceRequest, asked: Asked): Promise<Provisioned> {
    const plan = findPlan(await this.catalog(), request.serviceId, request.planId);
    if (!plan) throw new BrokerError('BadRequest', 'service_id and plan_id are not of a plan in the catalog');
    const state = await this.#state(instanceId);
    if (state.instance && stageOf(state.instance) !== 'gone' && state.operation?.kind !== 'provision') {
      return repeated(state, request);
    }
    const operation = await this.#beginProvision(instanceId, state.operation, request);
    const result = await this.#exclusively(operation.id, async (connection, current) => {
      // Another repetition was faster.
      if (current.state !== 'in progress') return 'exists' as const;
      if (!state.operation && (await this.#wasFaster(connection, instanceId, current)))
        return 'late' as const;
      const record = await this.#assign(instanceId, current);
      if (record) {
        await this.#provisioned(connection, current, record, asked.caller);
        return 'created' as const;
      }
      if (asked.isAsync) return 'accepted' as const;
      await endOperation(connection, current.id, {
        state: 'failed',
        description: 'no database was available, and the platform would not wait',
      });
      return 'refused' as const;
    });
    if (result === 'late') return repeated(await this.#state(instanceId), request);
    if (result === 'refused') {
      throw new BrokerError(
        'AsyncRequired',
        'No database is available at this moment, so this service plan requires accepts_incomplete=true.',
      );
    }
    await this.#deps.waitForQuorum?.();
    return result === 'accepted' ? { kind: result, operation: operation.id } : { kind: result };
  }

  /** A provisioned instance. @throws BrokerError NotFound */
  async instance(instanceId: string): Promise<InstanceRecord> {
    const { instance, operation } = await this.#state(instanceId);
    if (!instance || stageOf(instance) === 'gone' || operation?.kind === 'provision') {
      throw new BrokerError('NotFound', 'There is no such service instance.');
    }
    return instance;
  }

  /** How the last operation stands; asking goes on with it. @throws BrokerError NotFound */
  async lastOperation(
    instanceId: string,
    operationId: string | undefined,
    caller: Caller,
  ): Promise<LastOperation> {
    const found = await this.#deps.control.withConnection((connection) =>
      findOperation(connection, instanceId, operationId),
    );
    if (!found) throw new BrokerError('NotFound', 'There is no such service instance or operation.');
    if (found.state !== 'in progress') return found;
    try {
      return await this.#exclusively(found.id, (connection, operation) => {
        if (operation.state !== 'in progress') return Promise.resolve(operation);
        return operation.kind === 'provision'
          ? this.#continueProvision(connection, { instanceId, operation, caller })
          : this.#continueDeprovision(connection, { instanceId, operation, caller });
      });
    } catch (error) {
      // Somebody else is at it, or a service group does not answer: the platform asks again.
      const waits = { instance: instanceId, operation: found.id, error: messageOf(error) };
      this.#deps.log.warn(waits, 'an operation of the broker waits');
      return found;
    }
  }

  /**
   * Undefined when it is done: the provisioning was under way and is halted.
   * @throws BrokerError Gone, AsyncRequired, ConcurrencyError
   */
  async deprovision(instanceId: string, asked: Asked): Promise<{ readonly operation: string } | undefined> {
    const { instance, operation } = await this.#state(instanceId);
    const exists = instance !== undefined && stageOf(instance) !== 'gone';
    if (operation?.kind === 'provision') {
      const halted = await this.#haltProvision(instanceId, operation, asked.caller);
      if (halted) return undefined;
    } else if (!exists) throw new BrokerError('Gone', 'There is no such service instance.');
    if (!asked.isAsync) {
      throw new BrokerError(
        'AsyncRequired',
        'A database is backed up before it is dropped, so this service plan requires accepts_incomplete=true.',
      );
    }
    const present = await this.#deps.control.withConnection(
      async (connection) =>
        (await operationInProgress(connection, instanceId)) ??
        beginOperation(connection, instanceId, {
          kind: 'deprovision',
          request: {},
          description: 'the database is backed up and dropped',
          timeoutMs: null,
        }),
    );
    await this.#exclusively(present.id, (connection) =>
      this.#release(connection, { instanceId, caller: asked.caller }),
    );
    await this.#deps.waitForQuorum?.();
    return { operation: present.id };
  }

  async #state(instanceId: string): Promise<InstanceState> {
    return this.#deps.control.withConnection(async (connection) => ({
      instance: await readInstance(connection, { instanceId }),
      operation: await operationInProgress(connection, instanceId),
    }));
  }

  /** @throws BrokerError Conflict, ConcurrencyError */
  async #beginProvision(
    instanceId: string,
    present: OperationRow | undefined,
    request: InstanceRequest,
  ): Promise<OperationRow> {
    if (!present) {
      return this.#deps.control.withConnection((connection) =>
        beginOperation(connection, instanceId, {
          kind: 'provision',
          request,
          description: 'waiting for a database',
          timeoutMs: this.#deps.provisionTimeoutMs ?? PROVISION_TIMEOUT_MS,
        }),
      );
    }
    if (present.kind === 'deprovision') throw leaving();
    if (isDeepStrictEqual(present.request['compared'], request.compared)) return present;
    throw conflict();
  }

  /** Whether the instance came to be between our look at it and the begin of our operation, which then ends. */
  async #wasFaster(connection: Connection, instanceId: string, operation: OperationRow): Promise<boolean> {
    const instance = await readInstance(connection, { instanceId });
    if (!instance || stageOf(instance) === 'gone') return false;
    const description = 'the instance was there when this began';
    await endOperation(connection, operation.id, { state: 'succeeded', description });
    return true;
  }

  /** @throws BrokerError ConcurrencyError while another works on this operation */
  async #exclusively<T>(
    operationId: string,
    work: (connection: Connection, operation: OperationRow) => Promise<T>,
  ): Promise<T> {
    return this.#turnstile.pass(() =>
      this.#deps.control.transaction(async (connection) => {
        const operation = await lockOperation(connection, operationId);
        if (!operation) throw new BrokerError('NotFound', 'There is no such operation.');
        return work(connection, operation);
      }),
    );
  }

  /** What the instance has already, or else the oldest database of the group that has the most to give. */
  async #assign(instanceId: string, operation: OperationRow): Promise<InstanceRecord | undefined> {
    const request = operation.request as unknown as InstanceRequest;
    const plan = findPlan(await this.catalog(), request.serviceId, request.planId);
    const offers: { cluster: ServiceCluster; count: number }[] = [];
    for (const cluster of await this.#deps.clusters.list()) {
      if (cluster.service !== plan?.clusterService) continue;
      const records = await cluster.databases();
      const taken = records.find((one) => one.instanceId === instanceId && stageOf(one) !== 'gone');
      if (taken) return taken;
      offers.push({ cluster, count: records.filter((one) => stageOf(one) === 'available').length });
    }
    for (const { cluster } of offers.filter(({ count }) => count > 0).sort((a, b) => b.count - a.count)) {
      const { serviceId, planId, organizationId, spaceId, compared } = request;
      const wanted = { instanceId, serviceId, planId, organizationId, spaceId, request: compared };
      const record = await cluster.assign(wanted);
      if (record) return record;
    }
    return undefined;
  }

  async #provisioned(
    connection: Connection,
    operation: OperationRow,
    record: InstanceRecord,
    caller: Caller,
  ): Promise<void> {
    await upsertInstances(connection, [record]);
    await endOperation(connection, operation.id, {
      state: 'succeeded',
      description: 'the database is ready',
    });
    await audit(this.#deps, connection, {
      ...caller,
      action: 'provision',
      target: record.instanceId ?? '',
      outcome: 'ok',
      detail: { database: record.database, cluster: record.cluster, operation: operation.id },
    });
  }

  async #continueProvision(connection: Connection, at: Continued): Promise<LastOperation> {
    const record = await this.#assign(at.instanceId, at.operation);
    if (record) {
      await this.#provisioned(connection, at.operation, record, at.caller);
      return { state: 'succeeded', description: 'the database is ready' };
    }
    if (!at.operation.overdue) return at.operation;
    const description = 'no database became available in time';
    await endOperation(connection, at.operation.id, { state: 'failed', description });
    await audit(this.#deps, connection, {
      ...at.caller,
      action: 'provision',
      target: at.instanceId,
      outcome: 'error',
      detail: { description },
    });
    return { state: 'failed', description };
  }

  async #continueDeprovision(connection: Connection, at: Continued): Promise<LastOperation> {
    const record = await this.#release(connection, at);
    if (stageOf(record) !== 'gone') return at.operation;
    const description = 'the database is dropped';
    await endOperation(connection, at.operation.id, { state: 'succeeded', description });
    await connection.query(
      `with gone as (
         update cfsb.credentials set ineffective_at = now() where instance_id = $1 and ineffective_at is null
       )
       update cfsb.bindings set ineffective_at = now() where instance_id = $1 and ineffective_at is null`,
      [at.instanceId],
    );
    return { state: 'succeeded', description };
  }

  /** True when nothing was assigned yet, so that there is nothing to take back. */
  async #haltProvision(instanceId: string, operation: OperationRow, caller: Caller): Promise<boolean> {
    return this.#exclusively(operation.id, async (connection, current) => {
      if (current.state !== 'in progress') return current.state === 'failed';
      const clusters = await this.#deps.clusters.list();
      for (const cluster of clusters) {
        const taken = (await cluster.databases()).find(
          (one) => one.instanceId === instanceId && stageOf(one) !== 'gone',
        );
        if (!taken) continue;
        await this.#provisioned(connection, current, taken, caller);
        return false;
      }
      await endOperation(connection, current.id, { state: 'failed', description: 'halted by a deprovision' });
      await audit(this.#deps, connection, {
        ...caller,
        action: 'deprovision',
        target: instanceId,
        outcome: 'ok',
        detail: { halted: current.id },
      });
      return true;
    });
  }

  /** Has the service group give the database up, and takes its answer over. */
  async #release(
    connection: Connection,
    { instanceId, caller }: { readonly instanceId: string; readonly caller: Caller },
  ): Promise<InstanceRecord> {
    const before = await readInstance(connection, { instanceId });
    if (!before) throw new BrokerError('Gone', 'There is no such service instance.');
    if (stageOf(before) === 'gone') return before;
    const cluster = await clusterOf(this.#deps.clusters, before);
    const record = await cluster.release(before.database);
    await upsertInstances(connection, [record]);
    if (before.ineffectiveAt === null) {
      await audit(this.#deps, connection, {
        ...caller,
        action: 'deprovision',
        target: instanceId,
        outcome: 'ok',
        detail: { database: record.database, cluster: record.cluster },
      });
    }
    return record;
  }
}

interface Continued {
  readonly instanceId: string;
  readonly operation: OperationRow;
  readonly caller: Caller;
}

/** What is there already, when it is what was asked for. @throws BrokerError Conflict, ConcurrencyError */
function repeated({ instance, operation }: InstanceState, request: InstanceRequest): Provisioned {
  if (!isDeepStrictEqual(instance?.request, request.compared)) throw conflict();
  if (operation?.kind === 'deprovision' || (instance && stageOf(instance) === 'leaving')) throw leaving();
  return { kind: 'exists' };
}

const conflict = (): BrokerError =>
  new BrokerError('Conflict', 'A service instance of this id exists with other attributes.');
const leaving = (): BrokerError =>
  new BrokerError('ConcurrencyError', 'The service instance is being deprovisioned.');
