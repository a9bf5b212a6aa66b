import type {
  CoordinatorLog,
  Service,
  ServiceInstance,
  ServicesOptions,
  ServiceStatus,
} from './coordinator.ts';
import type { Row } from './etcd-kv.ts';

/** The values of a service's two keys. */
export type ServiceRecord = Required<Service>;
export interface StatusRecord {
  readonly status: ServiceStatus;
  readonly note: string;
}

/** What is registered under one name; in the order of ids. What others wrote there is left out, and told. */
export function instancesOf(
  rows: readonly Row[],
  { passing = false }: ServicesOptions,
  log: CoordinatorLog,
): readonly ServiceInstance[] {
  const statuses = new Map<string, ServiceStatus>();
  const records = new Map<string, ServiceRecord>();
  for (const { key, value } of rows) {
    const folder = key.slice(0, key.lastIndexOf('/'));
    const text = value.toString();
    if (key.endsWith('/status')) statuses.set(folder, statusFrom(text));
    if (!key.endsWith('/record')) continue;
    const record = recordFrom(text);
    if (record) records.set(folder, record);
    else log.warn({ key }, `${key} at the coordinator is no service that Varve registered, and is left out`);
  }
  const instances = [...records].map(([folder, record]) => ({
    ...record,
    // Its status is gone when nobody has reported for the TTL.
    status: statuses.get(folder) ?? ('critical' as const),
  }));
  return instances
    .filter(({ status }) => !passing || status === 'passing')
    .sort((a, b) => (a.id < b.id ? -1 : 1));
}

function recordFrom(text: string): ServiceRecord | undefined {
  const record = parsed(text) as Partial<ServiceRecord> | undefined;
  if (typeof record?.id !== 'string' || typeof record.name !== 'string') return undefined;
  if (typeof record.address !== 'string' || typeof record.port !== 'number') return undefined;
  const { id, name, address, port, tags = [], meta = {} } = record;
  return { id, name, address, port, tags, meta };
}

function statusFrom(text: string): ServiceStatus {
  const { status } = (parsed(text) ?? {}) as Partial<StatusRecord>;
  return status === 'passing' || status === 'warning' ? status : 'critical';
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) ?? undefined;
  } catch {
    return undefined;
  }
}
