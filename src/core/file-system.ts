import { dirname, join } from 'node:path';

/**
 * What the storage rooms know of a file system: few verbs, each with the least that every implementation
 * keeps. The real one is `NodeFileSystem`; tests have one that forgets what was not synced. One contract
 * suite runs against both.
 *
 * Errors carry the operating system's `code` (ENOENT, EEXIST, ENOSPC, EIO …), as Node's do; `hasCode` tells.
 *
 * Durability: the bytes of a file survive a power loss when `sync` or `datasync` came back after they were
 * written; its name (also a new or a removed one) when `syncFolder` of its folder came back after the change.
 * One says nothing of the other.
 */
export interface FileSystem {
  /** @throws ENOENT for `read` and `update`, EEXIST for `create` */
  open(path: string, mode: OpenMode): Promise<File>;
  /**
   * Contents of many small files, in the order of `paths`: as fast as the platform can, because restarts wait
   * for it. A file that cannot be read gives its error instead.
   */
  readFiles(paths: readonly string[]): Promise<(Buffer | Error)[]>;
  /**
   * Writes files with all that they are to have, one after the other, as `open` for `replace` and `write` would, in less
   * time; the bytes must not change meanwhile. Nothing is durable yet. When it throws, any of them may be there in part.
   */
  writeFiles(files: readonly WholeFile[]): Promise<void>;
  /** Replaces what is at `to`, if anything: at every instant, and after a crash, `to` is the old or the new. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file. @throws ENOENT */
  remove(path: string): Promise<void>;
  /** Removes an empty folder. @throws ENOENT, ENOTEMPTY */
  removeFolder(path: string): Promise<void>;
  /** By name, ascending. @throws ENOENT */
  list(path: string): Promise<readonly FolderEntry[]>;
  /** Makes one folder in an existing one. @throws ENOENT, EEXIST */
  makeFolder(path: string): Promise<void>;
  /** Makes the names in this folder durable as they are now. */
  syncFolder(path: string): Promise<void>;
  /**
   * As `sync` of each of these files and `syncFolder` of each of these folders, in the time that the platform needs for
   * all of them together: for many small files far less than one by one. In no order: what has to be durable before
   * something else comes in a call before it. All of them exist, and nobody writes to them meanwhile.
   */
  syncAll(paths: SyncedPaths): Promise<void>;
  /** Undefined when there is nothing of that name. */
  stat(path: string): Promise<FileStat | undefined>;
  /** What an ordinary user could still write below `path`. */
  freeBytes(path: string): Promise<number>;
}

/**
 * - `read`: an existing file, only for reading
 * - `update`: an existing file, for reading and writing
 * - `create`: a new file
 * - `replace`: a new file, or the existing one emptied
 */
export type OpenMode = 'read' | 'update' | 'create' | 'replace';

export interface WholeFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

export interface SyncedPaths {
  readonly files: readonly string[];
  readonly folders: readonly string[];
}

export interface FolderEntry {
  readonly name: string;
  readonly kind: 'file' | 'folder' | 'other';
}

export interface FileStat {
  readonly kind: 'file' | 'folder' | 'other';
  readonly sizeBytes: number;
}

/** An open file. Calls at the same time are allowed; writes to the same bytes must not overlap. */
export interface File extends AsyncDisposable {
  readonly path: string;
  sizeBytes(): Promise<number>;
  /**
   * Up to `lengthBytes` from `position`; fewer only at the end of the file. The buffer is the caller's: a view
   * of the beginning of `into` where that is given, otherwise a new one.
   */
  read(position: number, lengthBytes: number, into?: Buffer): Promise<Buffer>;
  /**
   * Fills `into` before it returns, where that is possible; returns how many bytes there were. To have a few pages read
   * by another thread costs several times what it costs to read them. For starts: a slow disk holds up everything.
   */
  readNow?(position: number, into: Uint8Array): number;
  /**
   * Writes all of `bytes`, which must not change meanwhile. When it throws, any part of them may be written.
   */
  write(position: number, bytes: Uint8Array): Promise<void>;
  /**
   * The same before it returns, where that is possible: what the operating system only copies into its memory costs
   * less than to hand it to another thread. Not while the file is synced, which could hold up everything.
   */
  writeNow?(position: number, bytes: Uint8Array): void;
  truncate(sizeBytes: number): Promise<void>;
  /** Bytes and size are durable; time stamps need not be. After a failure nobody knows what is: do not go on. */
  datasync(): Promise<void>;
  /** As `datasync`, with all that the file system knows of the file. */
  sync(): Promise<void>;
  /** Idempotent. Does not sync. */
  close(): Promise<void>;
}

