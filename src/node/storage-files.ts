import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { NodeFileSystem } from '../core/node-file-system.ts';
import { bytesText } from '../run/figures.ts';
import { ColumnCodec } from '../storage/engine/sealed-series.ts';
import { inspectFolder, verifyFolder } from '../storage/engine/storage-check.ts';
import type { Finding, StoredFileset } from '../storage/engine/storage-engine.ts';
import { builtKernels, Kernel } from '../storage/kernel/kernel.ts';
import { formatDuration, formatTime } from '../storage/protocol/time-text.ts';
import { storageFolderOf } from './storage-settings.ts';
import { SystemFolder } from './system-folder.ts';
import { textTable } from './text-table.ts';

/** An engine's files, with the node that they belong to where that is known. */
export interface StorageFiles {
  readonly node: string | undefined;
  readonly folder: string;
}

const CODEC_LIMIT_BYTES = 2048 * 1024 * 1024;

/**
 * The engines below a folder: its own, or those of the data nodes of a system.
 * @throws SYSTEM_NOT_FOUND when there is none, NODE_UNKNOWN
 */
export async function findStorage(dir: string, node: string | undefined): Promise<readonly StorageFiles[]> {
  const path = resolve(dir);
  const system = new SystemFolder(path);
  const layout = await system.readLayout();
  if (!layout) {
    if (existsSync(path)) return [{ node: undefined, folder: path }];
    throw new VarveError('SYSTEM_NOT_FOUND', `there is no folder ${path}`, {
      hint: 'Name the folder of a storage engine or of a system with --dir.',
    });
  }
  const found = layout.nodes
    .filter(({ kind, name }) => kind === 'data' && (node === undefined || name === node))
    .map(({ name }) => ({ node: name, folder: storageFolderOf(system.nodeFolder(name)) }))
    .filter(({ folder }) => existsSync(folder));
  if (node !== undefined && found.length === 0) {
    throw new VarveError('NODE_UNKNOWN', `there is no node ${node} with a storage engine in ${path}`);
  }
  return found;
}

/** Every file set, from small files alone. */
export function inspectStorage(folder: string): AsyncIterable<StoredFileset> {
  return inspectFolder({ fs: new NodeFileSystem() }, folder);
}

/** Reads every byte. */
export function verifyStorage(folder: string, signal: AbortSignal): AsyncIterable<Finding> {
  let codec: ColumnCodec | undefined;
  const make = (): ColumnCodec =>
    (codec ??= new ColumnCodec(new Kernel(builtKernels(), { limitBytes: CODEC_LIMIT_BYTES })));
  return verifyFolder({ fs: new NodeFileSystem(), codec: make }, folder, { signal });
}

/** For people: one row for each namespace and block, whose shards are summed up. */
export function inspectionLines(filesets: readonly StoredFileset[]): string[] {
  const groups = new Map<string, StoredFileset[]>();
  for (const one of filesets) {
    const key = `${one.kind} ${one.namespace} ${one.blockStartNs}`;
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  const rows = [...groups.values()].map((group) => {
    const [first] = group;
    const sum = (read: (one: StoredFileset) => number): number =>
      group.reduce((total, one) => total + read(one), 0);
    const damaged = group.filter(({ damage }) => damage !== undefined);
    return [
      first?.namespace ?? '',
      first?.kind === 'snapshot' ? 'snapshot' : 'fileset',
      formatTime(first?.blockStartNs ?? 0n),
      formatDuration(first?.blockSizeNs ?? 0n),
      String(new Set(group.map(({ shard }) => shard)).size),
      String(Math.max(...group.map(({ volume }) => volume))),
      String(sum(({ series }) => series)),
      bytesText(sum(({ payloadBytes, indexBytes }) => payloadBytes + indexBytes)),
      damaged.length === 0 ? '' : `${damaged.length} damaged: ${damaged[0]?.damage ?? ''}`,
    ];
  });
  if (rows.length === 0) return ['There are no filesets: nothing was flushed yet.'];
  const sorted = rows.sort((a, b) => (a.join('\t') < b.join('\t') ? -1 : 1));
  return textTable(['namespace', 'kind', 'block', 'size', 'shards', 'volume', 'series', 'bytes', ''], sorted);
}

/** As JSON has it: without what JSON has no numbers for. */
export function inspectionJson(filesets: readonly StoredFileset[]): object[] {
  return filesets.map(({ blockStartNs, blockSizeNs, createdAtNs, damage, ...rest }) => ({
    ...rest,
    blockStart: formatTime(blockStartNs),
    blockSize: formatDuration(blockSizeNs),
    createdAt: formatTime(createdAtNs),
    damage: damage ?? null,
  }));
}

export function findingText({ kind, file, offset, reason }: Finding): string {
  return `${kind}: ${file}, offset ${offset}: ${reason}`;
}
