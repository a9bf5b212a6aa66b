import type { FileSystem } from '../../core/file-system.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import { nextVolume } from '../fileset/fileset-folder.ts';
import { FilesetWriter } from '../fileset/fileset-writer.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import type { BlockReader } from './block-reader.ts';
import { BlockWriter } from './block-writer.ts';
import { placeOf } from './fileset-summary.ts';
import type { Namespace } from './namespace.ts';
import { rebuildIndex } from './rebuild-index.ts';

/**
 * A fileset was found damaged: what of it is intact is written to the next volume, and the damaged one put aside, so
 * that damage costs the series that it hit and no others. Returns how many series were saved; undefined when the
 * fileset does not count any more.
 */
export async function salvageFileset(
  deps: { readonly fs: FileSystem; readonly createdAtNs: bigint },
  namespace: Namespace,
  damaged: Pick<FilesetInfo, 'blockStartNs' | 'shard' | 'volume'>,
): Promise<number | undefined> {
  const { fs, createdAtNs } = deps;
  const { filesets, name } = namespace;
  const reader = filesets.reader(damaged.blockStartNs, damaged.shard);
  if (!reader || reader.info.volume !== damaged.volume) return undefined;
  const { info } = reader;
  const { blockStartNs, shard, blockSizeNs } = info;
  await filesets.beginChange();
  const volume = await nextVolume(fs, filesets.root, { namespace: name, shard, blockStartNs });
  const id = { namespace: name, shard, blockStartNs, volume };
  const options = { root: filesets.root, id, kind: 'flush', blockSizeNs, createdAtNs } as const;
  await using files = await FilesetWriter.create({ fs }, options);
  const writer = new BlockWriter(files);
  await copyIntact(reader, writer);
  const saved = writer.series === 0 ? undefined : await writer.finish(reader.annotation.deletedUpTo);
  filesets.quarantine({ ...info, namespace: name });
  if (!saved) return 0;
  filesets.put(placeOf(saved));
  const readers = filesets.ofBlock(blockStartNs).filter((one) => one.info.shard === shard);
  if (namespace.options.indexEnabled) await rebuildIndex(namespace, readers);
  return writer.series;
}

async function copyIntact(reader: BlockReader, writer: BlockWriter): Promise<void> {
  for await (const { id, payload } of reader.series({ onDamage: () => {} })) {
    try {
      // All of it, so that what does not decode is left behind, too.
      await reader.decode(payload);
      await writer.add(id, await reader.sealed(payload));
    } catch (error) {
      if (!(error instanceof FileDamageError)) throw error;
    }
  }
}
