import type { FileSystem } from '../../core/file-system.ts';
import { FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import { readInfos } from '../fileset/fileset-folder.ts';
import { filesetPath } from '../fileset/fileset-id.ts';
import { verifyFileset } from '../fileset/verify-fileset.ts';
import type { BackupFolder } from './backup-folder.ts';
import type { BackedUpNamespace } from './backup-manifest.ts';

/**
 * Everything of these namespaces that is not as it was written, found by reading every byte; a fileset that another
 * backup has as well is read once. Changes nothing.
 * @throws the signal's reason when it is aborted
 */
export async function* verifyBackup(
  fs: FileSystem,
  folder: BackupFolder,
  namespaces: readonly BackedUpNamespace[],
  signal?: AbortSignal,
): AsyncGenerator<FileDamage, void, void> {
  const seen = new Set<string>();
  for (const { name: namespace, filesets } of namespaces) {
    for (const { digest, ...fileset } of filesets) {
      const id = { ...fileset, namespace };
      const file = filesetPath(folder.root, id, 'info');
      if (seen.has(file)) continue;
      seen.add(file);
      const damages = await verifyFileset({ fs }, folder.root, id, signal);
      yield* damages;
      if (damages.length > 0) continue;
      const [info] = await readInfos(fs, folder.root, [id]);
      if (info === undefined || info instanceof FileDamageError) continue;
      if (info.digest.toString('hex') !== digest) {
        yield { file, offset: 0, reason: 'it is another fileset than the one that the backup means' };
      }
    }
  }
}
