import { randomBytes, randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
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
import type { InstanceBroker } from './instance-broker.ts';
import { readInstance, stageOf, type InstanceRecord } from './instances.ts';
import { locking } from './operations.ts';
import { scramVerifier } from './scram-verifier.ts';

export interface BindingRequest {
  readonly serviceId: string;
  readonly planId: string;
  /** What counts when it is repeated. */
  readonly compared: Readonly<Record<string, unknown>>;
}

/** In the names under which applications look for them. */
export interface Credentials {
  readonly uri: string;
  readonly jdbc_uri: string;
  readonly dsn: string;
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
}

interface BindingRow {
  readonly request: Readonly<Record<string, unknown>>;
  readonly role: string;
  readonly sealed: string;
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly effective: boolean;
}

/** 192 bits. */
const PASSWORD_BYTES = 24;

/**
 * Service bindings: each has a role of its own, so that unbinding one shuts out nobody else. Role and password are
 * written down (sealed) before the role is made: a repeated request goes on with the same.
 *
 * Requests for one binding exclude each other by the lock of its row, which is held until the service group has
 * answered.
 */
export class BindingBroker {
  readonly #deps: BrokerDeps;
  readonly #instances: InstanceBroker;
  readonly #turnstile = new Turnstile(TURNSTILE_PLACES);

  constructor(deps: BrokerDeps, instances: InstanceBroker) {
    this.#deps = deps;
    this.#instances = instances;
  }

  /** @throws BrokerError NotFound, BadRequest, Conflict, ConcurrencyError */
  async bind(
    { instanceId, bindingId }: { readonly instanceId: string; readonly bindingId: string },
    request: BindingRequest,
    caller: Caller,
  ): Promise<{ readonly created: boolean; readonly credentials: Credentials }> {
    const instance = await this.#instances.instance(instanceId);
    if (stageOf(instance) !== 'assigned') {
      throw new BrokerError('ConcurrencyError', 'The service instance is being deprovisioned.');
    }
    if (instance.serviceId !== request.serviceId || instance.planId !== request.planId) {
      throw new BrokerError('BadRequest', 'service_id and plan_id are not those of the service instance');
    }
    await this.#insert(instance, bindingId, request);
    const bound = await this.#locked(instanceId, bindingId, async (connection, row) => {
      if (!isDeepStrictEqual(row.request, request.compared)) {
        throw new BrokerError('Conflict', 'A service binding of this id exists with other parameters.');
      }
      const password = this.#deps.key.unseal(row.sealed, row.role);
      if (row.effective) return { created: false, credentials: credentialsOf(row, password) };
      const cluster = await clusterOf(this.#deps.clusters, instance);
      const address = await cluster.bind(row.database, row.role, await scramVerifier(password));
      await this.#confirm(connection, { instanceId, bindingId }, address);
      await audit(this.#deps, connection, {
        ...caller,
        action: 'bind',
        target: bindingId,
        outcome: 'ok',
        detail: { instance: instanceId, database: row.database, role: row.role },
      });
      return { created: true, credentials: credentialsOf({ ...row, ...address }, password) };
    });
    await this.#deps.waitForQuorum?.();
    return bound;
  }

  /** @throws BrokerError NotFound */
  async binding(instanceId: string, bindingId: string): Promise<Credentials> {
    const row = await this.#deps.control.withConnection((connection) =>
      readBinding(connection, { instanceId, bindingId }, ''),
    );
    if (!row?.effective) throw new BrokerError('NotFound', 'There is no such service binding.');
    return credentialsOf(row, this.#deps.key.unseal(row.sealed, row.role));
  }

  /** @throws BrokerError Gone, ConcurrencyError */
  async unbind(instanceId: string, bindingId: string, caller: Caller): Promise<void> {
    await this.#locked(instanceId, bindingId, async (connection, row) => {
      const instance = await readInstance(connection, { database: row.database });
      if (instance && stageOf(instance) !== 'gone') {
        const cluster = await clusterOf(this.#deps.clusters, instance);
        await cluster.unbind(row.database, row.role);
      }
      for (const table of ['bindings', 'credentials']) {
        await connection.query(
          `update cfsb.${table} set ineffective_at = now()
            where instance_id = $1 and binding_id = $2 and ineffective_at is null`,
          [instanceId, bindingId],
        );
      }
      await audit(this.#deps, connection, {
        ...caller,
        action: 'unbind',
        target: bindingId,
        outcome: 'ok',
        detail: { instance: instanceId, database: row.database, role: row.role },
      });
    });
    await this.#deps.waitForQuorum?.();
  }

  /** Role and password of a new binding; one that is there stays. */
  async #insert(
    { instanceId, database }: InstanceRecord,
    bindingId: string,
    { compared }: BindingRequest,
  ): Promise<void> {
    const role = `b${randomUUID().replaceAll('-', '')}`;
    const sealed = this.#deps.key.seal(randomBytes(PASSWORD_BYTES).toString('base64url'), role);
    await this.#deps.control.transaction(async (connection) => {
      const { rowCount } = await connection.query(
        `insert into cfsb.bindings (instance_id, binding_id, request) values ($1, $2, $3)
         on conflict (instance_id, binding_id) where ineffective_at is null do nothing`,
        [instanceId, bindingId, JSON.stringify(compared)],
      );
      if (rowCount === 0) return;
      await connection.query(
        `insert into cfsb.credentials (instance_id, binding_id, host, port, dbuser, dbpass_sealed, dbname)
         values ($1, $2, '', 0, $3, $4, $5)`,
        [instanceId, bindingId, role, sealed, database],
      );
    });
  }

  async #confirm(
    connection: Connection,
    { instanceId, bindingId }: { readonly instanceId: string; readonly bindingId: string },
    { host, port }: { readonly host: string; readonly port: number },
  ): Promise<void> {
    await connection.query(
      `with confirmed as (
         update cfsb.bindings set effective_at = now()
          where instance_id = $1 and binding_id = $2 and ineffective_at is null
       )
       update cfsb.credentials set effective_at = now(), host = $3, port = $4
        where instance_id = $1 and binding_id = $2 and ineffective_at is null`,
      [instanceId, bindingId, host, port],
    );
  }

  /** @throws BrokerError Gone when there is none, ConcurrencyError while another has it */
  async #locked<T>(
    instanceId: string,
    bindingId: string,
    work: (connection: Connection, row: BindingRow) => Promise<T>,
  ): Promise<T> {
    return this.#turnstile.pass(() =>
      this.#deps.control.transaction(async (connection) => {
        const row = await locking(() =>
          readBinding(connection, { instanceId, bindingId }, 'for update of b nowait'),
        );
        if (!row) throw new BrokerError('Gone', 'There is no such service binding.');
        return work(connection, row);
      }),
    );
  }
}

