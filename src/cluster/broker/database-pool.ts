import { randomUUID } from 'node:crypto';
import { messageOf, VarveError } from '../../core/errors.ts';
import { quoteIdent } from '../../postgres/sql.ts';
import { clusterServiceOf, type ClusterService, type GroupShape } from '../schema/default-rows.ts';
import { readConfig } from '../tasks/config.ts';
import type { ControlDatabase } from '../tasks/control-database.ts';
import { TaskQueue } from '../tasks/task-queue.ts';
import type { WorkLog } from '../tasks/task.ts';
import { INSTANCE_COLUMNS, readInstance, type Assignment, type InstanceRecord } from './instances.ts';
import { createBindingRole, type PoolDatabases } from './pool-databases.ts';
import type { ServiceAddress, ServiceCluster } from './service-cluster.ts';

export interface DatabasePoolDeps {
  readonly control: ControlDatabase;
  readonly databases: PoolDatabases;
  readonly log: WorkLog;
  /** Resolves when what was committed in the control database survives the loss of its server. */
  readonly waitForQuorum?: () => Promise<void>;
  /** Where clients are led to the write master, whoever that is; undefined where nothing leads them. */
  readonly entrance?: () => Promise<ServiceAddress | undefined>;
  /** Makes what leads them know of roles that have changed. */
  readonly rolesChanged?: () => Promise<void>;
}

/** Names of roles that bindings get: nothing else is ever dropped or shut out here. */
const BINDING_ROLE = /^b[0-9a-f]{32}$/;

/**
 * The databases of a service group. `cfsb.instances` has one row for each, whose times tell where it stands:
 * `created_at` when its making began, `effective_at` when it can be assigned, `assigned_at`, `ineffective_at`
 * when it was given back, `decommissioned_at` when it is dropped on all members.
 */
export class DatabasePool implements ServiceCluster {
  readonly cluster: string;
  readonly service: ClusterService;
  readonly #deps: DatabasePoolDeps;
  readonly #queue: TaskQueue;

  constructor(deps: DatabasePoolDeps, shape: GroupShape) {
    this.#deps = deps;
    this.cluster = shape.cluster;
    this.service = clusterServiceOf(shape);
    this.#queue = new TaskQueue(deps.control, shape);
  }

