import type { FilesetInfo } from '../fileset/info-file.ts';
import type { Namespace } from './namespace.ts';

/** What a node has of a shard in a block, as far as can be told without reading any sample. */
export interface StoredBlock {
  /** Of the file that counts. */
  readonly info: FilesetInfo | undefined;
  /** Series with samples that are in no file yet. */
  readonly memorySeries: number;
  /** The file has samples that were deleted since. */
  readonly hasDeletions: boolean;
}

export function storedBlock(namespace: Namespace, shard: number, startNs: bigint): StoredBlock {
  const { filesets, buffer, tombstones } = namespace;
  const isOpen = buffer.blocks().some((block) => block.startNs === startNs);
  const reader = tombstones.all.length > 0 ? filesets.reader(startNs, shard) : undefined;
  const due = reader
    ? tombstones.after(reader.annotation.deletedUpTo, startNs, startNs + reader.info.blockSizeNs)
    : [];
  return {
    info: filesets.info(startNs, shard),
    memorySeries: isOpen ? buffer.seriesOfBlock(startNs, shard).length : 0,
    hasDeletions: due.length > 0,
  };
}
