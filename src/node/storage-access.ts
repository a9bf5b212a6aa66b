import { resolve } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { StorageClient } from './storage-client.ts';
import { tokenOf } from './storage-settings.ts';
import { SystemFolder } from './system-folder.ts';

/**
 * A client of the storage node that options name: by its address, or a data node of the system in a folder.
 * @throws SYSTEM_NOT_FOUND, NODE_UNKNOWN, CONFIG_INVALID
 */
export async function storageClient(options: {
  readonly url: string | undefined;
  readonly dir: string;
  readonly node: string | undefined;
  readonly storageTokenFile: string | undefined;
}): Promise<StorageClient> {
  const token = tokenOf(options.storageTokenFile);
  if (options.url !== undefined) return new StorageClient(options.url, token);
  const folder = new SystemFolder(resolve(options.dir));
  const layout = await folder.readLayout();
  if (!layout) {
    throw new VarveError('SYSTEM_NOT_FOUND', `${folder.path} holds no system`, {
      hint: 'Name its folder with --dir, or a storage node with --url.',
    });
  }
  const data = layout.nodes.filter(({ kind }) => kind === 'data');
  const found = options.node === undefined ? data[0] : data.find(({ name }) => name === options.node);
  if (!found) {
    throw new VarveError('NODE_UNKNOWN', `there is no data node ${options.node ?? ''} in ${folder.path}`, {
      hint: `There are ${data.map(({ name }) => name).join(', ') || 'none'}.`,
    });
  }
  return new StorageClient(`http://127.0.0.1:${found.httpPort}`, token);
}
