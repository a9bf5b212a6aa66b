import { assert } from '../../core/errors.ts';
import type {
  BootstrapContext,
  BootstrapNamespace,
  BootstrapRequest,
  BootstrapResult,
  BootstrapSource,
} from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import type { TopologySnapshot } from './topology-snapshot.ts';

/**
 * Fulfils everything of shards that are new: there is nothing to get. A shard is new when more of its replicas are
 * initialising than leaving (the document's rule, M3's uninitialized_topology), and none of them has ever been
 * available: otherwise a replica that was lost would be mistaken for one that never was.
 */
export class UninitializedSource implements BootstrapSource {
  readonly name = 'uninitialized';

  async availableData(
    _namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    { topology }: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    return ranges.filterShards((shard) => isNew(topology, shard));
  }

  async availableIndex(
    namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    context: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    return await this.availableData(namespace, ranges, context);
  }

  why(shard: number, { topology }: BootstrapContext): string {
    return topology.everAvailable.has(shard)
      ? 'a replica of the shard was available once: it is not new'
      : 'no more of its replicas are initialising than leaving';
  }

  async read(requests: ReadonlyMap<string, BootstrapRequest>): Promise<ReadonlyMap<string, BootstrapResult>> {
    const nothing = { ranges: ShardTimeRanges.EMPTY, reasons: [] };
    return new Map(
      [...requests].map(([name, { data }]) => {
        const detail = data.isEmpty ? 'no shard is new' : `${data.shards.length} new shards`;
        return [name, { data: nothing, index: nothing, detail }];
      }),
    );
  }
}

/** Whether nobody can have data of the shard. */
export function isNew(topology: TopologySnapshot, shard: number): boolean {
  const replicas = topology.shards.get(shard);
  if (!replicas) return false;
  const states = [...replicas.values()];
  assert(!states.includes('unknown'), `the placement has shard ${shard} in an unknown state`);
  if (topology.everAvailable.has(shard)) return false;
  const count = (state: string): number => states.filter((one) => one === state).length;
  return count('initializing') > count('leaving');
}
