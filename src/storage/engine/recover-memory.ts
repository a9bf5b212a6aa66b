import { join } from 'node:path';
import type { FileSystem } from '../../core/file-system.ts';
import { BufferMemory } from '../buffer/buffer-memory.ts';
import { MemoryImages, type ImageReport } from '../buffer/memory-image.ts';
import type { BufferState } from '../buffer/namespace-buffer.ts';
import { restoreImage, type RestoredImage } from '../buffer/restore-image.ts';
import type { LogPosition } from '../commit-log/replay.ts';
import { listSegments } from '../commit-log/segment-folder.ts';
import { loadSnapshots, type LoadedSnapshots } from '../fileset/snapshots.ts';
import { makeFolders } from '../../core/file-system.ts';
import type { HybridClock } from './hybrid-clock.ts';
import { IMAGE_FOLDER } from './image-folder.ts';
import { LOG_FOLDER } from './log-folder.ts';
import type { Namespace } from './namespace.ts';
import { snapshotRoot } from './take-snapshot.ts';

/** What an image notes beside the memory: JSON. */
interface ImageNotes {
  /** Of the namespaces, in the order of their buffers. */
  readonly ids: readonly number[];
  readonly position: LogPosition;
  /** The newest version at that instant. */
  readonly version: string;
}

export interface RecoveredMemory {
  readonly memory: BufferMemory;
  readonly images: MemoryImages;
  /** Of namespaces, by number: what an image had of them. */
  readonly states: ReadonlyMap<number, BufferState>;
  /** Where the log goes on behind the image; undefined when there is none, and snapshots are to be read. */
  readonly position: LogPosition | undefined;
  readonly version: bigint;
  readonly snapshots: LoadedSnapshots;
}

export interface RecoverMemoryOptions {
  readonly folder: string;
  readonly limitBytes: number;
  readonly wasm?: Uint8Array | undefined;
}

/**
 * The memory of the newest image, if it is of use: whole, of these kernels, and with the log behind it. Otherwise an
 * empty one: snapshots and log have everything that an image has.
 */
export async function recoverMemory(
  fs: FileSystem,
  { folder, limitBytes, wasm }: RecoverMemoryOptions,
): Promise<RecoveredMemory> {
  const snapshots = await loadSnapshots({ fs }, snapshotRoot(folder));
  const images = join(folder, IMAGE_FOLDER);
  const memoryOptions = { limitBytes, ...(wasm === undefined ? {} : { wasm }) };
  const { restored } = await restoreImage(fs, images, memoryOptions);
  const notes = restored && (await usableNotes(fs, folder, { restored, snapshots }));
  if (!restored || !notes) {
    const memory = new BufferMemory(memoryOptions);
    const none = new Map<number, BufferState>();
    return {
      memory,
      images: new MemoryImages(fs, images, memory),
      states: none,
      position: undefined,
      version: 0n,
      snapshots,
    };
  }
  const states = new Map(restored.buffers.map((state, index) => [notes.ids[index] ?? -1, state]));
  const { position } = notes;
  return {
    memory: restored.memory,
    images: restored.images,
    states,
    position,
    version: BigInt(notes.version),
    snapshots,
  };
}

async function usableNotes(
  fs: FileSystem,
  folder: string,
  { restored, snapshots }: { readonly restored: RestoredImage; readonly snapshots: LoadedSnapshots },
): Promise<ImageNotes | undefined> {
  const notes = restored.notes as ImageNotes;
  const { position } = notes;
  // What the log has forgotten since is in snapshots only.
  if ((snapshots.from?.sequence ?? 0) > position.sequence) return undefined;
  const [first] = await listSegments(fs, join(folder, LOG_FOLDER));
  return (first ?? 0) <= position.segment ? notes : undefined;
}

/**
 * Writes an image of the namespaces' memory; undefined when memory was given back meanwhile, and nothing was written.
 * What the image lets a restart skip in the log is durable without it.
 */
export async function writeImage(
  deps: { readonly fs: FileSystem; readonly folder: string; readonly images: MemoryImages },
  { namespaces, clock }: { readonly namespaces: readonly Namespace[]; readonly clock: HybridClock },
  positionNow: () => LogPosition,
): Promise<ImageReport | undefined> {
  await makeFolders(deps.fs, deps.folder, [IMAGE_FOLDER]);
  for (const { tombstones } of namespaces) await tombstones.save();
  await deps.images.prepare(namespaces.map(({ buffer }) => buffer));
  // In one turn: what is appended from here on is not in the image.
  const notes: ImageNotes = {
    ids: namespaces.map(({ id }) => id),
    position: positionNow(),
    version: String(clock.last),
  };
  const captured = deps.images.capture(
    namespaces.map(({ buffer }) => buffer),
    notes,
  );
  return await deps.images.write(captured);
}