/** True for an error of the operating system with one of these codes. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return code !== undefined && codes.includes(code);
}

/** The disk, or the user's share of it, is full: the one failure that passes by itself. */
export function isOutOfSpace(error: unknown): boolean {
  return hasCode(error, 'ENOSPC', 'EDQUOT');
}

/** Repeats `writeSome`, which says how many bytes it took, until all of `bytes` are written. */
export async function writeFully(
  bytes: Uint8Array,
  writeSome: (part: Uint8Array, doneBytes: number) => Promise<number>,
): Promise<void> {
  let doneBytes = 0;
  while (doneBytes < bytes.length) {
    const written = await writeSome(doneBytes === 0 ? bytes : bytes.subarray(doneBytes), doneBytes);
    if (written <= 0) throw tookNothing();
    doneBytes += written;
  }
}

/** `writeFully` for what does not wait. */
export function writeFullyNow(
  bytes: Uint8Array,
  writeSome: (part: Uint8Array, doneBytes: number) => number,
): void {
  let doneBytes = 0;
  while (doneBytes < bytes.length) {
    const written = writeSome(doneBytes === 0 ? bytes : bytes.subarray(doneBytes), doneBytes);
    if (written <= 0) throw tookNothing();
    doneBytes += written;
  }
}

// A device that takes nothing without an error would make the loops endless.
function tookNothing(): Error {
  return Object.assign(new Error('the device took no bytes'), { code: 'EIO' });
}

const ZEROS = new Uint8Array(256 * 1024);

/**
 * Allocates `[start, end)` of a file by writing zeros, in pieces, so that it does not hold up others. Node has
 * no fallocate; blocks that were written once make later syncs cheaper, because no size and no map changes.
 * @throws what `write` throws, and the signal's reason when it is aborted between two pieces
 */
export async function writeZeros(
  file: File,
  start: number,
  end: number,
  signal?: AbortSignal,
): Promise<void> {
  for (let position = start; position < end;) {
    signal?.throwIfAborted();
    const lengthBytes = Math.min(ZEROS.length, end - position);
    await file.write(position, ZEROS.subarray(0, lengthBytes));
    position += lengthBytes;
  }
}

/** The whole of a file. @throws ENOENT */
export async function readWholeFile(fs: FileSystem, path: string): Promise<Buffer> {
  await using file = await fs.open(path, 'read');
  return await file.read(0, await file.sizeBytes());
}

/**
 * The folders `base/names[0]/names[1]…` exist and their names are durable, also those that a process made that
 * was killed before it could sync. `base` exists. Returns the last one's path.
 */
export async function makeFolders(fs: FileSystem, base: string, names: readonly string[]): Promise<string> {
  let folder = base;
  for (const name of names) {
    const parent = folder;
    folder = join(parent, name);
    await makeFolderIfMissing(fs, folder);
    await fs.syncFolder(parent);
  }
  return folder;
}

/** Its name is not durable yet. */
export async function makeFolderIfMissing(fs: FileSystem, folder: string): Promise<void> {
  await fs.makeFolder(folder).catch((error: unknown) => {
    if (!hasCode(error, 'EEXIST')) throw error;
  });
}

/**
 * The file is there with exactly this content, durably, or what was there before still is. Leaves
 * `PATH.new` behind when the machine stops meanwhile; the next call replaces it.
 */
export async function writeFileAtomically(fs: FileSystem, path: string, content: Uint8Array): Promise<void> {
  const temporary = `${path}${TEMPORARY_SUFFIX}`;
  try {
    await using file = await fs.open(temporary, 'replace');
    await file.write(0, content);
    await file.sync();
  } catch (error) {
    await fs.remove(temporary).catch(() => {});
    throw error;
  }
  await fs.rename(temporary, path);
  await fs.syncFolder(dirname(path));
}

export const TEMPORARY_SUFFIX = '.new';
