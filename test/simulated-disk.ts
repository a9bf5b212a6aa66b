import { dirname } from 'node:path';
import {
  writeFully,
  type File,
  type FileStat,
  type FileSystem,
  type FolderEntry,
  type OpenMode,
  type SyncedPaths,
  type WholeFile,
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
const TURN = Promise.resolve();

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

  async writeFiles(files: readonly WholeFile[]): Promise<void> {
    for (const { path, bytes } of files) {
      await using file = await this.open(path, 'replace');
      await file.write(0, bytes);
    }
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

  /** One after the other, in any order. */
  async syncAll({ files, folders }: SyncedPaths): Promise<void> {
    const works = [
      ...files.map((path) => async () => {
        const node = this.#names.get(path);
        if (!node || node === FOLDER) throw failure('ENOENT', path);
        await this.#syncFile('sync', path, node);
      }),
      ...folders.map((path) => async () => await this.syncFolder(path)),
    ];
    while (works.length > 0) await works.splice(this.#random.below(works.length), 1)[0]?.();
  }

  async stat(path: string): Promise<FileStat | undefined> {
    return await this.#do('stat', path, () => {
      const node = this.#names.get(path);
      if (!node) return undefined;
      return node === FOLDER ? { kind: 'folder', sizeBytes: 0 } : { kind: 'file', sizeBytes: node.sizeBytes };
    });
  }

  async freeBytes(): Promise<number> {
    await TURN;
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
      read: (position, lengthBytes, into) => perform('read', () => node.read(position, lengthBytes, into)),
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
        await TURN;
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
    const index = counted ? this.#operations++ : this.#operations;
    const code = this.fault?.({ index, kind, path, phase: 'before' });
    if (counted) this.onOperation?.({ index, kind, path, phase: 'before' });
    // Here and below others run, now more, now less, so that orders differ from seed to seed.
    for (let turns = this.#random.below(4); turns > 0; turns--) await TURN;
    if (code !== undefined) throw failure(code, `${kind} ${path}`);
    const result = action();
    if (counted) this.onOperation?.({ index, kind, path, phase: 'after' });
    for (let turns = this.#random.below(4); turns > 0; turns--) await TURN;
    return result;
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
    const entries: FolderEntry[] = [];
    for (const [path, node] of this.#names) {
      const isIn =
        path.length > prefix.length && path.startsWith(prefix) && !path.includes('/', prefix.length);
      if (isIn) entries.push({ name: path.slice(prefix.length), kind: node === FOLDER ? 'folder' : 'file' });
    }
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
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
  #current = new Content();
  #durable = new Content();
  /** Something was forgotten: what is durable is not all of what is there and not pending. */
  #hasLost = false;

  get sizeBytes(): number {
    return this.#current.sizeBytes;
  }

  content(): Buffer {
    return Buffer.from(this.#current.bytes);
  }

  read(position: number, lengthBytes: number, into: Buffer | undefined): Buffer {
    const found = this.#current.bytes.subarray(position, position + lengthBytes);
    if (!into) return Buffer.from(found);
    return into.subarray(0, found.copy(into));
  }

  write(position: number, bytes: Uint8Array): void {
    // The caller may use its memory again.
    this.#do({ kind: 'write', position, bytes: Buffer.from(bytes) });
  }

  truncate(sizeBytes: number): void {
    this.#do({ kind: 'truncate', sizeBytes });
  }

  sync(due: readonly FileChange[]): void {
    const isAll = due.length === this.pending.length && due.at(-1) === this.pending.at(-1);
    if (isAll && !this.#hasLost) {
      this.#durable = this.#current.share();
      this.pending = [];
      return;
    }
    const saved = new Set(due);
    for (const change of this.pending) if (saved.has(change)) this.#durable.apply(change);
    this.pending = this.pending.filter((change) => !saved.has(change));
  }

  /** What a failed sync does: the pages count as clean, whether they are on the disk or not. */
  forget(due: readonly FileChange[], random: SeededRandom): void {
    const forgotten = new Set(due);
    this.#hasLost = true;
    for (const change of this.pending) {
      if (forgotten.has(change) && random.chance(0.5)) this.#durable.apply(change);
    }
    this.pending = this.pending.filter((change) => !forgotten.has(change));
  }

  copy(): Inode {
    const copy = new Inode();
    copy.pending = [...this.pending];
    copy.#current = this.#current.share();
    copy.#durable = this.#durable.share();
    copy.#hasLost = this.#hasLost;
    return copy;
  }

  survivor(random: SeededRandom): Inode {
    const content = this.#durable.share();
    const keeps = keeper(random, this.pending.length);
    const tears = random.chance(0.7);
    for (const [index, change] of this.pending.entries()) {
      if (keeps(index)) content.apply(change);
      else if (tears && change.kind === 'write' && random.chance(0.5)) tear(content, change, random);
    }
    // The size may reach the disk before the bytes do.
    if (content.sizeBytes < this.sizeBytes && random.chance(0.3)) content.resize(this.sizeBytes);
    const survivor = new Inode();
    survivor.#durable = content;
    survivor.#current = content.share();
    return survivor;
  }

  #do(change: FileChange): void {
    this.#current.apply(change);
    this.pending.push(change);
  }
}

/** Bytes that are copied when they are changed, not when somebody else wants to have them as they are. */
class Content {
  #memory: Buffer = NOTHING;
  #isShared = true;
  #sizeBytes = 0;

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** A view, until the next change. */
  get bytes(): Buffer {
    return this.#memory.subarray(0, this.#sizeBytes);
  }

  share(): Content {
    const other = new Content();
    other.#memory = this.#memory;
    other.#sizeBytes = this.#sizeBytes;
    this.#isShared = true;
    return other;
  }

  apply(change: FileChange): void {
    if (change.kind === 'truncate') this.resize(change.sizeBytes);
    else this.set(change.position, change.bytes);
  }

  set(position: number, bytes: Uint8Array): void {
    this.resize(Math.max(this.#sizeBytes, position + bytes.length));
    this.#memory.set(bytes, position);
  }

  resize(sizeBytes: number): void {
    if (this.#isShared || sizeBytes > this.#memory.length) {
      const grows = !this.#isShared && sizeBytes > this.#memory.length;
      const own = Buffer.alloc(grows ? Math.max(sizeBytes, this.#memory.length * 2) : sizeBytes);
      this.#memory.copy(own, 0, 0, Math.min(this.#sizeBytes, sizeBytes));
      this.#memory = own;
      this.#isShared = false;
    } else if (sizeBytes < this.#sizeBytes) this.#memory.fill(0, sizeBytes, this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
  }
}

const NOTHING = Buffer.alloc(0);

/** Which of `count` changes reach the disk: none, all, the first ones, or any. */
function keeper(random: SeededRandom, count: number): (index: number) => boolean {
  const limit = random.below(count + 1);
  const kind = random.pick(['none', 'all', 'first', 'any']);
  return (index) =>
    kind === 'all' || (kind === 'first' && index < limit) || (kind === 'any' && random.chance(0.5));
}

/** Some of the write's sectors, or its first bytes. */
function tear(
  content: Content,
  { position, bytes }: FileChange & { kind: 'write' },
  random: SeededRandom,
): void {
  if (bytes.length === 0) return;
  if (random.chance(0.4)) {
    content.set(position, bytes.subarray(0, random.below(bytes.length)));
    return;
  }
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + SECTOR_BYTES - ((position + at) % SECTOR_BYTES));
    if (random.chance(0.5)) content.set(position + at, bytes.subarray(at, end));
    at = end;
  }
}

function copyOnce(copies: Map<Inode, Inode>, node: Inode, make: () => Inode): Inode {
  const copy = copies.get(node) ?? make();
  copies.set(node, copy);
  return copy;
}

/** Without a stack: files are looked for that are not there, often. */
function failure(code: string, what: string): Error {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  const error = Object.assign(new Error(`${code}: ${what}`), { code });
  Error.stackTraceLimit = stackTraceLimit;
  return error;
}