  async databases(): Promise<readonly InstanceRecord[]> {
    return this.#deps.control.withConnection(async (connection) => {
      const { rows } = await connection.query<InstanceRecord>(
        `select ${INSTANCE_COLUMNS} from cfsb.instances where cluster_id = $1 order by created_at, id`,
        [this.cluster],
      );
      return rows;
    });
  }

  async available(): Promise<readonly InstanceRecord[]> {
    return this.#deps.control.withConnection(async (connection) => {
      const { rows } = await connection.query<InstanceRecord>(
        `select ${INSTANCE_COLUMNS} from cfsb.instances
          where cluster_id = $1 and effective_at is not null and instance_id is null and ineffective_at is null
          order by effective_at, id`,
        [this.cluster],
      );
      return rows;
    });
  }

  database(name: string): Promise<InstanceRecord | undefined> {
    return this.#deps.control.withConnection((connection) => readInstance(connection, { database: name }));
  }

  async assign(wanted: Assignment): Promise<InstanceRecord | undefined> {
    const record = await this.#deps.control.transaction(async (connection) => {
      // Who asks for the same instance at the same time waits, and finds it.
      await connection.query('select pg_advisory_xact_lock($1, hashtext($2))', [
        ASSIGN_LOCK,
        wanted.instanceId,
      ]);
      const own = await readInstance(connection, { instanceId: wanted.instanceId });
      if (own && own.decommissionedAt === null) return own;
      // The oldest that nobody else is taking at this moment: no two get one, and nobody waits.
      return connection.maybeOne<InstanceRecord>(
        `with free as (
           select id from cfsb.instances
            where cluster_id = $1 and effective_at is not null and instance_id is null and ineffective_at is null
            order by effective_at, id limit 1
              for update skip locked
         )
         update cfsb.instances set instance_id = $2, service_id = $3, plan_id = $4, organization_id = $5,
                space_id = $6, request = $7::jsonb, assigned_at = now()
           from free where cfsb.instances.id = free.id returning ${INSTANCE_COLUMNS}`,
        [
          this.cluster,
          wanted.instanceId,
          wanted.serviceId,
          wanted.planId,
          wanted.organizationId,
          wanted.spaceId,
          JSON.stringify(wanted.request),
        ],
      );
    });
    if (record) await this.#deps.waitForQuorum?.();
    return record;
  }

  async bind(database: string, role: string, verifier: string): Promise<ServiceAddress> {
    checkRole(role);
    if (!/^SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$/.test(verifier)) {
      throw new VarveError('INVALID_ARGUMENT', 'the verifier of a binding is no SCRAM-SHA-256 verifier');
    }
    const { owner } = await this.#assigned(database);
    const failed = await this.#deps.databases.onEach('rdpg', (connection) =>
      connection.transaction(async () => {
        const present = await connection.maybeOne('select 1 from pg_roles where rolname = $1', [role]);
        if (!present) await connection.query(createBindingRole(role, verifier));
        await connection.query(`grant ${quoteIdent(owner)} to ${quoteIdent(role)}`);
        // What it makes belongs to the owner, so that the next binding can work with it and unbinding loses nothing.
        await connection.query(
          `alter role ${quoteIdent(role)} in database ${quoteIdent(database)} set role = ${quoteIdent(owner)}`,
        );
      }),
    );
    const master = await this.#deps.databases.master();
    const fatal = failed.find(({ node }) => node === master.node);
    if (fatal) throw fatal.error;
    for (const { node } of failed) this.#deps.log.warn({ node, database }, 'a member gets the role later');
    return this.#address(master);
  }

  async unbind(database: string, role: string): Promise<void> {
    checkRole(role);
    const record = await this.database(database);
    const { databases, log } = this.#deps;
    await this.#shutOut([role]);
    if (record?.decommissionedAt === null) await this.#disown(database, role, record.owner);
    const master = await databases.master();
    const failed = await databases.onEach('rdpg', async (connection) => {
      await connection.query(`drop role if exists ${quoteIdent(role)}`);
    });
    for (const { node, error } of failed) {
      if (node === master.node) throw error;
      log.warn({ node, role, error: messageOf(error) }, 'a member drops a role later');
    }
  }

  /** What the role made although its sessions began as the owner goes to the owner; then nothing depends on it. */
  async #disown(database: string, role: string, owner: string): Promise<void> {
    const { databases, log } = this.#deps;
    await databases.onMaster(database, async (connection) => {
      const { rows } = await connection.query<{ statement: string }>(OWNED, [role, owner]);
      // Statement by statement, in the queue: members that are behind carry them out in their place.
      for (const { statement } of rows) await connection.query(statement);
    });
    await databases.barrier(database).catch((error: unknown) => {
      log.warn({ database, error: messageOf(error) }, 'a member is behind: it drops the role later');
    });
    // Rights that are left, on each member for itself: statements on all that a role has are not queued.
    const failed = await databases.onEach(database, (connection) =>
      connection.transaction(async () => {
        if (!(await connection.maybeOne('select 1 from pg_roles where rolname = $1', [role]))) return;
        await connection.query(`set local varve_group.ddl = 'off'`);
        await connection.query(`reassign owned by ${quoteIdent(role)} to ${quoteIdent(owner)}`);
        await connection.query(`drop owned by ${quoteIdent(role)}`);
      }),
    );
    const master = await databases.master();
    const fatal = failed.find(({ node }) => node === master.node);
    if (fatal) throw fatal.error;
  }

  async release(database: string): Promise<InstanceRecord> {
    const record = await this.#deps.control.transaction(async (connection) => {
      await connection.query(
        `update cfsb.instances set ineffective_at = now() where dbname = $1 and cluster_id = $2
            and ineffective_at is null`,
        [database, this.cluster],
      );
      const row = await readInstance(connection, { database });
      if (!row || row.cluster !== this.cluster) throw unknownDatabase(database);
      if (row.decommissionedAt === null) {
        await this.#queue.addIn(connection, {
          action: 'DecommissionDatabase',
          data: database,
          nodeType: 'write',
          ttlSeconds: 86_400,
          maxAttempts: 20,
        });
      }
      return row;
    });
    await this.#deps.waitForQuorum?.();
    if (record.decommissionedAt === null) await this.shutOutAll(record);
    return record;
  }

  /** No binding of the database logs in any more. */
  async shutOutAll(record: InstanceRecord): Promise<void> {
    const roles = await this.#deps.databases.onMaster('rdpg', async (connection) => {
      const { rows } = await connection.query<{ name: string }>(
        `select m.rolname as name from pg_roles r join pg_auth_members a on a.roleid = r.oid
           join pg_roles m on m.oid = a.member where r.rolname = $1`,
        [record.owner],
      );
      return rows.map(({ name }) => name).filter((name) => BINDING_ROLE.test(name));
    });
    await this.#shutOut(roles);
  }

  /** @throws what the write master says; other members are told to the log */
  async #shutOut(roles: readonly string[]): Promise<void> {
    if (roles.length === 0) return;
    const { databases, log } = this.#deps;
    const master = await databases.master();
    const failed = await databases.onEach('rdpg', async (connection) => {
      for (const role of roles) {
        const present = await connection.maybeOne('select 1 from pg_roles where rolname = $1', [role]);
        if (present) await connection.query(`alter role ${quoteIdent(role)} nologin`);
        await connection.query('select pg_terminate_backend(pid) from pg_stat_activity where usename = $1', [
          role,
        ]);
      }
    });
    for (const { node, error } of failed) {
      if (node === master.node) throw error;
      log.warn({ node, roles }, 'a member could not be told that roles are gone');
    }
    // Or the pooler would let them in and have them wait for a login that the server refuses.
    await this.#deps.rolesChanged?.();
  }

  async #assigned(database: string): Promise<InstanceRecord> {
    const record = await this.database(database);
    if (!record || record.cluster !== this.cluster) throw unknownDatabase(database);
    if (record.instanceId !== null && record.ineffectiveAt === null) return record;
    throw new VarveError('DATABASE_UNAVAILABLE', `database ${database} is not assigned to anybody`);
  }

  async #address(master: ServiceAddress): Promise<ServiceAddress> {
    const config = await this.#deps.control.withConnection((connection) =>
      readConfig(connection, this.cluster),
    );
    const match = /^(.+):(\d+)$/.exec(config.serviceAddress);
    if (match?.[1] !== undefined) return { host: match[1], port: Number(match[2]) };
    const entrance = await this.#deps.entrance?.();
    if (!entrance) return { host: master.host, port: master.port };
    await this.#deps.rolesChanged?.();
    return entrance;
  }

  /**
   * Begins as many databases as the pool lacks, and finishes those that were begun: their names. A row comes
   * first, so that what a crash leaves behind is known.
   */
  async begin(): Promise<readonly InstanceRecord[]> {
    return this.#deps.control.transaction(async (connection) => {
      await connection.query('select pg_advisory_xact_lock($1, hashtext($2))', [POOL_LOCK, this.cluster]);
      const config = await readConfig(connection, this.cluster);
      const counts = await connection.one<{ waiting: number; all: number }>(
        `select count(*) filter (where instance_id is null and ineffective_at is null)::int as waiting,
                count(*)::int as all
           from cfsb.instances where cluster_id = $1 and decommissioned_at is null`,
        [this.cluster],
      );
      const room = Math.min(config.instanceLimit, config.instanceAllowed) - counts.all;
      for (let missing = Math.min(config.poolSize - counts.waiting, room); missing > 0; missing -= 1) {
        const id = randomUUID().replaceAll('-', '');
        await connection.query(
          'insert into cfsb.instances (cluster_service, cluster_id, dbname, dbuser) values ($1, $2, $3, $4)',
          [this.service, this.cluster, `d${id}`, `u${id}`],
        );
      }
      const { rows } = await connection.query<InstanceRecord>(
        `select ${INSTANCE_COLUMNS} from cfsb.instances
          where cluster_id = $1 and effective_at is null and ineffective_at is null order by created_at, id`,
        [this.cluster],
      );
      return rows;
    });
  }

  /** Makes one that was begun; from then on it can be assigned. */
  async make({ database, owner }: InstanceRecord): Promise<void> {
    const { control, databases, waitForQuorum } = this.#deps;
    const config = await control.withConnection((connection) => readConfig(connection, this.cluster));
    await databases.create(database, owner);
    await databases.addExtensions(database, config.databaseExtensions);
    await databases.barrier(database);
    await control.withConnection((connection) =>
      connection.query(
        'update cfsb.instances set effective_at = now() where dbname = $1 and effective_at is null',
        [database],
      ),
    );
    await waitForQuorum?.();
  }
}

