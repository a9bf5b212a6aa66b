import type { FileSystem } from '../../core/file-system.ts';
import { replayCommitLog, type LogPosition } from '../commit-log/replay.ts';
import { isFlushedRecord, decodeLogRecord, type LogContent } from '../engine/log-records.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';

export type FlushedContent = Extract<LogContent, { readonly kind: 'flushed' }>;

const NONE: readonly bigint[] = [];

/** Until which record of the log blocks are in filesets: their samples before it need not be replayed. */
export class FlushedBlocks {
  /** By namespace and block. */
  readonly #sequences = new Map<number, Map<bigint, number>>();

  /** All that the log has of the block before this record is in filesets that are there. Called in ascending order. */
  add({ namespaceId, blockStartNs }: FlushedContent, sequence: number): void {
    const blocks = this.#sequences.get(namespaceId) ?? new Map<bigint, number>();
    this.#sequences.set(namespaceId, blocks.set(blockStartNs, sequence));
  }

  has(namespaceId: number, blockStartNs: bigint): boolean {
    return this.#sequences.get(namespaceId)?.has(blockStartNs) ?? false;
  }

  /** The blocks of which this record of the log has nothing that filesets have not. */
  before(namespaceId: number, sequence: number): readonly bigint[] {
    const blocks = this.#sequences.get(namespaceId);
    if (blocks === undefined) return NONE;
    return [...blocks].flatMap(([startNs, flushed]) => (sequence < flushed ? [startNs] : []));
  }
}

/** Reads the log once for nothing else: most of what a replay takes is to put samples where they belong. */
export async function findFlushedBlocks(
  fs: FileSystem,
  options: {
    readonly folder: string;
    readonly from: LogPosition | undefined;
    readonly signal: AbortSignal;
  },
  isThere: (flushed: FlushedContent) => boolean,
): Promise<FlushedBlocks> {
  const found = new FlushedBlocks();
  await replayCommitLog({ fs }, options, ({ payload, sequence }) => {
    if (!isFlushedRecord(payload)) return;
    try {
      const content = decodeLogRecord(payload);
      if (content.kind === 'flushed' && isThere(content)) found.add(content, sequence);
    } catch (error) {
      // The replay comes upon it, too, and tells.
      if (!(error instanceof FormatFault)) throw error;
    }
  });
  return found;
}
