import * as z from 'zod';
import { ERROR_CODES } from '../../core/error-codes.ts';
import { messageOf, VarveError, type ErrorCode } from '../../core/errors.ts';
import type { Coordinator } from '../../coordination/coordinator.ts';
import { GroupKeys, type GroupRecord, type MemberRecord } from '../group-keys.ts';
import type { ClusterService } from '../schema/default-rows.ts';
import { instanceRecord, type Assignment, type InstanceRecord } from './instances.ts';
import type { ServiceAddress, ServiceCluster, ServiceClusters } from './service-cluster.ts';

export interface HttpServiceClusterOptions {
  readonly cluster: string;
  readonly service: ClusterService;
  /** Of its members, where `adminApp` is mounted: `http://host:port/databases`. The first that answers is taken. */
  readonly urls: readonly string[];
  readonly token: string;
  readonly timeoutMs?: number;
}

const one = z.object({ database: instanceRecord.nullable() });
const many = z.object({ databases: z.array(instanceRecord) });
const address = z.object({ host: z.string().min(1), port: z.int().min(1).max(65_535) });

/**
 * A service group over HTTP. A member that cannot be reached is passed over; one that answers with an error has
 * spoken for the group. Every call may be repeated, so one that was cut off is asked of the next member.
 */
export class HttpServiceCluster implements ServiceCluster {
  readonly cluster: string;
  readonly service: ClusterService;
  readonly #options: HttpServiceClusterOptions;

  constructor(options: HttpServiceClusterOptions) {
    this.#options = options;
    this.cluster = options.cluster;
    this.service = options.service;
  }

  async databases(): Promise<readonly InstanceRecord[]> {
    return (await this.#ask('GET', '/', many)).databases;
  }

  async available(): Promise<readonly InstanceRecord[]> {
    return (await this.#ask('GET', '/available', many)).databases;
  }

  async database(name: string): Promise<InstanceRecord | undefined> {
    return (await this.#ask('GET', `/${encodeURIComponent(name)}`, one)).database ?? undefined;
  }

  async assign(assignment: Assignment): Promise<InstanceRecord | undefined> {
    return (await this.#ask('PUT', '/assign', one, assignment)).database ?? undefined;
  }

  bind(database: string, role: string, verifier: string): Promise<ServiceAddress> {
    return this.#ask('PUT', bindingPath(database, role), address, { verifier });
  }

  async unbind(database: string, role: string): Promise<void> {
    await this.#ask('DELETE', bindingPath(database, role), z.object({}));
  }

  async release(database: string): Promise<InstanceRecord> {
    const { database: record } = await this.#ask(
      'DELETE',
      `/decommission/${encodeURIComponent(database)}`,
      one,
    );
    if (record) return record;
    throw this.#unreachable('it does not say what became of the database');
  }

  async #ask<T>(method: string, path: string, schema: z.ZodType<T>, body?: object): Promise<T> {
    const reasons: string[] = [];
    for (const url of this.#options.urls) {
      let response: Response;
      let text: string;
      try {
        response = await fetch(`${url.replace(/\/$/, '')}${path === '/' ? '' : path}`, {
          method,
          headers: {
            authorization: `Bearer ${this.#options.token}`,
            ...(body ? { 'content-type': 'application/json' } : {}),
          },
          ...(body ? { body: JSON.stringify(body) } : {}),
          redirect: 'error',
          signal: AbortSignal.timeout(this.#options.timeoutMs ?? 60_000),
        });
        text = await response.text();
      } catch (error) {
        reasons.push(`${url}: ${messageOf(error)}`);
        continue;
      }
      return this.#answer(response, text, schema);
    }
    throw this.#unreachable(reasons.length === 0 ? 'no member offers HTTP' : reasons.join('\n'));
  }

  #answer<T>(response: Response, text: string, schema: z.ZodType<T>): T {
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      throw this.#unreachable(`it answered ${response.status} and no JSON`);
    }
    if (!response.ok) throw this.#refusal(response.status, json);
    const result = schema.safeParse(json);
    if (result.success) return result.data;
    throw this.#unreachable(`its answer is not of its form: ${result.error.issues[0]?.message ?? ''}`);
  }

  /** The error as it was raised there. */
  #refusal(status: number, json: unknown): VarveError {
    const error = z
      .object({ code: z.string(), message: z.string(), detail: z.string().optional() })
      .safeParse(json);
    if (!error.success || !Object.hasOwn(ERROR_CODES, error.data.code)) {
      return this.#unreachable(`it answered ${status}`);
    }
    const { code, message, detail } = error.data;
    return new VarveError(code as ErrorCode, `service group ${this.cluster}: ${message}`, { detail });
  }

  #unreachable(detail: string): VarveError {
    return new VarveError('SERVICE_CLUSTER_UNREACHABLE', `service group ${this.cluster} did not answer`, {
      detail,
      hint: 'Look whether its members run, and whether their HTTP is reachable from here with the same token.',
    });
  }
}

function bindingPath(database: string, role: string): string {
  return `/${encodeURIComponent(database)}/bindings/${encodeURIComponent(role)}`;
}

const GROUP_KEY = /^varve\/cluster\/([a-z][a-z0-9-]*)\/group$/;

/**
 * The service groups that the coordinator knows: their members say there where their HTTP is. The write master is
 * asked first. The coordinator tells who is there, the groups what they have: rows of thousands of databases do
 * not fit into keys, and passwords have no place there.
 */
export class CoordinatorServiceClusters implements ServiceClusters {
  readonly #coordinator: Coordinator;
  readonly #token: string;

  constructor(coordinator: Coordinator, token: string) {
    this.#coordinator = coordinator;
    this.#token = token;
  }

  async list(): Promise<readonly ServiceCluster[]> {
    const entries = await this.#coordinator.list('varve/cluster/');
    const names = entries.flatMap(({ key }) => GROUP_KEY.exec(key)?.[1] ?? []);
    const clusters: ServiceCluster[] = [];
    for (const name of names) {
      const keys = new GroupKeys(this.#coordinator, name);
      const group = await keys.group.read();
      if (group?.value.kind !== 'service' || group.value.state !== 'complete') continue;
      const members = [...(await keys.members.list()).values()].map(({ value }) => value);
      const master = (await keys.master.read())?.value.node;
      clusters.push(this.#cluster(name, group.value, inOrder(members, master)));
    }
    return clusters;
  }

  #cluster(cluster: string, group: GroupRecord, members: readonly MemberRecord[]): ServiceCluster {
    return new HttpServiceCluster({
      cluster,
      service: group.size > 1 ? 'replicated' : 'postgresql',
      urls: members.flatMap(({ httpUrl }) =>
        httpUrl === undefined ? [] : [`${httpUrl.replace(/\/$/, '')}/databases`],
      ),
      token: this.#token,
    });
  }
}

function inOrder(members: readonly MemberRecord[], master: string | undefined): readonly MemberRecord[] {
  return members
    .filter(({ state }) => state === 'member')
    .toSorted((a, b) => Number(b.node === master) - Number(a.node === master));
}
