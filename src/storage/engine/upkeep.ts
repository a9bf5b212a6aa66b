import type { Clock } from '../../core/clock.ts';
import { assert, messageOf, VarveError } from '../../core/errors.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { BufferMemory } from '../buffer/buffer-memory.ts';
import type { MemoryImages } from '../buffer/memory-image.ts';
import type { CommitLog } from '../commit-log/commit-log.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import type { FileDamageError } from '../fileset/fileset-damage.ts';
import { filesetPath } from '../fileset/fileset-id.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import type { EngineLog } from './engine-log.ts';
import type { HybridClock } from './hybrid-clock.ts';
import { Maintenance } from './maintenance.ts';
import type { Namespace } from './namespace.ts';
import type { NamespaceRegistry } from './namespace-registry.ts';
import { completeIndex } from './complete-index.ts';
import { rebuildIndex, uncovered } from './rebuild-index.ts';
import { salvageFileset } from './salvage-fileset.ts';
import type { ColumnCodec } from './sealed-series.ts';
import { Serial } from './serial.ts';
import { SnapshotSchedule } from './snapshot-schedule.ts';
import type {
  CleanUpReport,
  EngineOptions,
  Finding,
  FlushReport,
  SnapshotReport,
  SnapshotStatus,
} from './storage-engine.ts';
import { writeImage } from './recover-memory.ts';
import { Snapshots } from './take-snapshot.ts';

export interface UpkeepDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly log: Log;
  readonly hybridClock: HybridClock;
  readonly codec: () => ColumnCodec;
  readonly memory: BufferMemory;
  readonly images: MemoryImages;
  readonly registry: NamespaceRegistry;
  readonly engineLog: EngineLog;
  readonly isBootstrapping: () => boolean;
  readonly onFinding: (finding: Finding) => void;
  /** All that was in memory before is in a snapshot. */
  readonly onSnapshot?: () => void;
}

export type UpkeepOptions = Pick<
  Required<EngineOptions>,
  'folder' | 'tickMs' | 'snapshotIntervalMs' | 'maxLogBytes' | 'imageLogBytes'
>;

/**
 * What is done to files beside writes and reads, one work after the other: flushes, snapshots, clean-up, deletions,
 * changes of namespaces, repair. Nothing of it happens while the engine bootstraps.
 */
export class Upkeep {
  readonly #deps: UpkeepDeps;
  readonly #options: UpkeepOptions;
  readonly #work = new Serial();
  #parts: { readonly maintenance: Maintenance; readonly snapshots: Snapshots } | undefined;
  readonly #schedule: SnapshotSchedule;
  #relieving = false;
  #imaging = false;
  /** Of the newest image, and how much was appended to the log when it was made. */
  #imageBytes = 0;
  #imagedAt = 0;
  #appendedAtTick = 0;
  /** How much was appended when room was made the last time. */
  #madeRoomAt = 0;
  snapshotStatus: SnapshotStatus = { lastAtNs: undefined, failures: 0, lastFailure: undefined };
  freeBytes = 0;

  constructor(deps: UpkeepDeps, options: UpkeepOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#schedule = new SnapshotSchedule(deps.clock, options);
  }

  get outOfSpace(): boolean {
    return this.#parts?.maintenance.outOfSpace ?? false;
  }

  serially<T>(work: () => Promise<T>): Promise<T> {
    return this.#work.run(work);
  }

