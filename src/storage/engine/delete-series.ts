import type { Namespace } from './namespace.ts';
import type { Tombstone } from './tombstones.ts';

/**
 * Carries a deletion out in memory, and has files looked at through it from now on. In one turn, so that what is
 * written afterwards is not hit. Returns how many series of the memory it matches.
 */
export function applyTombstone(namespace: Namespace, tombstone: Tombstone): number {
  const { selectors, startNs, endNs } = tombstone;
  const found = namespace.buffer.index().series({ selectors });
  const references = found.refs();
  if (references.length > 0) namespace.buffer.deleteSamples(references, { startNs, endNs });
  namespace.tombstones.add(tombstone);
  return references.length;
}
