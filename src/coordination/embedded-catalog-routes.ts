import * as z from 'zod';
import { type Api, type ApiReply, type ApiRequest, BadRequest, parseJson } from './embedded-api.ts';
import { readBlocking } from './embedded-blocking.ts';
import {
  CATALOG_TOPIC,
  type CheckDefinition,
  type CheckRow,
  CHECKS_TOPIC,
  type CheckStatus,
  type ServiceRow,
  serviceTopic,
} from './embedded-catalog.ts';
import { parseDurationMs } from './duration.ts';

const DATACENTER = 'dc1';
const STATUSES = ['passing', 'warning', 'critical'] as const;

const duration = z.string().refine((text) => parseDurationMs(text) !== undefined, 'is not a duration');

const checkShape = z
  .object({
    CheckID: z.string().nullish(),
    Name: z.string().nullish(),
    Notes: z.string().nullish(),
    Status: z.enum(STATUSES).nullish(),
    TTL: duration.nullish(),
    HTTP: z.url({ protocol: /^https?$/ }).nullish(),
    Interval: duration.nullish(),
    Timeout: duration.nullish(),
    DeregisterCriticalServiceAfter: duration.nullish(),
  })
  .refine(({ TTL, HTTP }) => Boolean(TTL) !== Boolean(HTTP), 'must have TTL or HTTP, the kinds served here')
  .refine(({ HTTP, Interval }) => !HTTP || ms(Interval) > 0, 'Interval must be > 0 for HTTP checks');

const serviceShape = z.object({
  ID: z.string().nullish(),
  Name: z.string().min(1, 'Missing service name'),
  Tags: z.array(z.string()).nullish(),
  Address: z.string().nullish(),
  Port: z.int().min(0).max(65_535).nullish(),
  Meta: z.record(z.string(), z.string()).nullish(),
  EnableTagOverride: z.boolean().nullish(),
  Check: checkShape.nullish(),
  Checks: z.array(checkShape).nullish(),
});

/** `PUT /v1/agent/service/register`. */
export function registerService(api: Api, { body }: ApiRequest): ApiReply {
  const parsed = serviceShape.safeParse(parseJson(body));
  if (!parsed.success) throw new BadRequest(`Request decode failed: ${z.prettifyError(parsed.error)}`);
  const { ID, Name, Tags, Address, Port, Meta, EnableTagOverride, Check, Checks } = parsed.data;
  const id = ID ? ID : Name;
  const checks = [...(Check ? [Check] : []), ...(Checks ?? [])];
  api.submit({
    kind: 'service-register',
    service: {
      id,
      name: Name,
      tags: Tags ?? [],
      address: Address ?? '',
      port: Port ?? 0,
      meta: Meta ?? {},
      enableTagOverride: EnableTagOverride ?? false,
    },
    checks: checks.map((check, i) => {
      const numbered = checks.length > 1 ? `service:${id}:${i + 1}` : `service:${id}`;
      return checkOf(check, { id: numbered, serviceId: id, name: `Service '${Name}' check` });
    }),
  });
  return { status: 200 };
}

/** `PUT /v1/agent/service/deregister/ID`. */
export function deregisterService(api: Api, { rest }: ApiRequest): ApiReply {
  if (!api.store.catalog.services.has(rest)) return { status: 404, text: `Unknown service ID "${rest}"` };
  api.submit({ kind: 'service-deregister', id: rest });
  return { status: 200 };
}

const updateShape = z.object({ Status: z.enum(STATUSES), Output: z.string().nullish() });

/** `PUT /v1/agent/check/update/ID`. */
export function updateCheck(api: Api, { rest, body }: ApiRequest): ApiReply {
  const parsed = updateShape.safeParse(parseJson(body));
  if (!parsed.success) throw new BadRequest(`Invalid check update: ${z.prettifyError(parsed.error)}`);
  return setStatus(api, rest, { status: parsed.data.Status, output: parsed.data.Output ?? '' });
}

/** `PUT /v1/agent/check/pass|warn|fail/ID`. */
export function markCheck(status: CheckStatus): (api: Api, request: ApiRequest) => ApiReply {
  return (api, { rest, query }) => setStatus(api, rest, { status, output: query.get('note') ?? '' });
}

/** `GET /v1/catalog/services`. */
export async function catalogServices(api: Api, request: ApiRequest): Promise<ApiReply> {
  await readBlocking(api, request, (topic) => topic === CATALOG_TOPIC);
  const tags: Record<string, string[]> = {};
  for (const service of api.store.catalog.services.values()) {
    tags[service.name] = [...new Set([...(tags[service.name] ?? []), ...service.tags])];
  }
  return { status: 200, json: tags, index: api.store.index };
}

/** `GET /v1/catalog/service/NAME`: healthy or not. */
export async function catalogService(api: Api, request: ApiRequest): Promise<ApiReply> {
  await readBlocking(api, request, (topic) => topic === serviceTopic(request.rest));
  const json = servicesNamed(api, request.rest).map((service) => ({
    ID: nodeId(api),
    Node: api.node,
    Address: '127.0.0.1',
    Datacenter: DATACENTER,
    TaggedAddresses: null,
    NodeMeta: null,
    ServiceKind: '',
    ServiceID: service.id,
    ServiceName: service.name,
    ServiceTags: service.tags,
    ServiceAddress: service.address,
    ServicePort: service.port,
    ServiceMeta: service.meta,
    ServiceWeights: { Passing: 1, Warning: 1 },
    ServiceEnableTagOverride: service.enableTagOverride,
    CreateIndex: service.createIndex,
    ModifyIndex: service.modifyIndex,
  }));
  return { status: 200, json, index: api.store.index };
}

