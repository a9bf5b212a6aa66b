import * as z from 'zod';
import type { Connection } from '../../postgres/connection.ts';

const time = z.iso.datetime().nullable();

/** A row of `cfsb.instances`, as it travels between a service group and its manager. */
export const instanceRecord = z.object({
  clusterService: z.enum(['replicated', 'postgresql']),
  cluster: z.string().min(1),
  instanceId: z.string().nullable(),
  serviceId: z.string().nullable(),
  planId: z.string().nullable(),
  organizationId: z.string().nullable(),
  spaceId: z.string().nullable(),
  request: z.record(z.string(), z.unknown()).nullable(),
  database: z.string().min(1),
  owner: z.string().min(1),
  createdAt: z.iso.datetime(),
  effectiveAt: time,
  assignedAt: time,
  ineffectiveAt: time,
  decommissionedAt: time,
});
export type InstanceRecord = z.infer<typeof instanceRecord>;

/** Who gets a database. */
export const assignment = z.object({
  instanceId: z.string().min(1).max(255),
  serviceId: z.string().min(1),
  planId: z.string().min(1),
  organizationId: z.string(),
  spaceId: z.string(),
  /** What was asked for, to compare repeated requests with. */
  request: z.record(z.string(), z.unknown()),
});
export type Assignment = z.infer<typeof assignment>;

const ISO = (column: string): string =>
  `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;

export const INSTANCE_COLUMNS = `cluster_service as "clusterService", cluster_id as cluster,
  instance_id as "instanceId", service_id as "serviceId", plan_id as "planId",
  organization_id as "organizationId", space_id as "spaceId", request, dbname as database, dbuser as owner,
  ${ISO('created_at')} as "createdAt", ${ISO('effective_at')} as "effectiveAt",
  ${ISO('assigned_at')} as "assignedAt", ${ISO('ineffective_at')} as "ineffectiveAt",
  ${ISO('decommissioned_at')} as "decommissionedAt"`;

/** Where an instance stands; the order is that of its life. */
export type InstanceStage = 'creating' | 'available' | 'assigned' | 'leaving' | 'gone';

export function stageOf(record: InstanceRecord): InstanceStage {
  if (record.decommissionedAt !== null) return 'gone';
  if (record.ineffectiveAt !== null) return 'leaving';
  if (record.instanceId !== null) return 'assigned';
  return record.effectiveAt === null ? 'creating' : 'available';
}

export async function readInstance(
  connection: Connection,
  by: { readonly database: string } | { readonly instanceId: string },
): Promise<InstanceRecord | undefined> {
  const [condition, value] =
    'database' in by ? ['dbname = $1', by.database] : ['instance_id = $1', by.instanceId];
  const { rows } = await connection.query<InstanceRecord>(
    `select ${INSTANCE_COLUMNS} from cfsb.instances where ${condition}
      order by decommissioned_at is null desc, assigned_at desc nulls last limit 1`,
    [value],
  );
  return rows[0];
}

/**
 * Takes over what a service group says of its databases. That group is the one that knows: what it has written
 * wins, but nothing goes back in its life because an answer was slow.
 * @returns how many rows were new or changed
 */
export async function upsertInstances(
  connection: Connection,
  records: readonly InstanceRecord[],
): Promise<number> {
  const { rowCount } = await connection.query(
    `insert into cfsb.instances as i (cluster_service, cluster_id, instance_id, service_id, plan_id,
       organization_id, space_id, request, dbname, dbuser, created_at, effective_at, assigned_at, ineffective_at,
       decommissioned_at)
     select r."clusterService", r.cluster, r."instanceId", r."serviceId", r."planId", r."organizationId",
       r."spaceId", r.request, r.database, r.owner, r."createdAt", r."effectiveAt", r."assignedAt",
       r."ineffectiveAt", r."decommissionedAt"
       from jsonb_to_recordset($1::jsonb) as r ("clusterService" text, cluster text, "instanceId" text,
         "serviceId" text, "planId" text, "organizationId" text, "spaceId" text, request jsonb, database text,
         owner text, "createdAt" timestamptz, "effectiveAt" timestamptz, "assignedAt" timestamptz,
         "ineffectiveAt" timestamptz, "decommissionedAt" timestamptz)
     on conflict (dbname) do update set
       instance_id = coalesce(i.instance_id, excluded.instance_id),
       service_id = coalesce(i.service_id, excluded.service_id),
       plan_id = coalesce(i.plan_id, excluded.plan_id),
       organization_id = coalesce(i.organization_id, excluded.organization_id),
       space_id = coalesce(i.space_id, excluded.space_id),
       request = coalesce(i.request, excluded.request),
       effective_at = coalesce(i.effective_at, excluded.effective_at),
       assigned_at = coalesce(i.assigned_at, excluded.assigned_at),
       ineffective_at = coalesce(i.ineffective_at, excluded.ineffective_at),
       decommissioned_at = coalesce(i.decommissioned_at, excluded.decommissioned_at)
     where i.cluster_id = excluded.cluster_id and
       (i.instance_id, i.effective_at, i.assigned_at, i.ineffective_at, i.decommissioned_at) is distinct from
       (coalesce(i.instance_id, excluded.instance_id), coalesce(i.effective_at, excluded.effective_at),
        coalesce(i.assigned_at, excluded.assigned_at), coalesce(i.ineffective_at, excluded.ineffective_at),
        coalesce(i.decommissioned_at, excluded.decommissioned_at))`,
    [JSON.stringify(records)],
  );
  return rowCount;
}
