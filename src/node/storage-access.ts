import { resolve } from 'node:path';
import { assert, VarveError } from '../core/errors.ts';
import { StorageClient } from './storage-client.ts';
import { tokenOf } from './storage-settings.ts';
import { SystemFolder } from './system-folder.ts';

interface Named {
  readonly url: string | undefined;
  readonly dir: string;
  readonly node: string | undefined;
  readonly storageTokenFile: string | undefined;
}

/**
 * A client of the storage node that options name: by its address, or a data node of the system in a folder.
 * @throws SYSTEM_NOT_FOUND, NODE_UNKNOWN, CONFIG_INVALID
 */
export async function storageClient(options: Named): Promise<StorageClient> {
  const [first] = await storageClients(options);
  assert(first, 'there is one, or it is said why not');
  return first;
}

/** Of several nodes, of which any will do: all that the options do not exclude, at least one. */
export async function storageClients(options: Named): Promise<readonly StorageClient[]> {
  const token = tokenOf(options.storageTokenFile);
  if (options.url !== undefined) return options.url.split(',').map((url) => new StorageClient(url, token));
  const folder = new SystemFolder(resolve(options.dir));
  const layout = await folder.readLayout();
  if (!layout) {
    throw new VarveError('SYSTEM_NOT_FOUND', `${folder.path} holds no system`, {
      hint: 'Name its folder with --dir, or a storage node with --url.',
    });
  }
  const data = layout.nodes.filter(({ kind }) => kind === 'data');
  const found = data.filter(({ name }) => options.node === undefined || name === options.node);
  if (found.length === 0) {
    throw new VarveError('NODE_UNKNOWN', `there is no data node ${options.node ?? ''} in ${folder.path}`, {
      hint: `There are ${data.map(({ name }) => name).join(', ') || 'none'}.`,
    });
  }
  return found.map(({ httpPort }) => new StorageClient(`http://127.0.0.1:${httpPort}`, token));
}

/** Of the first that answers; what it answers counts, also when that is no. @throws STORAGE_NOT_READY */
export async function firstAnswer<T>(
  clients: readonly StorageClient[],
  ask: (client: StorageClient) => Promise<T>,
): Promise<T> {
  let silent: unknown;
  for (const client of clients) {
    try {
      return await ask(client);
    } catch (error) {
      const isSilent = error instanceof VarveError && error.code === 'STORAGE_NOT_READY';
      if (!isSilent) throw error;
      silent ??= error;
    }
  }
  throw silent;
}