/** `GET /v1/health/service/NAME` with `passing`. */
export async function healthService(api: Api, request: ApiRequest): Promise<ApiReply> {
  await readBlocking(api, request, (topic) => topic === serviceTopic(request.rest));
  const { query, rest } = request;
  const onlyPassing = query.has('passing') && query.get('passing') !== 'false';
  const json = servicesNamed(api, rest)
    .map((service) => ({ service, checks: api.store.catalog.checksOf(service.id) }))
    .filter(({ checks }) => !onlyPassing || checks.every(({ status }) => status === 'passing'))
    .map(({ service, checks }) => ({
      Node: nodeJson(api),
      Service: serviceJson(service),
      Checks: [serfHealth(api), ...checks.map((check) => checkJson(api, check))],
    }));
  return { status: 200, json, index: api.store.index };
}

/** `GET /v1/health/state/STATE`, `any` included. */
export async function healthState(api: Api, request: ApiRequest): Promise<ApiReply> {
  const { rest } = request;
  if (rest !== 'any' && !STATUSES.some((status) => status === rest)) {
    throw new BadRequest('Missing check state');
  }
  await readBlocking(api, request, (topic) => topic === CHECKS_TOPIC);
  const checks = [...api.store.catalog.checks.values()].map((check) => checkJson(api, check));
  const json = [serfHealth(api), ...checks].filter(({ Status }) => rest === 'any' || Status === rest);
  return { status: 200, json, index: api.store.index };
}

/** `GET /v1/status/leader`. */
export function statusLeader(api: Api): ApiReply {
  return { status: 200, json: api.address() };
}

/** `GET /v1/agent/self`. */
export function agentSelf(api: Api): ApiReply {
  const Config = {
    Datacenter: DATACENTER,
    NodeName: api.node,
    NodeID: nodeId(api),
    Server: true,
    Revision: 'varve',
    Version: '1.10.0',
  };
  return { status: 200, json: { Config, Member: { Name: api.node, Addr: '127.0.0.1', Status: 1 } } };
}

function setStatus(api: Api, id: string, to: { status: CheckStatus; output: string }): ApiReply {
  const check = api.store.catalog.checks.get(id);
  if (!check) return { status: 404, text: `Unknown check ID "${id}"` };
  if (check.method.kind !== 'ttl')
    return { status: 500, text: `CheckID "${id}" does not have associated TTL` };
  const outcome = api.submit({ kind: 'check-status', id, ...to });
  if ('changed' in outcome && !outcome.changed) api.store.catalog.heard(id, api.nowMs());
  return { status: 200 };
}

function checkOf(
  check: z.infer<typeof checkShape>,
  defaults: { readonly id: string; readonly serviceId: string; readonly name: string },
): CheckDefinition & { readonly status: CheckStatus } {
  return {
    id: check.CheckID ? check.CheckID : defaults.id,
    serviceId: defaults.serviceId,
    name: check.Name ? check.Name : defaults.name,
    notes: check.Notes ?? '',
    method: check.HTTP
      ? {
          kind: 'http',
          url: check.HTTP,
          intervalMs: ms(check.Interval),
          timeoutMs: ms(check.Timeout) || 10_000,
        }
      : { kind: 'ttl', ttlMs: ms(check.TTL) },
    deregisterAfterMs: ms(check.DeregisterCriticalServiceAfter),
    status: check.Status ?? 'critical',
  };
}

function ms(text: string | null | undefined): number {
  return parseDurationMs(text ?? '0') ?? 0;
}

function servicesNamed(api: Api, name: string): ServiceRow[] {
  return [...api.store.catalog.services.values()].filter((service) => service.name === name);
}

function nodeId(api: Api): string {
  const hex = Buffer.from(api.node.padEnd(16, ' ')).toString('hex').slice(0, 32);
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function nodeJson(api: Api): object {
  return {
    ID: nodeId(api),
    Node: api.node,
    Address: '127.0.0.1',
    Datacenter: DATACENTER,
    TaggedAddresses: null,
    Meta: null,
    CreateIndex: 1,
    ModifyIndex: 1,
  };
}

function serviceJson(service: ServiceRow): object {
  return {
    ID: service.id,
    Service: service.name,
    Tags: service.tags,
    Address: service.address,
    Meta: service.meta,
    Port: service.port,
    Weights: { Passing: 1, Warning: 1 },
    EnableTagOverride: service.enableTagOverride,
    CreateIndex: service.createIndex,
    ModifyIndex: service.modifyIndex,
  };
}

interface CheckJson {
  readonly Status: CheckStatus;
  readonly [field: string]: unknown;
}

function checkJson(api: Api, check: CheckRow): CheckJson {
  const service = api.store.catalog.services.get(check.serviceId);
  return {
    Node: api.node,
    CheckID: check.id,
    Name: check.name,
    Status: check.status,
    Notes: check.notes,
    Output: check.output,
    ServiceID: check.serviceId,
    ServiceName: service?.name ?? '',
    ServiceTags: service?.tags ?? [],
    Type: check.method.kind,
    Definition: {},
    CreateIndex: check.createIndex,
    ModifyIndex: check.modifyIndex,
  };
}

/** Of the node itself, which answers and so is alive. */
function serfHealth(api: Api): CheckJson {
  return {
    Node: api.node,
    CheckID: 'serfHealth',
    Name: 'Serf Health Status',
    Status: 'passing',
    Notes: '',
    Output: 'Agent alive and reachable',
    ServiceID: '',
    ServiceName: '',
    ServiceTags: [],
    Type: '',
    Definition: {},
    CreateIndex: 1,
    ModifyIndex: 1,
  };
}
