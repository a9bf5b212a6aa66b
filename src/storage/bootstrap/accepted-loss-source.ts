import type {
  BootstrapContext,
  BootstrapNamespace,
  BootstrapRequest,
  BootstrapResult,
  BootstrapSource,
} from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';

/**
 * What an operator has given up, because nobody has it any more: such ranges are empty. The last one to be asked, so
 * that whatever comes back before counts.
 */
export class AcceptedLossSource implements BootstrapSource {
  readonly name = 'acceptedLoss';
  readonly #accepted: (namespace: string) => ShardTimeRanges;

  constructor(accepted: (namespace: string) => ShardTimeRanges) {
    this.#accepted = accepted;
  }

  async availableData(namespace: BootstrapNamespace, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    return ranges.intersect(this.#accepted(namespace.options.name));
  }

  async availableIndex(namespace: BootstrapNamespace, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    return await this.availableData(namespace, ranges);
  }

  why(_shard: number, _context: BootstrapContext): string {
    return 'nobody has given it up (varve bootstrap accept-loss)';
  }

  async read(requests: ReadonlyMap<string, BootstrapRequest>): Promise<ReadonlyMap<string, BootstrapResult>> {
    const nothing = { ranges: ShardTimeRanges.EMPTY, reasons: [] };
    return new Map(
      [...requests].map(([name, { data }]) => {
        const shards = data.shards.join(', ');
        const detail = data.isEmpty ? 'nothing was given up' : `given up by an operator: shards ${shards}`;
        return [name, { data: nothing, index: nothing, detail }];
      }),
    );
  }
}
