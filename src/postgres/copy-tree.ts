import {
  chmodSync,
  chownSync,
  constants,
  copyFileSync,
  type Dirent,
  mkdirSync,
  readlinkSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { readdir } from 'node:fs/promises';
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

/** After so long others get their turn. */
const SLICE_MS = 5;

/**
 * Copies what is in folder `from` into folder `to`, which is there and empty. Files share their blocks where the file
 * system can do it. Nothing is synced. It is done in short slices, each without a pause: a data folder has a thousand
 * small files, and half of the work is what the thread pool takes to be told of each.
 */
export async function copyTree(from: string, to: string, options: CopyTreeOptions = {}): Promise<void> {
  options.signal?.throwIfAborted();
  const folders = [{ from, to }];
  let sliceBeganMs = performance.now();
  for (let folder = folders.pop(); folder; folder = folders.pop()) {
    for (const entry of await readdir(folder.from, { withFileTypes: true })) {
      if (performance.now() - sliceBeganMs > SLICE_MS) {
        await new Promise(setImmediate);
        options.signal?.throwIfAborted();
        sliceBeganMs = performance.now();
      }
      if (entry.isFile() && options.skips?.(entry.name) === true) continue;
      const [source, target] = [join(folder.from, entry.name), join(folder.to, entry.name)];
      copyEntry(entry, source, target, options);
      if (entry.isDirectory()) folders.push({ from: source, to: target });
    }
  }
}

/** Of a folder only itself. */
function copyEntry(
  entry: Dirent,
  source: string,
  target: string,
  { modeOf, owner }: Pick<CopyTreeOptions, 'modeOf' | 'owner'>,
): void {
  if (entry.isSymbolicLink()) {
    symlinkSync(readlinkSync(source), target);
    return;
  }
  if (entry.isDirectory()) {
    mkdirSync(target);
    // The mode given to mkdir is cut by the umask.
    chmodSync(target, modeOf ? modeOf(undefined) : statSync(source).mode & 0o777);
  } else {
    copyFileSync(source, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
    if (modeOf) chmodSync(target, modeOf(statSync(source).mode));
  }
  if (owner) chownSync(target, owner.uid, owner.gid);
}
