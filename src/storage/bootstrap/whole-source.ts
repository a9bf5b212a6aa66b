import type {
  BootstrapNamespace,
  BootstrapRequest,
  BootstrapResult,
  BootstrapSource,
} from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';

/**
 * Fulfils everything of shards that are whole already: after a change of the placement a run goes over all shards that
 * the node has then, and these serve on meanwhile.
 */
export class WholeSource implements BootstrapSource {
  readonly name = 'whole';
  readonly #isWhole: (namespace: string, shard: number) => boolean;

  constructor(isWhole: (namespace: string, shard: number) => boolean) {
    this.#isWhole = isWhole;
  }

  async availableData({ options }: BootstrapNamespace, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    return ranges.filterShards((shard) => this.#isWhole(options.name, shard));
  }

  async availableIndex(namespace: BootstrapNamespace, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    return await this.availableData(namespace, ranges);
  }

  async read(requests: ReadonlyMap<string, BootstrapRequest>): Promise<ReadonlyMap<string, BootstrapResult>> {
    const nothing = { ranges: ShardTimeRanges.EMPTY, reasons: [] };
    return new Map(
      [...requests].map(([name, { data }]) => [
        name,
        { data: nothing, index: nothing, detail: `${data.shards.length} shards are whole already` },
      ]),
    );
  }

  why(): string {
    return 'the shard is not whole yet';
  }
}