function readBinding(
  connection: Connection,
  { instanceId, bindingId }: { readonly instanceId: string; readonly bindingId: string },
  lock: '' | 'for update of b nowait',
): Promise<BindingRow | undefined> {
  return connection.maybeOne<BindingRow>(
    `select b.request, c.dbuser as role, c.dbpass_sealed as sealed, c.host, c.port, c.dbname as database,
            b.effective_at is not null as effective
       from cfsb.bindings b join cfsb.credentials c using (instance_id, binding_id)
      where b.instance_id = $1 and b.binding_id = $2 and b.ineffective_at is null and c.ineffective_at is null
      ${lock}`,
    [instanceId, bindingId],
  );
}

function credentialsOf(
  { host, port, role, database }: Pick<BindingRow, 'host' | 'port' | 'role' | 'database'>,
  password: string,
): Credentials {
  const address = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  return {
    // Role, password and database consist of letters, digits, - and _: nothing has to be escaped.
    uri: `postgres://${role}:${password}@${address}/${database}`,
    jdbc_uri: `jdbc:postgresql://${address}/${database}?user=${role}&password=${password}`,
    dsn: `host=${host} port=${port} user=${role} password=${password} dbname=${database} connect_timeout=5`,
    host,
    port,
    username: role,
    password,
    database,
  };
}