/**
 * Statements that give objects of role $1 in this database to $2. Indexes, columns and sequences of tables follow
 * their tables; the kinds are those that ALTER … OWNER TO has by these names.
 */
const OWNED = `
  select format('alter %s %s owner to %I', i.type, i.identity, $2::text) as statement
    from pg_shdepend d cross join lateral pg_identify_object(d.classid, d.objid, d.objsubid) i
   where d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'
     and d.refobjid = (select oid from pg_roles where rolname = $1)
     and d.dbid = (select oid from pg_database where datname = current_database())
     and i.type in ('schema', 'table', 'view', 'materialized view', 'foreign table', 'sequence', 'function',
       'procedure', 'aggregate', 'type', 'domain', 'collation', 'text search configuration',
       'text search dictionary', 'statistics object')
     and not (i.type = 'sequence' and exists (select from pg_depend o
       where o.classid = d.classid and o.objid = d.objid and o.deptype in ('a', 'i')))
   order by case i.type when 'schema' then 0 else 1 end, i.identity`;

/** Makers of the pool wait for each other: "pool". */
const POOL_LOCK = 0x706f6f6c;
/** Of one instance: "inst". */
const ASSIGN_LOCK = 0x696e7374;

function checkRole(role: string): void {
  if (BINDING_ROLE.test(role)) return;
  throw new VarveError('INVALID_ARGUMENT', `${JSON.stringify(role)} is not the name of a binding’s role`);
}

export function unknownDatabase(database: string): VarveError {
  return new VarveError('DATABASE_UNKNOWN', `the group has no database ${JSON.stringify(database)}`);
}
