import { chmod, chown, constants, copyFile, mkdir, readdir, readlink, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunAs } from './run-as.ts';

export interface CopyTreeOptions {
  /** Files that are left out. */
  readonly skips?: (name: string) => boolean;
  /** Permission bits of a folder (`mode` undefined) or file; those of the original when left out. */
  readonly modeOf?: (mode: number | undefined) => number;
  /** Who gets what is in `to`, but not `to` itself. */
  readonly owner?: RunAs | undefined;
  readonly signal?: AbortSignal;
}

/**
 * Copies what is in folder `from` into folder `to`, which is there and empty. Files share their blocks where the file
 * system can do it. Nothing is synced.
 */
export async function copyTree(from: string, to: string, options: CopyTreeOptions = {}): Promise<void> {
  const { skips, modeOf, owner, signal } = options;
  signal?.throwIfAborted();
  const copy = async (name: string, kind: 'folder' | 'link' | 'file'): Promise<void> => {
    const [source, target] = [join(from, name), join(to, name)];
    if (kind === 'link') return symlink(await readlink(source), target);
    if (kind === 'folder') {
      await mkdir(target);
      // The mode given to mkdir is cut by the umask.
      await chmod(target, modeOf ? modeOf(undefined) : (await stat(source)).mode & 0o777);
      await copyTree(source, target, options);
    } else {
      await copyFile(source, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
      if (modeOf) await chmod(target, modeOf((await stat(source)).mode));
    }
    if (owner) await chown(target, owner.uid, owner.gid);
  };
  const entries = await readdir(from, { withFileTypes: true });
  await Promise.all(
    entries
      .filter((entry) => !entry.isFile() || skips?.(entry.name) !== true)
      .map((entry) =>
        copy(entry.name, entry.isDirectory() ? 'folder' : entry.isSymbolicLink() ? 'link' : 'file'),
      ),
  );
}
