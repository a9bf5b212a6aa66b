import { join } from 'node:path';
import { hasCode, type FileSystem } from '../../core/file-system.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';

/** Removes a folder with all that is in it; one that is not there is gone already. */
export async function removeTree(fs: FileSystem, path: string): Promise<void> {
  const entries = await fs.list(path).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
  if (!entries) return;
  for (const { name, kind } of entries) {
    if (kind === 'folder') await removeTree(fs, join(path, name));
    else await removeIfThere(fs, join(path, name));
  }
  await fs.removeFolder(path).catch((error: unknown) => {
    if (!hasCode(error, 'ENOENT')) throw error;
  });
}
