import { randomBytes } from 'node:crypto';
import { chown, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

export interface AtomicFileOptions {
  /** Permission bits; 0600 when left out. */
  readonly mode?: number;
  /** Who gets the file; only root may give files away. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
}

/** Replaces a file so that a crash leaves the old or the new content, durably and never readable for more. */
export async function writeFileAtomic(
  path: string,
  text: string,
  options: AtomicFileOptions = {},
): Promise<void> {
  const mode = options.mode ?? 0o600;
  const temporary = `${path}.${randomBytes(4).toString('hex')}.new`;
  try {
    const file = await open(temporary, 'wx', mode);
    try {
      await file.writeFile(text);
      // The mode given to open is cut by the umask.
      await file.chmod(mode);
      await file.sync();
    } finally {
      await file.close();
    }
    if (options.owner) await chown(temporary, options.owner.uid, options.owner.gid);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Makes the names in a folder durable: what was created, renamed or removed there. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
