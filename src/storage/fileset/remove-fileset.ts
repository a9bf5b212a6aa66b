import { hasCode, TEMPORARY_SUFFIX, type FileSystem } from '../../core/file-system.ts';
import { FILE_KINDS, filesetPath, shardFolder, type FilesetId } from './fileset-id.ts';

/**
 * Removes a fileset for good. A crash leaves it whole or incomplete, never complete in part. Readers that have
 * its files open go on; others must not begin.
 */
export async function removeFileset(fs: FileSystem, root: string, id: FilesetId): Promise<void> {
  const checkpoint = filesetPath(root, id, 'checkpoint');
  await removeIfThere(fs, checkpoint);
  await fs.syncFolder(shardFolder(root, id));
  for (const kind of FILE_KINDS)
    if (kind !== 'checkpoint') await removeIfThere(fs, filesetPath(root, id, kind));
  await removeIfThere(fs, `${checkpoint}${TEMPORARY_SUFFIX}`);
}

export async function removeIfThere(fs: FileSystem, path: string): Promise<void> {
  await fs.remove(path).catch((error: unknown) => {
    if (!hasCode(error, 'ENOENT')) throw error;
  });
}
