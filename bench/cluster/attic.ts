import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const FOLDER = join(tmpdir(), `varve-bench-attic-${process.pid}`);

/**
 * Takes a folder away as if it were removed, which `clearAttic` does when nothing is measured any more: thousands of
 * files that have just gone make new ones slow for a minute, on ext4 without a journal five times as slow.
 */
export async function discard(folder: string): Promise<void> {
  await mkdir(FOLDER, { recursive: true });
  await rename(folder, join(FOLDER, randomUUID())).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EXDEV') return rm(folder, { recursive: true, force: true, maxRetries: 5 });
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });
}

export async function clearAttic(): Promise<void> {
  await rm(FOLDER, { recursive: true, force: true, maxRetries: 5 });
}