  /** The engine is bootstrapped, and its log can be written. */
  begin(commitLog: CommitLog): void {
    if (this.#parts) return;
    const { fs, log, hybridClock: clock, codec, memory } = this.#deps;
    const { folder } = this.#options;
    const onDamage = (namespace: Namespace, error: FileDamageError): void =>
      this.salvageFile(namespace, error);
    this.#parts = {
      maintenance: new Maintenance({ fs, folder, clock, codec, memory, commitLog, log, onDamage }),
      snapshots: new Snapshots({ fs, folder, log: commitLog, clock }),
    };
    // Not for the first query to wait for, nor for the start.
    void this.serially(() => this.#completeIndexes());
  }

  /** Rounds until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, fs } = this.#deps;
    const { tickMs, folder } = this.#options;
    this.freeBytes = await fs.freeBytes(folder).catch(() => 0);
    if (tickMs === 0) return;
    while (!signal.aborted) {
      await clock.sleep(tickMs, signal).catch(() => {});
      if (signal.aborted) return;
      await this.tick().catch((error: unknown) => {
        log.warn({ reason: messageOf(error) }, 'storage maintenance failed; it is repeated');
      });
    }
  }

  /** One round of whatever is due. */
  async tick(): Promise<void> {
    await this.serially(async () => {
      const { fs, registry, isBootstrapping } = this.#deps;
      this.freeBytes = await fs.freeBytes(this.#options.folder);
      if (!this.#parts || isBootstrapping()) return;
      const { maintenance } = this.#parts;
      if (this.#isFull) await this.#makeRoom();
      await maintenance.flush(registry.all, { force: false });
      // What cannot be done for want of room must not keep the clean-up from making some.
      if (this.#snapshotIsDue(maintenance)) await this.#snapshotOrTell();
      await this.#imageWhenIdle();
      await maintenance.cleanUp(registry.all);
      await this.#completeIndexes();
      await this.#saveIndexes();
    });
  }

  get #isFull(): boolean {
    return this.#deps.engineLog.status().state === 'full';
  }

  /** The log has no room: images only save time, and snapshots make most of the log unnecessary. */
  async #makeRoom(): Promise<void> {
    const { images, registry, engineLog, log } = this.#deps;
    await images.discard();
    for (const { memoryIndex } of registry.all) await memoryIndex.remove();
    this.#imageBytes = 0;
    if (engineLog.appendedBytes === this.#madeRoomAt) return;
    // Once: where there is no room for one, it is tried again when the next is due.
    this.#madeRoomAt = engineLog.appendedBytes;
    try {
      await this.#takeSnapshot();
    } catch (error) {
      log.warn(
        { reason: messageOf(error) },
        'the disk is full, also for a snapshot that would shorten the log',
      );
    }
  }

  /** A query is to find little left to do. */
  async #completeIndexes(): Promise<void> {
    for (const namespace of this.#deps.registry.all) {
      if (namespace.options.indexEnabled) await completeIndex(namespace);
    }
  }

  /** A restart need not make them anew. */
  async #saveIndexes(): Promise<void> {
    if (this.#isFull || this.#options.imageLogBytes === 0) return;
    for (const { memoryIndex, buffer, closed } of this.#deps.registry.all) {
      if (closed) continue;
      await memoryIndex.saveIfGrown(buffer).catch((error: unknown) => {
        const reason = messageOf(error);
        this.#deps.log.warn(
          { reason },
          'the index of the memory could not be written; a restart makes it anew',
        );
      });
    }
  }

  async flush(options: { readonly namespace?: string; readonly force?: boolean }): Promise<FlushReport> {
    return await this.serially(async () => {
      const { registry } = this.#deps;
      const { namespace, force = false } = options;
      const due = namespace === undefined ? registry.all : [registry.get(namespace)];
      return await this.#ready().maintenance.flush(due, { force });
    });
  }

  async snapshot(): Promise<SnapshotReport> {
    return await this.serially(async () => {
      this.#ready();
      return await this.#takeSnapshot();
    });
  }

  async cleanUp(): Promise<CleanUpReport> {
    return await this.serially(() => this.#ready().maintenance.cleanUp(this.#deps.registry.all));
  }

  /** A snapshot at the end of a bootstrap, of what came from elsewhere into the memory. */
  async secure(): Promise<SnapshotReport> {
    this.begin(this.#deps.engineLog.commitLog);
    return await this.serially(() => this.#takeSnapshot());
  }

  /** Nothing that a snapshot has may be kept by the next: something was deleted. */
  forgetSnapshots(): void {
    this.#parts?.snapshots.forget();
  }

  /** Memory is short: moves blocks to files, soon; `atOnce` one of them in any case, because a write was refused. */
  relieve({ atOnce }: { readonly atOnce: boolean }): void {
    if (this.#relieving || !this.#parts || this.#deps.isBootstrapping()) return;
    const { maintenance } = this.#parts;
    this.#relieving = true;
    void this.serially(async () => {
      await maintenance.relieve(this.#deps.registry.all, atOnce);
      if (maintenance.flushedSinceSnapshot) await this.#takeSnapshot();
    })
      .catch((error: unknown) => {
        this.#deps.log.warn(
          { reason: messageOf(error) },
          'memory is short, but blocks could not be moved to files',
        );
      })
      .finally(() => {
        this.#relieving = false;
      });
  }

  /** After so much log a restart would take too long without another image. */
  imageIfDue(): void {
    const { engineLog } = this.#deps;
    const { imageLogBytes } = this.#options;
    // Large images are written less often, so that they never cost more than the log.
    const since = engineLog.appendedBytes - this.#imagedAt;
    if (this.#imaging || imageLogBytes === 0 || since < Math.max(imageLogBytes, this.#imageBytes / 2)) return;
    if (!this.#parts || this.#deps.isBootstrapping()) return;
    this.#imaging = true;
    void this.serially(() => this.#imageOrTell()).finally(() => {
      this.#imaging = false;
    });
  }

  /** A restart needs nothing of the log before now, for a while. */
  async image(): Promise<void> {
    const { fs, images, registry, hybridClock: clock, engineLog } = this.#deps;
    const { folder } = this.#options;
    this.#imagedAt = engineLog.appendedBytes;
    const report = await writeImage({ fs, folder, images }, { namespaces: registry.all, clock }, () => {
      this.#imagedAt = engineLog.appendedBytes;
      return engineLog.commitLog.position();
    });
    if (report) this.#imageBytes = report.bytes;
  }

  /** A read found a fileset damaged. */
  salvage(namespace: Namespace, info: FilesetInfo, error: FileDamageError): void {
    const { fs, hybridClock, onFinding } = this.#deps;
    onFinding({ kind: 'fileset', ...error.damage });
    this.#repair(() => salvageFileset({ fs, createdAtNs: hybridClock.nowNs() }, namespace, info));
  }

  /** A read found a segment of the index damaged. */
  healIndex(namespace: Namespace): void {
    for (const damage of namespace.index.damages.splice(0))
      this.#deps.onFinding({ kind: 'index', ...damage });
    this.#repair(() => rebuildIndex(namespace, uncovered(namespace)));
  }

  async #imageOrTell(): Promise<void> {
    if (this.#isFull) return;
    try {
      await this.image();
    } catch (error) {
      const { log, images } = this.#deps;
      log.warn(
        { reason: messageOf(error) },
        'no image of the memory was written; a restart reads more of the log',
      );
      // Half of one helps nobody, and takes room.
      await images.discard().catch(() => {});
    }
  }

  async #imageWhenIdle(): Promise<void> {
    const { appendedBytes } = this.#deps.engineLog;
    const idle = appendedBytes === this.#appendedAtTick;
    this.#appendedAtTick = appendedBytes;
    const worthIt = appendedBytes - this.#imagedAt > this.#options.imageLogBytes / 16;
    if (idle && worthIt && this.#options.imageLogBytes > 0) await this.#imageOrTell();
  }

  /** The same, where the file is all that is known; nothing is done for one that does not count any more. */
  salvageFile(namespace: Namespace, error: FileDamageError): void {
    const { root } = namespace.filesets;
    for (const { info } of namespace.filesets.all()) {
      const path = filesetPath(root, { ...info, namespace: namespace.name }, 'data');
      const prefix = path.slice(0, path.lastIndexOf('-') + 1);
      if (error.damage.file.startsWith(prefix)) this.salvage(namespace, info, error);
    }
  }

  #repair(work: () => Promise<unknown>): void {
    void this.serially(work).catch((error: unknown) => {
      this.#deps.log.error({ reason: messageOf(error) }, 'damage could not be repaired');
    });
  }

  /** @throws STORAGE_BUSY */
  #ready(): { readonly maintenance: Maintenance; readonly snapshots: Snapshots } {
    if (this.#parts && !this.#deps.isBootstrapping()) return this.#parts;
    throw new VarveError('STORAGE_BUSY', 'the storage engine is bootstrapping', {
      hint: 'Neither flush, snapshot nor clean-up happens meanwhile. Repeat it when it is ready.',
    });
  }

  #snapshotIsDue({ flushedSinceSnapshot: hasFlushed }: Maintenance): boolean {
    const { registry, engineLog } = this.#deps;
    const isWanted = registry.all.some(({ options }) => options.snapshotEnabled);
    return this.#schedule.isDue({ logBytes: engineLog.bytes, hasFlushed, isWanted });
  }

  async #snapshotOrTell(): Promise<void> {
    try {
      await this.#takeSnapshot();
    } catch (error) {
      this.#deps.log.warn({ reason: messageOf(error) }, 'no snapshot could be taken; it is tried again soon');
    }
  }

  async #takeSnapshot(): Promise<SnapshotReport> {
    assert(this.#parts, 'snapshots are taken when the log can be written');
    const { maintenance, snapshots } = this.#parts;
    const { engineLog, hybridClock, registry } = this.#deps;
    const bytesBefore = engineLog.bytes;
    const { lastAtNs, failures } = this.snapshotStatus;
    try {
      const report = await snapshots.take(registry.all);
      this.#schedule.succeeded();
      this.#deps.onSnapshot?.();
      engineLog.truncated(bytesBefore);
      maintenance.flushedSinceSnapshot = false;
      // The one that is there needs log that is gone.
      if (this.#options.imageLogBytes > 0) await this.#imageOrTell();
      this.snapshotStatus = { lastAtNs: hybridClock.nowNs(), failures, lastFailure: undefined };
      return report;
    } catch (error) {
      assert(error instanceof Error, 'errors are thrown');
      this.#schedule.failed();
      this.snapshotStatus = { lastAtNs, failures: failures + 1, lastFailure: messageOf(error) };
      throw error;
    }
  }
}
