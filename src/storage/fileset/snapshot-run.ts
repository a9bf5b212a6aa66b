import { join } from 'node:path';
import { assert, messageOf, VarveError } from '../../core/errors.ts';
import { writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { nextVolume } from './fileset-folder.ts';
import { describeFileset, filesetPath, type FilesetId } from './fileset-id.ts';
import { FilesetWriter } from './fileset-writer.ts';
import type { FilesetInfo } from './info-file.ts';
import {
  encodeManifest,
  manifestName,
  type ManifestKind,
  type ReplayPosition,
  type SnapshotEntry,
  type SnapshotManifest,
} from './snapshot-manifest.ts';
import { listManifests } from './snapshots.ts';

export interface SnapshotRunOptions {
  /** The folder of all snapshots; exists. */
  readonly root: string;
  readonly kind: ManifestKind;
  /**
   * Taken before the first snapshot looks at the memory: whatever the log has before it must be in the
   * snapshots; what comes later may be, too.
   */
  readonly position: ReplayPosition;
  readonly createdAtNs: bigint;
}

/**
 * Writes snapshots and then, only if all of them succeeded, the manifest that counts on them. Until that is
 * durable nothing has changed: recovery uses the manifest before.
 */
export class SnapshotRun {
  readonly #fs: FileSystem;
  readonly #options: SnapshotRunOptions;
  readonly #index: number;
  readonly #entries: SnapshotEntry[] = [];
  #underWay = 0;
  #failure: unknown;
  #committed = false;

  private constructor(fs: FileSystem, options: SnapshotRunOptions, index: number) {
    this.#fs = fs;
    this.#options = options;
    this.#index = index;
  }

  /** One run at a time below one root. */
  static async begin(deps: { readonly fs: FileSystem }, options: SnapshotRunOptions): Promise<SnapshotRun> {
    const last = (await listManifests(deps.fs, options.root)).at(-1) ?? 0;
    return new SnapshotRun(deps.fs, options, last + 1);
  }

  /**
   * Writes one snapshot by `fill`, which may return the annotation, under a volume that nothing has used. Several
   * may be under way.
   * @throws what `fill` or the disk throws; then `commit` is refused
   */
  async write(
    block: Omit<FilesetId, 'volume'> & { readonly blockSizeNs: bigint },
    fill: (writer: FilesetWriter) => Promise<Uint8Array | void>,
  ): Promise<FilesetInfo> {
    assert(!this.#committed, 'a run takes no snapshot after its manifest');
    this.#underWay++;
    try {
      const info = await this.#write(block, fill);
      this.#entries.push(info);
      return info;
    } catch (error) {
      this.#failure ??= error;
      throw error;
    } finally {
      this.#underWay--;
    }
  }

  /** Counts on a snapshot of the manifest before, because its block has not changed since. */
  keep(entry: SnapshotEntry): void {
    assert(!this.#committed, 'a run takes no snapshot after its manifest');
    this.#entries.push(entry);
  }

  /**
   * The manifest is durable when it resolves; what was before may be removed then.
   * @throws SNAPSHOT_INCOMPLETE when a snapshot failed, is under way or is gone
   */
  async commit(annotation: Uint8Array = new Uint8Array()): Promise<SnapshotManifest> {
    assert(!this.#committed, 'a run has one manifest');
    const { root, kind, position, createdAtNs } = this.#options;
    if (this.#failure !== undefined) {
      throw incomplete(`a snapshot failed: ${messageOf(this.#failure)}`, this.#failure);
    }
    if (this.#underWay > 0) throw incomplete(`${this.#underWay} of its snapshots are not finished`);
    for (const entry of this.#entries) {
      const there = await this.#fs.stat(filesetPath(root, entry, 'checkpoint'));
      if (!there) throw incomplete(`the snapshot of ${describeFileset(entry)} is gone`);
    }
    const manifest: SnapshotManifest = {
      index: this.#index,
      kind,
      position,
      createdAtNs,
      entries: this.#entries.map(({ namespace, shard, blockStartNs, volume, digest }) => ({
        namespace,
        shard,
        blockStartNs,
        volume,
        digest,
      })),
      annotation: Buffer.from(annotation),
    };
    await writeFileAtomically(this.#fs, join(root, manifestName(this.#index)), encodeManifest(manifest));
    this.#committed = true;
    return manifest;
  }

  async #write(
    block: Omit<FilesetId, 'volume'> & { readonly blockSizeNs: bigint },
    fill: (writer: FilesetWriter) => Promise<Uint8Array | void>,
  ): Promise<FilesetInfo> {
    const { root, createdAtNs } = this.#options;
    const { namespace, shard, blockStartNs, blockSizeNs } = block;
    const volume = await nextVolume(this.#fs, root, block);
    const id = { namespace, shard, blockStartNs, volume };
    await using writer = await FilesetWriter.create(
      { fs: this.#fs },
      { root, id, kind: 'snapshot', blockSizeNs, createdAtNs },
    );
    const annotation = await fill(writer);
    return await writer.finish(annotation ?? undefined);
  }
}

function incomplete(why: string, cause?: unknown): VarveError {
  return new VarveError('SNAPSHOT_INCOMPLETE', `the manifest of snapshots is not written: ${why}`, {
    hint: 'The one before stays in force, with the log that it needs; the next run starts anew.',
    cause,
  });
}
