import type { Clock } from '../../core/clock.ts';
import { eachAtOnce } from '../../core/each-at-once.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { hasCode, readWholeFile, type FileSystem } from '../../core/file-system.ts';
import { decodeDigestFile } from '../fileset/digest-file.ts';
import { decodeAt, FileDamageError } from '../fileset/fileset-damage.ts';
import { filesetPath, type FilesetId } from '../fileset/fileset-id.ts';
import { decodeInfo } from '../fileset/info-file.ts';
import { COPIED_KINDS } from '../fileset/receive-fileset.ts';
import type { BackupCluster } from './backup-cluster.ts';
import { damagedBackup } from './backup-folder.ts';
import type { BackedUpFileset } from './backup-manifest.ts';
import { blockKey, type RestoreBegin, type RestoredFileset, type RestoreLook } from './restore-messages.ts';

/** A storage node as a restore speaks to it. */
export interface RestoreTarget {
  readonly node: string;
  /** @throws NAMESPACE_UNKNOWN, and why it does not answer */
  look(namespace: string, signal: AbortSignal): Promise<RestoreLook>;
  begin(begin: RestoreBegin, signal: AbortSignal): Promise<RestoreLook>;
  send(
    fileset: RestoredFileset,
    content: () => AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<'taken' | 'present'>;
  end(begin: RestoreBegin, signal: AbortSignal): Promise<void>;
}

export interface RestoreProgress {
  readonly namespace: string;
  readonly done: number;
  readonly total: number;
  readonly sentBytes: number;
}

export interface SenderDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly targets: ReadonlyMap<string, RestoreTarget>;
  readonly onProgress: (progress: RestoreProgress) => void;
}

export interface SentFilesets {
  readonly cluster: BackupCluster;
  readonly backup: string;
  /** As the files have it. */
  readonly namespace: string;
  readonly into: string;
  /** What nodes had before. */
  readonly has: ReadonlyMap<string, RestoreLook>;
  /** Of all that is to be sent, at most; for progress. */
  readonly total: number;
}

const PIECE_BYTES = 256 * 1024;
const SENDS_AT_ONCE = 6;
const TRIES = 3;
const PAUSE_MS = 1000;

/** Sends filesets to each replica of their shards, but for those that have them. */
export class FilesetSender {
  readonly #deps: SenderDeps;
  readonly #what: SentFilesets;
  readonly #signal: AbortSignal;
  #taken = 0;
  #present = 0;
  #sentBytes = 0;

  constructor(deps: SenderDeps, what: SentFilesets, signal: AbortSignal) {
    this.#deps = deps;
    this.#what = what;
    this.#signal = signal;
  }

  get figures(): { readonly taken: number; readonly present: number; readonly sentBytes: number } {
    return { taken: this.#taken, present: this.#present, sentBytes: this.#sentBytes };
  }

  /** Durable on all replicas when it resolves. @throws STORAGE_NOT_READY, BACKUP_DAMAGED, what a node refuses */
  async send(root: string, filesets: readonly BackedUpFileset[]): Promise<void> {
    const { cluster, into, has, total } = this.#what;
    const sends = filesets.flatMap((fileset) =>
      (cluster.replicas[fileset.shard] ?? []).flatMap(({ node }) => {
        const target = this.#deps.targets.get(node);
        return target ? [{ fileset, target }] : [];
      }),
    );
    await eachAtOnce(sends, SENDS_AT_ONCE, async ({ fileset, target }) => {
      if (has.get(target.node)?.filesets[blockKey(fileset)] === fileset.digest) this.#present++;
      else await this.#send(root, fileset, target);
      const { taken, present, sentBytes } = this.figures;
      this.#deps.onProgress({ namespace: into, done: taken + present, total, sentBytes });
    });
  }

  async #send(root: string, fileset: BackedUpFileset, target: RestoreTarget): Promise<void> {
    const id = { ...fileset, namespace: this.#what.namespace };
    const what = await this.#read(root, id);
    for (let tries = 1; ; tries++) {
      try {
        const outcome = await target.send(what, () => this.#content(root, id, what), this.#signal);
        if (outcome === 'taken') this.#taken++;
        else this.#present++;
        return;
      } catch (error) {
        this.#signal.throwIfAborted();
        const mayPass =
          error instanceof VarveError && ['STORAGE_NOT_READY', 'PEER_UNAVAILABLE'].includes(error.code);
        if (!mayPass || tries === TRIES) throw error;
        await this.#deps.clock.sleep(PAUSE_MS * tries, this.#signal);
      }
    }
  }

  /** Its info as it is to be there, and what its files have to be. */
  async #read(root: string, id: FilesetId): Promise<RestoredFileset> {
    const { fs } = this.#deps;
    const { backup, into } = this.#what;
    try {
      const [infoFile, digestFile] = [filesetPath(root, id, 'info'), filesetPath(root, id, 'digest')];
      const [infoBytes, digestBytes] = [
        await readWholeFile(fs, infoFile),
        await readWholeFile(fs, digestFile),
      ];
      const info = decodeAt(infoFile, 0, () => decodeInfo(infoFile, infoBytes, id));
      const sums = decodeAt(digestFile, 0, () => decodeDigestFile(digestFile, digestBytes));
      return { backup, info: { ...info, namespace: into }, sums };
    } catch (error) {
      if (error instanceof FileDamageError) throw damagedBackup(error.damage);
      if (!hasCode(error, 'ENOENT')) throw error;
      throw damagedBackup({ file: filesetPath(root, id, 'info'), offset: 0, reason: messageOf(error) });
    }
  }

  async *#content(
    root: string,
    id: FilesetId,
    { sums }: RestoredFileset,
  ): AsyncGenerator<Uint8Array, void, void> {
    for (const kind of COPIED_KINDS) {
      await using file = await this.#deps.fs.open(filesetPath(root, id, kind), 'read');
      for (let offset = 0; offset < sums[kind].sizeBytes;) {
        const piece = await file.read(offset, Math.min(PIECE_BYTES, sums[kind].sizeBytes - offset));
        if (piece.length === 0) throw damagedBackup({ file: file.path, offset, reason: 'it ends too early' });
        offset += piece.length;
        this.#sentBytes += piece.length;
        yield piece;
      }
    }
  }
}
