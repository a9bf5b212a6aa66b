import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';

/** What a fileset holds: one shard's data of one block, in one of its versions. */
export interface FilesetId {
  readonly namespace: string;
  readonly shard: number;
  /** Nanoseconds since the Unix epoch; with the block size it is `[start, start + size)`. */
  readonly blockStartNs: bigint;
  /** The complete fileset with the highest volume is the one that counts. */
  readonly volume: number;
}

export interface ShardId {
  readonly namespace: string;
  readonly shard: number;
}

/** In the order in which they become durable: the last one says that all of them are. */
export const FILE_KINDS = ['data', 'index', 'info', 'digest', 'checkpoint'] as const;
export type FileKind = (typeof FILE_KINDS)[number];

/** Where damaged filesets are put aside, in the folder of their shard. */
export const QUARANTINE_FOLDER = 'damaged';

const NAMESPACE = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const SHARD = /^\d{1,9}$/;
const FILE = /^fileset-(-?\d{1,19})-(\d{1,9})-(data|index|info|digest|checkpoint)\.db$/;
export const MAX_UINT32 = 0xffff_ffff;

/** @throws INVALID_ARGUMENT when the name is none that a folder may have */
export function shardFolderNames({ namespace, shard }: ShardId): [string, string] {
  if (!NAMESPACE.test(namespace)) {
    throw new VarveError('INVALID_ARGUMENT', `"${namespace}" is no name of a namespace`, {
      hint: 'Use 1 to 128 of the characters A-Z, a-z, 0-9, "_", "." and "-", the first one no "." or "-".',
    });
  }
  return [namespace, String(shard)];
}

/** @throws INVALID_ARGUMENT when the namespace is none that a folder may have */
export function shardFolder(root: string, shard: ShardId): string {
  return join(root, ...shardFolderNames(shard));
}

export function filesetPath(root: string, id: FilesetId, kind: FileKind): string {
  return join(shardFolder(root, id), fileName(id, kind));
}

export function fileName(id: Pick<FilesetId, 'blockStartNs' | 'volume'>, kind: FileKind): string {
  return `fileset-${id.blockStartNs}-${id.volume}-${kind}.db`;
}

/** What a file's name says; undefined when it is no file of a fileset. */
export function parseFileName(
  name: string,
): { blockStartNs: bigint; volume: number; kind: FileKind } | undefined {
  const [, blockStart, volume, kind] = FILE.exec(name) ?? [];
  if (blockStart === undefined || volume === undefined || kind === undefined) return undefined;
  const parsed = { blockStartNs: BigInt(blockStart), volume: Number(volume), kind: kind as FileKind };
  // One fileset has one name: a number written otherwise is somebody else's file.
  return fileName(parsed, parsed.kind) === name ? parsed : undefined;
}

export function isNamespaceFolder(name: string): boolean {
  return NAMESPACE.test(name);
}

export function parseShardFolder(name: string): number | undefined {
  return SHARD.test(name) && String(Number(name)) === name ? Number(name) : undefined;
}

export function describeFileset({ namespace, shard, blockStartNs, volume }: FilesetId): string {
  return `namespace ${namespace}, shard ${shard}, block ${blockStartNs}, volume ${volume}`;
}
