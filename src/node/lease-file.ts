import { readFile } from 'node:fs/promises';
import * as z from 'zod';
import type { LeaseMemory } from '../cluster/master/master-lock.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';

const lease = z.object({ sessionId: z.string().min(1), server: z.string().optional() });

/**
 * What a node that comes back finds of its lease. A file that is damaged is none: then the lease of the process before
 * ends by its time.
 */
export function leaseFile(path: string): LeaseMemory {
  return {
    load: async () => {
      const text = await readFile(path, 'utf8').catch(() => '');
      try {
        return lease.safeParse(JSON.parse(text)).data;
      } catch {
        return undefined;
      }
    },
    save: (value) => writeFileAtomic(path, `${JSON.stringify(value)}\n`),
  };
}
