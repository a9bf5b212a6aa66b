import { VarveError } from '../../core/errors.ts';
import type { NamespaceOptions } from '../engine/storage-engine.ts';
import { namespaceFromSettings, namespaceSettings } from '../protocol/namespace-json.ts';
import { answerData, decodeName, type Exchange } from './exchange.ts';
import type { StorageHttpDeps } from './storage-http.ts';

/** Where the namespaces of a system are kept. */
export interface NamespaceRegistry {
  /** As this node knows them, by name. */
  list(): readonly NamespaceOptions[];
  /**
   * In force on this node when it resolves, on others soon after.
   * @throws NAMESPACE_CHANGE_REFUSED, COORDINATOR_UNAVAILABLE
   */
  put(options: NamespaceOptions): Promise<void>;
  /** False when there is none of that name. Its data is deleted on every node. @throws COORDINATOR_UNAVAILABLE */
  remove(name: string): Promise<boolean>;
}

const shown = (options: NamespaceOptions): object => ({ name: options.name, ...namespaceSettings(options) });

/** `GET /api/v1/namespaces` */
export function namespaceList({ namespaces }: StorageHttpDeps, exchange: Exchange): Promise<void> {
  answerData(exchange, namespaces.list().map(shown));
  return Promise.resolve();
}

/** `GET`, `PUT` and `DELETE /api/v1/namespaces/NAME`. */
export async function namespaceItem(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const name = decodeName(exchange.path.slice(exchange.path.lastIndexOf('/') + 1));
  const current = deps.namespaces.list().find((options) => options.name === name);
  switch (exchange.request.method) {
    case 'PUT':
      return putNamespace(deps, exchange, { name, current });
    case 'DELETE':
      if (!(await deps.namespaces.remove(name))) throw unknown(name);
      return answerData(exchange, { name });
    default:
      if (!current) throw unknown(name);
      return answerData(exchange, shown(current));
  }
}

/** What is left out stays as it is; of a new namespace it is the default. */
async function putNamespace(
  deps: StorageHttpDeps,
  exchange: Exchange,
  { name, current }: { readonly name: string; readonly current: NamespaceOptions | undefined },
): Promise<void> {
  const text = (await deps.bodies.readText(exchange.request)).toString().trim();
  let settings: unknown = {};
  try {
    if (text !== '') settings = JSON.parse(text);
  } catch {
    throw new VarveError('NAMESPACE_INVALID', `namespace ${JSON.stringify(name)}: its settings are not JSON`);
  }
  const options = namespaceFromSettings(name, settings, current);
  await deps.namespaces.put(options);
  answerData(exchange, shown(options));
}

function unknown(name: string): VarveError {
  return new VarveError('NAMESPACE_UNKNOWN', `there is no namespace ${JSON.stringify(name.slice(0, 100))}`, {
    hint: 'varve namespace list shows those that are there; varve namespace create NAME makes one.',
  });
}
