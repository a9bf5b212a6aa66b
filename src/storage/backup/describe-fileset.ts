import { decodeAnnotation } from '../engine/block-annotation.ts';
import { filesetPath } from '../fileset/fileset-id.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import type { BackedUpFileset } from './backup-manifest.ts';

/** As a manifest has it. */
export function describeFileset(root: string, info: FilesetInfo): BackedUpFileset {
  const { shard, blockStartNs, volume, digest, payloadBytes, indexBytes } = info;
  const { series, samples } = decodeAnnotation(info, filesetPath(root, info, 'info'));
  const sizeBytes = payloadBytes + indexBytes;
  return { shard, blockStartNs, volume, digest: digest.toString('hex'), series, samples, sizeBytes };
}
