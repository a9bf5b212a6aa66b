import { messageOf } from '../../core/errors.ts';
import { hasCode, type FileSystem } from '../../core/file-system.ts';
import { decodeDigestFile } from '../fileset/digest-file.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import { filesetPath, type FileKind, type FilesetId } from '../fileset/fileset-id.ts';
import type { DescribedFiles } from './peer-messages.ts';

/**
 * What another node has to know to copy a fileset, all of it when it is small. Nothing is checked but the digest file:
 * the other side does.
 * @param hasFiles data and index come with it
 * @throws ENOENT when it was replaced meanwhile, FILESET_DAMAGED
 */
export async function describeFiles(
  fs: FileSystem,
  root: string,
  id: FilesetId,
  hasFiles: boolean,
): Promise<DescribedFiles> {
  const kinds: FileKind[] = hasFiles ? ['info', 'digest', 'data', 'index'] : ['info', 'digest'];
  const paths = kinds.map((kind) => filesetPath(root, id, kind));
  const contents = (await fs.readFiles(paths)).map((content, place) => {
    if (content instanceof Buffer) return content;
    if (hasCode(content, 'ENOENT')) throw content;
    throw new FileDamageError({ file: paths[place] ?? '', offset: 0, reason: messageOf(content) }, content);
  });
  const [info = NOTHING, digest = NOTHING, data = NOTHING, index = NOTHING] = contents;
  return {
    info,
    sums: decodeDigestFile(paths[1] ?? '', digest),
    files: hasFiles ? { data, index } : undefined,
  };
}

const NOTHING = Buffer.alloc(0);
