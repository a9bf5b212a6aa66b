import { dirname } from 'node:path';
import {
  writeFully,
  type File,
  type FileStat,
  type FileSystem,
  type FolderEntry,
  type OpenMode,
} from '../src/core/file-system.ts';
import { SeededRandom } from './seeded-random.ts';

export type OperationKind =
  | 'open'
  | 'read'
  | 'write'
  | 'truncate'
  | 'datasync'
  | 'sync'
  | 'rename'
  | 'remove'
  | 'make-folder'
  | 'remove-folder'
  | 'sync-folder'
  | 'list'
  | 'stat';

/** What is done to the disk, told before it happens and after it has, but before the caller knows. */
export interface Operation {
  /** Counts what changes something or makes it durable, from 0. */
  readonly index: number;
  readonly kind: OperationKind;
  readonly path: string;
  readonly phase: 'before' | 'after';
}

export interface SimulatedDiskOptions {
  readonly seed?: number;
  /** Absent: endless. May be changed at any time. */
  readonly capacityBytes?: number;
}

const SECTOR_BYTES = 512;

/**
 * A file system in memory that keeps, over a loss of power, only what was synced: bytes by a sync of the file,
 * names by a sync of the folder. What was not synced may be there, be missing, or be there in part: cut at any
 * byte, or in any choice of sectors, and in any order. A failed sync may lose what it was to save, and the next
 * one says nothing of it, as on Linux. Everything random follows from the seed.
 */
export class SimulatedDisk implements FileSystem {
  capacityBytes: number;
  /** Makes an operation fail with this code; asked before it happens. */
  fault: ((operation: Operation) => string | undefined) | undefined;
  /** Sees every operation twice; may take a crash clone. */
  onOperation: ((operation: Operation) => void) | undefined;
  /** Writes may take fewer bytes at a time than they are given. */
  shortWrites = true;
  readonly #random: SeededRandom;
  #operations = 0;
  #names: Map<string, Node>;
  #durableNames: Map<string, Node>;
  #changes: NameChange[] = [];

  constructor(options: SimulatedDiskOptions = {}) {
    this.#random = new SeededRandom(options.seed ?? 1);
    this.capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY;
    this.#names = new Map([['/', FOLDER]]);
    this.#durableNames = new Map(this.#names);
  }

  /** How many operations there were that changed something or made it durable. */
  get operations(): number {
    return this.#operations;
  }

