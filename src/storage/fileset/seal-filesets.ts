import { dirname } from 'node:path';
import { TEMPORARY_SUFFIX, type FileSystem } from '../../core/file-system.ts';
import { contentChecksum } from './checked-file.ts';
import { encodeCheckpoint, encodeDigestFile, type FileSum, type FileSums } from './digest-file.ts';
import { FILE_KINDS, filesetPath, shardFolder, type FilesetId } from './fileset-id.ts';
import { encodeInfo, type FilesetInfo } from './info-file.ts';

/** Data and index are written: writes what is known of them, the checkpoint under another name. Nothing is durable yet. */
export async function writeSmallFiles(
  fs: FileSystem,
  root: string,
  info: FilesetInfo,
  sums: Omit<FileSums, 'info'>,
): Promise<void> {
  const infoBytes = encodeInfo(info);
  const digestBytes = encodeDigestFile({ ...sums, info: sumOf(infoBytes) });
  await writeFile(fs, filesetPath(root, info, 'info'), infoBytes);
  await writeFile(fs, filesetPath(root, info, 'digest'), digestBytes);
  await writeFile(fs, unsealed(root, info), encodeCheckpoint(contentChecksum(digestBytes)));
}

/**
 * Makes filesets durable and complete whose files are all written: first all of what they have, then the names of
 * their checkpoints, so that none of them is ever there in part. For many together the disk is waited for twice.
 * @throws what the disk throws; then any of them may be complete
 */
export async function sealFilesets(fs: FileSystem, root: string, ids: readonly FilesetId[]): Promise<void> {
  const folders = [...new Set(ids.map((id) => shardFolder(root, id)))];
  const above = [...new Set(folders.map(dirname))];
  const files = ids.flatMap((id) =>
    FILE_KINDS.map((kind) => (kind === 'checkpoint' ? unsealed(root, id) : filesetPath(root, id, kind))),
  );
  await fs.syncAll({ files, folders: [root, ...above, ...folders] });
  for (const id of ids) await fs.rename(unsealed(root, id), filesetPath(root, id, 'checkpoint'));
  await fs.syncAll({ files: [], folders });
}

function unsealed(root: string, id: FilesetId): string {
  return `${filesetPath(root, id, 'checkpoint')}${TEMPORARY_SUFFIX}`;
}

function sumOf(bytes: Buffer): FileSum {
  return { sizeBytes: bytes.length, checksum: contentChecksum(bytes) };
}

async function writeFile(fs: FileSystem, path: string, bytes: Buffer): Promise<void> {
  await using file = await fs.open(path, 'replace');
  await file.write(0, bytes);
}
