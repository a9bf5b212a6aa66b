import { messageOf, VarveError, type ErrorCode } from '../core/errors.ts';
import { ERROR_CODES } from '../core/error-codes.ts';
import type { BootstrapRequestBody } from './bootstrap-request.ts';
import { BY_HEADER } from './json-body.ts';
import type { NodeStatus } from './node-status.ts';
import type { PlacementPlan, PlacementView } from './placement-control.ts';
import type { PlacementRequest } from './placement-request.ts';
import { BOOTSTRAP_PATH } from './operation-paths.ts';
import type { InterventionAnswer } from './storage-operations.ts';
import { EXPLAIN_PATH, type ShardExplanation } from './storage-explain.ts';
import type { PlacementStatus } from './storage-placement.ts';

/** One namespace as a storage node tells it. */
export type ListedNamespace = Readonly<Record<string, string | number | boolean>> & { readonly name: string };

/** Asks a storage node over HTTP, as any client could. */
export class StorageClient {
  readonly url: string;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(url: string, token: string | undefined) {
    this.url = url.replace(/\/+$/, '');
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  async namespaces(): Promise<readonly ListedNamespace[]> {
    return (await this.#data('/api/v1/namespaces')) as ListedNamespace[];
  }

  async putNamespace(name: string, settings: object): Promise<ListedNamespace> {
    const body = JSON.stringify(settings);
    return (await this.#data(namespacePath(name), { method: 'PUT', body })) as ListedNamespace;
  }

  async deleteNamespace(name: string): Promise<void> {
    await this.#data(namespacePath(name), { method: 'DELETE' });
  }

  /** @throws STORAGE_NOT_READY when it does not answer */
  async status(): Promise<NodeStatus> {
    return (await (await this.#ask('/api/status')).json()) as NodeStatus;
  }

  async placement(): Promise<PlacementView> {
    return (await this.#data('/api/placement')) as PlacementView;
  }

  /** Where the data of a shard came from on this node. */
  async explain(shard: string): Promise<ShardExplanation> {
    return (await this.#data(`${EXPLAIN_PATH}?shard=${encodeURIComponent(shard)}`)) as ShardExplanation;
  }

  /** What the bootstrap of this node would do; changes nothing. @throws BOOTSTRAP_INTERVENTION_REFUSED */
  async planIntervention(request: BootstrapRequestBody): Promise<InterventionAnswer> {
    const body = JSON.stringify(request);
    return (await this.#data(`${BOOTSTRAP_PATH}/plan`, { method: 'POST', body })) as InterventionAnswer;
  }

  /** @param by who asks, for the history. @throws BOOTSTRAP_INTERVENTION_REFUSED */
  async intervene(request: BootstrapRequestBody, by: string): Promise<InterventionAnswer> {
    const init = { method: 'POST', body: JSON.stringify(request), headers: { [BY_HEADER]: by } };
    return (await this.#data(BOOTSTRAP_PATH, init)) as InterventionAnswer;
  }

  /** What a change would move. @throws what keeps it from being made */
  async planPlacement(change: PlacementRequest): Promise<PlacementPlan> {
    const body = JSON.stringify(change);
    return (await this.#data('/api/placement/plan', { method: 'POST', body })) as PlacementPlan;
  }

  /** @param by who asks, for the history */
  async changePlacement(change: PlacementRequest, by: string): Promise<PlacementStatus> {
    const init = { method: 'POST', body: JSON.stringify(change), headers: { [BY_HEADER]: by } };
    return (await this.#data('/api/placement', init)) as PlacementStatus;
  }

  /** Lines of JSON, in pieces as they come. @throws what the node answers, and when it ends too early */
  async *export(query: {
    readonly namespace: string;
    readonly match: string;
    readonly start: string | undefined;
    readonly end: string | undefined;
  }): AsyncGenerator<Uint8Array> {
    const params = new URLSearchParams({ 'match[]': query.match });
    if (query.start !== undefined) params.set('start', query.start);
    if (query.end !== undefined) params.set('end', query.end);
    const path = `/ns/${encodeURIComponent(query.namespace)}/api/v1/export?${params.toString()}`;
    const response = await this.#ask(path);
    yield* response.body ?? [];
  }

  /** Sends a remote write 1.0 body, compressed. @throws what the node answers */
  async write(body: Uint8Array, signal: AbortSignal): Promise<void> {
    const headers = { 'content-type': 'application/x-protobuf', 'content-encoding': 'snappy' };
    await this.#ask('/api/v1/write', { method: 'POST', body, headers, signal });
  }

  async #data(path: string, init: RequestInit = {}): Promise<unknown> {
    const answer = (await (await this.#ask(path, init)).json()) as { data?: unknown };
    return answer.data;
  }

  async #ask(path: string, init: RequestInit = {}): Promise<Response> {
    let response: Response;
    try {
      const headers = { ...this.#headers, ...(init.headers as Record<string, string> | undefined) };
      response = await fetch(`${this.url}${path}`, { ...init, headers });
    } catch (error) {
      init.signal?.throwIfAborted();
      const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
      throw new VarveError('STORAGE_NOT_READY', `${this.url} does not answer: ${messageOf(cause)}`, {
        hint: 'Check that the node runs there, or name another with --url.',
      });
    }
    if (response.ok) return response;
    throw answeredError(response.status, await response.text());
  }
}

function namespacePath(name: string): string {
  return `/api/v1/namespaces/${encodeURIComponent(name)}`;
}

function answeredError(status: number, text: string): VarveError {
  let message = text.trim();
  let code: ErrorCode = status === 503 ? 'STORAGE_NOT_READY' : 'INVALID_ARGUMENT';
  try {
    const body = JSON.parse(text) as { error?: string; code?: string };
    if (body.error !== undefined) message = body.error;
    if (body.code !== undefined && body.code in ERROR_CODES) code = body.code as ErrorCode;
  } catch {
    // Some answers are plain text.
  }
  return new VarveError(code, message === '' ? `the node answered ${status}` : message);
}