  /** The disk as it might be found after a loss of power at this instant. This one goes on as if nothing were. */
  powerLoss(seed: number): SimulatedDisk {
    const random = new SeededRandom(seed);
    const names = new Map(this.#durableNames);
    const keeps = keeper(random, this.#changes.length);
    for (const [index, change] of this.#changes.entries()) if (keeps(index)) apply(names, change);
    const clone = new SimulatedDisk({ seed, capacityBytes: this.capacityBytes });
    const copies = new Map<Inode, Inode>();
    const sorted = [...names].sort(([a], [b]) => (a < b ? -1 : 1));
    for (const [path, node] of sorted) {
      if (path !== '/' && clone.#names.get(dirname(path)) !== FOLDER) continue; // Its folder is gone.
      clone.#names.set(path, node === FOLDER ? FOLDER : copyOnce(copies, node, () => node.survivor(random)));
    }
    clone.#durableNames = new Map(clone.#names);
    return clone;
  }

  /** The disk as a process finds it after the one that used it was killed: nothing is lost until the power is. */
  processCrash(seed: number): SimulatedDisk {
    const clone = new SimulatedDisk({ seed, capacityBytes: this.capacityBytes });
    const copies = new Map<Inode, Inode>();
    const copy = (node: Node): Node => (node === FOLDER ? FOLDER : copyOnce(copies, node, () => node.copy()));
    const copyAll = (names: ReadonlyMap<string, Node>): Map<string, Node> =>
      new Map([...names].map(([path, node]) => [path, copy(node)]));
    clone.#names = copyAll(this.#names);
    clone.#durableNames = copyAll(this.#durableNames);
    clone.#changes = this.#changes.map((change) =>
      change.kind === 'unlink' ? change : { ...change, node: copy(change.node) },
    );
    return clone;
  }

  /** All files, for tests that compare or damage them. The buffers are copies. */
  files(): Map<string, Buffer> {
    return new Map(
      [...this.#names].flatMap(([path, node]) => (node === FOLDER ? [] : [[path, node.content()]])),
    );
  }

  /** Puts a file there durably, without any operation: for tests that damage one. */
  plant(path: string, content: Uint8Array): void {
    const node = new Inode();
    node.write(0, content);
    node.sync(node.pending);
    this.#names.set(path, node);
    this.#durableNames.set(path, node);
  }

  async open(path: string, mode: OpenMode): Promise<File> {
    const existing = await this.#do('open', path, () => {
      const found = this.#names.get(path);
      if (found === FOLDER) throw failure('EISDIR', path);
      if (mode === 'create' && found) throw failure('EEXIST', path);
      if ((mode === 'read' || mode === 'update') && !found) throw failure('ENOENT', path);
      if (found && mode === 'replace') found.truncate(0);
      if (found) return found;
      this.#parentOf(path);
      const made = new Inode();
      this.#change({ kind: 'link', path, node: made });
      return made;
    });
    return this.#file(path, existing, mode);
  }

  async readFiles(paths: readonly string[]): Promise<(Buffer | Error)[]> {
    const contents: (Buffer | Error)[] = [];
    for (const path of paths) {
      contents.push(
        await this.#do('read', path, () => {
          const node = this.#names.get(path);
          if (!node || node === FOLDER) throw failure(node ? 'EISDIR' : 'ENOENT', path);
          return node.content();
        }).catch((error: unknown) => error as Error),
      );
    }
    return contents;
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#do('rename', from, () => {
      const node = this.#names.get(from);
      if (!node) throw failure('ENOENT', from);
      if (node === FOLDER) throw new Error('the simulated disk does not rename folders');
      this.#parentOf(to);
      this.#change({ kind: 'rename', from, path: to, node });
    });
  }

  async remove(path: string): Promise<void> {
    await this.#do('remove', path, () => {
      const node = this.#names.get(path);
      if (!node || node === FOLDER) throw failure(node ? 'EISDIR' : 'ENOENT', path);
      this.#change({ kind: 'unlink', path });
    });
  }

  async removeFolder(path: string): Promise<void> {
    await this.#do('remove-folder', path, () => {
      const node = this.#names.get(path);
      if (node !== FOLDER) throw failure(node ? 'ENOTDIR' : 'ENOENT', path);
      if (this.#entries(path).length > 0) throw failure('ENOTEMPTY', path);
      this.#change({ kind: 'unlink', path });
    });
  }

  async list(path: string): Promise<readonly FolderEntry[]> {
    return await this.#do('list', path, () => {
      if (this.#names.get(path) !== FOLDER) throw failure('ENOENT', path);
      return this.#entries(path);
    });
  }

  async makeFolder(path: string): Promise<void> {
    await this.#do('make-folder', path, () => {
      if (this.#names.has(path)) throw failure('EEXIST', path);
      this.#parentOf(path);
      this.#change({ kind: 'link', path, node: FOLDER });
    });
  }

  async syncFolder(path: string): Promise<void> {
    await this.#do('sync-folder', path, () => {
      if (this.#names.get(path) !== FOLDER) throw failure('ENOENT', path);
      const isHere = (change: NameChange): boolean =>
        dirname(change.path) === path || (change.kind === 'rename' && dirname(change.from) === path);
      const due = this.#changes.filter(isHere);
      for (const change of due) apply(this.#durableNames, change);
      // A name that a durable rename took away must not come back by an earlier change of the other folder.
      const gone = new Set(due.flatMap((change) => (change.kind === 'rename' ? [change.from] : [])));
      const lastDue = due.at(-1);
      const bound = lastDue ? this.#changes.indexOf(lastDue) : -1;
      this.#changes = this.#changes.filter(
        (change, index) => !isHere(change) && !(index < bound && gone.has(change.path)),
      );
    });
  }

  async stat(path: string): Promise<FileStat | undefined> {
    return await this.#do('stat', path, () => {
      const node = this.#names.get(path);
      if (!node) return undefined;
      return node === FOLDER ? { kind: 'folder', sizeBytes: 0 } : { kind: 'file', sizeBytes: node.sizeBytes };
    });
  }

  async freeBytes(): Promise<number> {
    await this.#pause();
    return Math.max(0, this.capacityBytes - this.#usedBytes());
  }

  #file(path: string, node: Inode, mode: OpenMode): File {
    let closed = false;
    const perform = <T>(kind: OperationKind, action: () => T): Promise<T> =>
      this.#do(kind, path, () => {
        if (closed) throw failure('EBADF', path);
        return action();
      });
    const writable = (): void => {
      if (mode === 'read') throw failure('EBADF', path);
    };
    return {
      path,
      sizeBytes: () => perform('stat', () => node.sizeBytes),
      read: (position, lengthBytes, into) =>
        perform('read', () => {
          const found = node.read(position, lengthBytes);
          if (!into) return found;
          found.copy(into);
          return into.subarray(0, found.length);
        }),
      write: (position, bytes) =>
        writeFully(bytes, (part, doneBytes) =>
          perform('write', () => {
            writable();
            return this.#writeSome(node, position + doneBytes, part);
          }),
        ),
      truncate: (sizeBytes) =>
        perform('truncate', () => {
          writable();
          node.truncate(sizeBytes);
        }),
      datasync: () => this.#syncFile('datasync', path, node),
      sync: () => this.#syncFile('sync', path, node),
      close: async () => {
        await this.#pause();
        closed = true;
      },
      [Symbol.asyncDispose]: async () => {
        closed = true;
      },
    };
  }

  #writeSome(node: Inode, position: number, bytes: Uint8Array): number {
    const taken =
      this.shortWrites && this.#random.chance(0.1) ? 1 + this.#random.below(bytes.length) : bytes.length;
    const endless = this.capacityBytes === Number.POSITIVE_INFINITY;
    const room = endless ? bytes.length : this.capacityBytes - this.#usedBytes();
    const fits = endless ? taken : Math.min(taken, Math.max(0, node.sizeBytes + room - position));
    if (fits === 0 && bytes.length > 0) throw failure('ENOSPC', 'write');
    node.write(position, bytes.subarray(0, fits));
    return fits;
  }

  /** Saves what was written before it began; what is written meanwhile is not promised. */
  async #syncFile(kind: 'sync' | 'datasync', path: string, node: Inode): Promise<void> {
    const due = [...node.pending];
    try {
      await this.#do(kind, path, () => {
        node.sync(due);
      });
    } catch (error) {
      node.forget(due, this.#random);
      throw error;
    }
  }

  async #do<T>(kind: OperationKind, path: string, action: () => T): Promise<T> {
    const counted = kind !== 'list' && kind !== 'stat' && kind !== 'read';
    const operation = { index: counted ? this.#operations++ : this.#operations, kind, path };
    const code = this.fault?.({ ...operation, phase: 'before' });
    if (counted) this.onOperation?.({ ...operation, phase: 'before' });
    await this.#pause();
    if (code !== undefined) throw failure(code, `${kind} ${path}`);
    const result = action();
    if (counted) this.onOperation?.({ ...operation, phase: 'after' });
    await this.#pause();
    return result;
  }

  /** Lets others run, now more, now less, so that orders differ from seed to seed. */
  async #pause(): Promise<void> {
    for (let turns = this.#random.below(4); turns > 0; turns--) await Promise.resolve();
  }

  #change(change: NameChange): void {
    apply(this.#names, change);
    this.#changes.push(change);
  }

  #parentOf(path: string): void {
    if (this.#names.get(dirname(path)) !== FOLDER) throw failure('ENOENT', path);
  }

  #entries(folder: string): FolderEntry[] {
    const prefix = folder === '/' ? '/' : `${folder}/`;
    return [...this.#names]
      .filter(([path]) => path.startsWith(prefix) && path !== '/' && !path.slice(prefix.length).includes('/'))
      .map(([path, node]): FolderEntry => ({
        name: path.slice(prefix.length),
        kind: node === FOLDER ? 'folder' : 'file',
      }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #usedBytes(): number {
    let used = 0;
    for (const node of new Set(this.#names.values())) if (node !== FOLDER) used += node.sizeBytes;
    return used;
  }
}

const FOLDER = 'folder';
type Node = Inode | typeof FOLDER;

type NameChange =
  | { readonly kind: 'link'; readonly path: string; readonly node: Node }
  | { readonly kind: 'unlink'; readonly path: string }
  | { readonly kind: 'rename'; readonly path: string; readonly from: string; readonly node: Node };

function apply(names: Map<string, Node>, change: NameChange): void {
  if (change.kind === 'unlink') {
    names.delete(change.path);
    return;
  }
  if (change.kind === 'rename') names.delete(change.from);
  names.set(change.path, change.node);
}

type FileChange =
  | { readonly kind: 'write'; readonly position: number; readonly bytes: Buffer }
  | { readonly kind: 'truncate'; readonly sizeBytes: number };

class Inode {
  /** In the order in which they were made; not yet durable. */
  pending: FileChange[] = [];
  #current: Buffer = Buffer.alloc(0);
  #sizeBytes = 0;
  #durable: Buffer = Buffer.alloc(0);

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  content(): Buffer {
    return Buffer.from(this.#current.subarray(0, this.#sizeBytes));
  }

  read(position: number, lengthBytes: number): Buffer {
    return Buffer.from(this.#current.subarray(position, Math.min(position + lengthBytes, this.#sizeBytes)));
  }

  write(position: number, bytes: Uint8Array): void {
    const end = position + bytes.length;
    if (end > this.#current.length) {
      const grown = Buffer.alloc(Math.max(end, this.#current.length * 2));
      this.#current.copy(grown, 0, 0, this.#sizeBytes);
      this.#current = grown;
    }
    this.#current.set(bytes, position);
    this.#sizeBytes = Math.max(this.#sizeBytes, end);
    this.pending.push({ kind: 'write', position, bytes: Buffer.from(bytes) });
  }

  truncate(sizeBytes: number): void {
    this.#current = resized(this.#current.subarray(0, this.#sizeBytes), sizeBytes);
    this.#sizeBytes = sizeBytes;
    this.pending.push({ kind: 'truncate', sizeBytes });
  }

  sync(due: readonly FileChange[]): void {
    for (const change of due)
      if (this.pending.includes(change)) this.#durable = applied(this.#durable, change);
    this.pending = this.pending.filter((change) => !due.includes(change));
  }

  /** What a failed sync does: the pages count as clean, whether they are on the disk or not. */
  forget(due: readonly FileChange[], random: SeededRandom): void {
    for (const change of due) {
      if (this.pending.includes(change) && random.chance(0.5)) this.#durable = applied(this.#durable, change);
    }
    this.pending = this.pending.filter((change) => !due.includes(change));
  }

  copy(): Inode {
    const copy = new Inode();
    copy.pending = [...this.pending];
    copy.#current = this.content();
    copy.#sizeBytes = this.#sizeBytes;
    copy.#durable = this.#durable;
    return copy;
  }

  survivor(random: SeededRandom): Inode {
    let content = this.#durable;
    const keeps = keeper(random, this.pending.length);
    const tears = random.chance(0.7);
    for (const [index, change] of this.pending.entries()) {
      if (keeps(index)) content = applied(content, change);
      else if (tears && change.kind === 'write' && random.chance(0.5))
        content = torn(content, change, random);
    }
    // The size may reach the disk before the bytes do.
    if (content.length < this.#sizeBytes && random.chance(0.3)) content = resized(content, this.#sizeBytes);
    const survivor = new Inode();
    survivor.#current = Buffer.from(content);
    survivor.#sizeBytes = content.length;
    survivor.#durable = Buffer.from(content);
    return survivor;
  }
}

/** Which of `count` changes reach the disk: none, all, the first ones, or any. */
function keeper(random: SeededRandom, count: number): (index: number) => boolean {
  const limit = random.below(count + 1);
  const kind = random.pick(['none', 'all', 'first', 'any']);
  return (index) =>
    kind === 'all' || (kind === 'first' && index < limit) || (kind === 'any' && random.chance(0.5));
}

function applied(content: Buffer, change: FileChange): Buffer {
  if (change.kind === 'truncate') return resized(content, change.sizeBytes);
  const next = resized(content, Math.max(content.length, change.position + change.bytes.length));
  next.set(change.bytes, change.position);
  return next;
}

/** Some of the write's sectors, or its first bytes. */
function torn(content: Buffer, write: FileChange & { kind: 'write' }, random: SeededRandom): Buffer {
  const { position, bytes } = write;
  if (bytes.length === 0) return content;
  if (random.chance(0.4))
    return applied(content, { ...write, bytes: bytes.subarray(0, random.below(bytes.length)) });
  let next = content;
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + SECTOR_BYTES - ((position + at) % SECTOR_BYTES));
    if (random.chance(0.5)) {
      next = applied(next, { kind: 'write', position: position + at, bytes: bytes.subarray(at, end) });
    }
    at = end;
  }
  return next;
}

function resized(content: Buffer, sizeBytes: number): Buffer {
  const next = Buffer.alloc(sizeBytes);
  content.copy(next, 0, 0, Math.min(content.length, sizeBytes));
  return next;
}

function copyOnce(copies: Map<Inode, Inode>, node: Inode, make: () => Inode): Inode {
  const copy = copies.get(node) ?? make();
  copies.set(node, copy);
  return copy;
}

function failure(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}
