import { dirname } from 'node:path';
import { TEMPORARY_SUFFIX, type FileSystem, type WholeFile } from '../../core/file-system.ts';
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
  await fs.writeFiles(smallFiles(root, info, sums));
}

/** What is known of data and index, as files. */
export function smallFiles(root: string, info: FilesetInfo, sums: Omit<FileSums, 'info'>): WholeFile[] {
  const infoBytes = encodeInfo(info);
  const digestBytes = encodeDigestFile({ ...sums, info: sumOf(infoBytes) });
  return [
    { path: filesetPath(root, info, 'info'), bytes: infoBytes },
    { path: filesetPath(root, info, 'digest'), bytes: digestBytes },
    { path: unsealed(root, info), bytes: encodeCheckpoint(contentChecksum(digestBytes)) },
  ];
}

/**
 * Makes filesets durable and complete whose files are all written: first all of what they have, then the names of
 * their checkpoints, so that none of them is ever there in part.
 * @throws what the disk throws; then any of them may be complete
 */
export async function sealFilesets(fs: FileSystem, root: string, ids: readonly FilesetId[]): Promise<void> {
  await nameSealed(fs, root, ids);
  await fs.syncAll({ files: [], folders: foldersOf(root, ids) });
}

/**
 * The same, but for that the names of the checkpoints are not durable yet: the next sync of the folders sees to it.
 * @param renamed of which that is to be done now
 */
export async function nameSealed(
  fs: FileSystem,
  root: string,
  ids: readonly FilesetId[],
  renamed: readonly FilesetId[] = [],
): Promise<void> {
  const folders = foldersOf(root, ids);
  const above = new Set(folders.map(dirname));
  const files = ids.flatMap((id) =>
    FILE_KINDS.map((kind) => (kind === 'checkpoint' ? unsealed(root, id) : filesetPath(root, id, kind))),
  );
  const all = new Set([root, ...above, ...folders, ...foldersOf(root, renamed)]);
  await fs.syncAll({ files, folders: [...all] });
  for (const id of ids) await fs.rename(unsealed(root, id), filesetPath(root, id, 'checkpoint'));
}

function foldersOf(root: string, ids: readonly FilesetId[]): string[] {
  return [...new Set(ids.map((id) => shardFolder(root, id)))];
}

function unsealed(root: string, id: FilesetId): string {
  return `${filesetPath(root, id, 'checkpoint')}${TEMPORARY_SUFFIX}`;
}

function sumOf(bytes: Buffer): FileSum {
  return { sizeBytes: bytes.length, checksum: contentChecksum(bytes) };
}
