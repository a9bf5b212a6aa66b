import type { Connection } from '../../postgres/connection.ts';
import type { ClusterService } from '../schema/default-rows.ts';

export interface CatalogPlan {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly free: boolean;
  readonly clusterService: ClusterService;
}

export interface CatalogService {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly bindable: boolean;
  readonly tags: readonly string[];
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly plans: readonly CatalogPlan[];
}

/** What is in effect of `cfsb.services` and `cfsb.plans`. */
export async function readCatalog(connection: Connection): Promise<readonly CatalogService[]> {
  const { rows } = await connection.query<CatalogService>(
    `select s.service_id as id, s.name, s.description, s.bindable, s.tags, s.metadata,
            jsonb_agg(jsonb_build_object('id', p.plan_id, 'name', p.name, 'description', p.description,
              'free', p.free, 'clusterService', p.cluster_service) order by p.name) as plans
       from cfsb.services s join cfsb.plans p on p.service_id = s.service_id
      where s.effective_at <= now() and coalesce(s.ineffective_at > now(), true)
        and p.effective_at <= now() and coalesce(p.ineffective_at > now(), true)
      group by s.id order by s.name`,
  );
  return rows;
}

export function findPlan(
  catalog: readonly CatalogService[],
  serviceId: string,
  planId: string,
): CatalogPlan | undefined {
  return catalog.find(({ id }) => id === serviceId)?.plans.find(({ id }) => id === planId);
}

/** As Open Service Broker API 2.17 has it. */
export function catalogBody(catalog: readonly CatalogService[]): object {
  return {
    services: catalog.map(({ plans, metadata, tags, ...service }) => ({
      ...service,
      tags,
      metadata,
      instances_retrievable: true,
      bindings_retrievable: true,
      plan_updateable: false,
      allow_context_updates: false,
      plans: plans.map(({ id, name, description, free }) => ({
        id,
        name,
        description,
        free,
        bindable: service.bindable,
        plan_updateable: false,
        schemas: {
          service_instance: { create: { parameters: NO_PARAMETERS } },
          service_binding: { create: { parameters: NO_PARAMETERS } },
        },
      })),
    })),
  };
}

const NO_PARAMETERS = {
  $schema: 'http://json-schema.org/draft-04/schema#',
  type: 'object',
  additionalProperties: false,
  properties: {},
};
