import { userInfo } from 'node:os';
import { join } from 'node:path';

const OF_THE_SYSTEM = '/var/cache/varve';

/** What can be made again at any time, and is shared by all that this user runs: root's, or below the user's home. */
export function defaultCacheFolder(): string {
  if (process.getuid?.() === 0) return OF_THE_SYSTEM;
  try {
    return join(userInfo().homedir, '.cache', 'varve');
  } catch {
    // A user without an entry, as in a container: where it may not write, it does without.
    return OF_THE_SYSTEM;
  }
}
