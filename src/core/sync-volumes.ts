import { execFile } from 'node:child_process';
import { statSync } from 'node:fs';
import { release } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);
/** Of Linux: the first one whose `syncfs` tells of writes that failed. */
const TELLS_FAILURES = [5, 8] as const;

let isAvailable: boolean | undefined;

/**
 * Makes everything durable that was written to the file systems of these folders, by whoever; of Node's own calls none
 * does. False where that cannot be done, or failed: then each file is to be synced by itself, which tells what is wrong
 * with it.
 */
export async function syncVolumes(folders: Iterable<string>): Promise<boolean> {
  isAvailable ??= process.platform === 'linux' && isRecent(release());
  if (!isAvailable) return false;
  // A shard may be on a disk of its own.
  const byDevice = new Map<number, string>();
  for (const folder of folders) {
    const { dev } = statSync(folder);
    if (!byDevice.has(dev)) byDevice.set(dev, folder);
  }
  try {
    for (const folder of byDevice.values()) await run('sync', ['-f', folder]);
    return true;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    // Without the program there is no use in trying again.
    if (typeof code === 'string') isAvailable = false;
    return false;
  }
}

function isRecent(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [leastMajor, leastMinor] = TELLS_FAILURES;
  return major > leastMajor || (major === leastMajor && minor >= leastMinor);
}
