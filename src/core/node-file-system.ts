import { closeSync, fstatSync, openSync, readSync, write, writeSync } from 'node:fs';
import { mkdir, open, readdir, rename, rmdir, stat, statfs, unlink, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import {
  hasCode,
  writeFully,
  writeFullyNow,
  type File,
  type FileStat,
  type FileSystem,
  type FolderEntry,
  type OpenMode,
  type SyncedPaths,
  type WholeFile,
} from './file-system.ts';
import { syncVolumes } from './sync-volumes.ts';
import { Turns } from './turns.ts';

const FLAGS: Readonly<Record<OpenMode, string>> = { read: 'r', update: 'r+', create: 'wx+', replace: 'w+' };

/** How long small files are read or written before other work gets its turn. */
const SLICE_MS = 5;
/** More than so much is written by another thread: what the disk cannot take yet holds up who writes. */
const WRITTEN_NOW_BYTES = 64 * 1024;
const writeLater = promisify(write);

/** From so many on, the whole file system is synced at once: each sync by itself may wait for the disk. */
const SYNCED_AS_VOLUME = 24;
const SYNCED_AT_ONCE = 16;

/** The file system of this machine. Files are made with mode 0600, folders with 0700. */
export class NodeFileSystem implements FileSystem {
  async open(path: string, mode: OpenMode): Promise<File> {
    return new NodeFile(path, await open(path, FLAGS[mode], 0o600));
  }

  /**
   * Reads synchronously in short slices: 4 µs a file, against 100 and more through the thread pool, and it is
   * what a restart with thousands of filesets does.
   */
  async readFiles(paths: readonly string[]): Promise<(Buffer | Error)[]> {
    const contents: (Buffer | Error)[] = [];
    const slices = new Slices();
    for (const path of paths) {
      contents.push(readNow(path));
      await slices.rest();
    }
    return contents;
  }

  /** Synchronously as well, but for large ones. */
  async writeFiles(files: readonly WholeFile[]): Promise<void> {
    const slices = new Slices();
    for (const { path, bytes } of files) {
      const descriptor = openSync(path, FLAGS.replace, 0o600);
      try {
        if (bytes.length <= WRITTEN_NOW_BYTES) {
          writeFullyNow(bytes, (part, done) => writeSync(descriptor, part, 0, part.length, done));
        } else {
          await writeFully(bytes, async (part, done) => {
            return (await writeLater(descriptor, part, 0, part.length, done)).bytesWritten;
          });
        }
      } finally {
        closeSync(descriptor);
      }
      await slices.rest();
    }
  }

  async rename(from: string, to: string): Promise<void> {
    await rename(from, to);
  }

  async remove(path: string): Promise<void> {
    await unlink(path);
  }

  async removeFolder(path: string): Promise<void> {
    await rmdir(path);
  }

  async list(path: string): Promise<readonly FolderEntry[]> {
    const entries = await readdir(path, { withFileTypes: true });
    return entries
      .map((entry): FolderEntry => ({ name: entry.name, kind: kindOf(entry) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async makeFolder(path: string): Promise<void> {
    await mkdir(path, 0o700);
  }

  async syncFolder(path: string): Promise<void> {
    await syncPath(path);
  }

  async syncAll({ files, folders }: SyncedPaths): Promise<void> {
    const paths = [...files, ...folders];
    if (
      paths.length >= SYNCED_AS_VOLUME &&
      (await syncVolumes(new Set([...files.map(dirname), ...folders])))
    ) {
      return;
    }
    const turns = new Turns(SYNCED_AT_ONCE);
    await settleAll(paths.map((path) => turns.run(() => syncPath(path))));
  }

  async stat(path: string): Promise<FileStat | undefined> {
    try {
      const found = await stat(path);
      return { kind: kindOf(found), sizeBytes: found.size };
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  async freeBytes(path: string): Promise<number> {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  }
}

class NodeFile implements File {
  readonly path: string;
  readonly #handle: FileHandle;
  #closed: Promise<void> | undefined;

  constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  async sizeBytes(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  async read(position: number, lengthBytes: number, into?: Buffer): Promise<Buffer> {
    const target = into ?? Buffer.allocUnsafe(lengthBytes);
    let doneBytes = 0;
    while (doneBytes < lengthBytes) {
      const { bytesRead } = await this.#handle.read(
        target,
        doneBytes,
        lengthBytes - doneBytes,
        position + doneBytes,
      );
      if (bytesRead === 0) break;
      doneBytes += bytesRead;
    }
    return target.subarray(0, doneBytes);
  }

  readNow(position: number, into: Uint8Array): number {
    return readFullyNow(this.#handle.fd, into, position);
  }

  async write(position: number, bytes: Uint8Array): Promise<void> {
    await writeFully(bytes, async (part, doneBytes) => {
      const { bytesWritten } = await this.#handle.write(part, 0, part.length, position + doneBytes);
      return bytesWritten;
    });
  }

  writeNow(position: number, bytes: Uint8Array): void {
    const { fd } = this.#handle;
    writeFullyNow(bytes, (part, doneBytes) => writeSync(fd, part, 0, part.length, position + doneBytes));
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#handle.truncate(sizeBytes);
  }

  async datasync(): Promise<void> {
    await this.#handle.datasync();
  }

  async sync(): Promise<void> {
    await this.#handle.sync();
  }

  close(): Promise<void> {
    this.#closed ??= this.#handle.close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Fewer than asked for only at the end of the file. */
function readFullyNow(descriptor: number, into: Uint8Array, position: number): number {
  let doneBytes = 0;
  while (doneBytes < into.length) {
    const bytesRead = readSync(descriptor, into, doneBytes, into.length - doneBytes, position + doneBytes);
    if (bytesRead === 0) break;
    doneBytes += bytesRead;
  }
  return doneBytes;
}

/** Of a file, or of the names in a folder. */
async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Resolves when none is under way any more. @throws the first failure */
async function settleAll(works: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(works);
  await Promise.all(works);
}

function kindOf(entry: { isFile(): boolean; isDirectory(): boolean }): FolderEntry['kind'] {
  if (entry.isFile()) return 'file';
  return entry.isDirectory() ? 'folder' : 'other';
}

/** Lets other work have its turn between short slices of one that does not wait. */
class Slices {
  #endMs = performance.now() + SLICE_MS;

  /** Nothing to wait for before the slice is over. */
  async rest(): Promise<void> {
    if (performance.now() < this.#endMs) return;
    await nextTurn();
    this.#endMs = performance.now() + SLICE_MS;
  }
}

function readNow(path: string): Buffer | Error {
  try {
    const descriptor = openSync(path, 'r');
    try {
      const bytes = Buffer.allocUnsafe(fstatSync(descriptor).size);
      return bytes.subarray(0, readFullyNow(descriptor, bytes, 0));
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    return error as Error;
  }
}
