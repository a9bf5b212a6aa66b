import { basename, dirname } from 'node:path';
import type { Clock } from '../../core/clock.ts';
import { assert, messageOf, VarveError } from '../../core/errors.ts';
import { isOutOfSpace, makeFolders, type FileSystem } from '../../core/file-system.ts';
import { ActiveSegment } from './active-segment.ts';
import { RecordGroup } from './record-group.ts';
import type { LogEnd, LogPosition } from './replay.ts';
import { RECORD_HEADER_BYTES, recordBytes, saltFrom, SEGMENT_HEADER_BYTES } from './segment-format.ts';
import { listSegments, segmentPath } from './segment-folder.ts';
import { SpareSegments, type Log } from './spare-segments.ts';

/**
 * - `sync`: acknowledged means on the disk; survives a loss of power
 * - `behind`: acknowledged means with the operating system: survives the end of the process at once, a loss of
 *   power after `syncDelayMs` and the time that one sync takes
 */
export type CommitLogMode = 'sync' | 'behind';

export interface CommitLogDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  /** The node's hybrid clock, in nanoseconds; written into each segment. */
  readonly hybridClock: () => bigint;
  /** Any 32 bits, different each time; not to be known to those whose payloads are written. */
  readonly randomUint32: () => number;
  readonly log: Log;
}

export interface CommitLogOptions {
  /** Made when absent; the folder above it must exist. One process, one log. */
  readonly folder: string;
  readonly mode: CommitLogMode;
  /** 64 MiB unless given. At most 2 GiB. */
  readonly segmentBytes?: number;
  /** In `behind` mode; 50 unless given. */
  readonly syncDelayMs?: number;
  /** Appends that wait for a write hold at most this much; 32 MiB unless given. */
  readonly maxWaitingBytes?: number;
  /** After how long a full disk is tried again; 1,000 unless given. */
  readonly retryMs?: number;
  /** Space that the log leaves to others; none unless given. */
  readonly keepFreeBytes?: number;
}

export interface CommitLogStatus {
  readonly mode: CommitLogMode;
  readonly state: 'writing' | 'full' | 'poisoned' | 'closed';
  /** Why, when it is not `writing`. */
  readonly reason: string | undefined;
  readonly position: LogPosition;
  /** Records below this sequence are on the disk. */
  readonly durableSequence: number;
}

const MIB = 1024 * 1024;

/**
 * Appends that survive. Every append that was acknowledged is given back by `replayCommitLog`, once and in
 * order. Appends that come together share one write and one sync. One that was refused may still be given
 * back, when the machine stops before the next one succeeds: a caller that hears an error does not know, as
 * with any database.
 *
 * A full disk refuses appends and keeps what was acknowledged; it passes. A failed sync does not: nobody knows
 * then what is on the disk, and asking again would not tell, so the log takes nothing more until the process
 * has read it anew.
 */
export class CommitLog {
  readonly #deps: CommitLogDeps;
  readonly #options: Required<CommitLogOptions>;
  readonly #spares: SpareSegments;
  readonly #stop = new AbortController();
  #active: ActiveSegment | undefined;
  #filling = new RecordGroup();
  #writing = new RecordGroup();
  #tail: Promise<unknown> = Promise.resolve();
  #drainQueued = false;
  #syncIsDue = false;
  #nextSequence: number;
  /** Of the last record that was given to the operating system, and of the last that is durable. */
  #writtenSequence: number;
  #durableSequence: number;
  #poison: VarveError | undefined;
  /** Why the last append found no room; undefined when it did. */
  #refused: VarveError | undefined;
  #closed = false;

  private constructor(deps: CommitLogDeps, options: Required<CommitLogOptions>, end: LogEnd) {
    this.#deps = deps;
    this.#options = options;
    this.#nextSequence = end.sequence + 1;
    this.#writtenSequence = end.sequence;
    this.#durableSequence = end.sequence;
    this.#spares = new SpareSegments(deps, options, end.unused[0]?.segment ?? end.segment + 1);
  }

  /**
   * Carries on behind `end`, which a replay of the same folder has returned and nothing has changed since. What that replay has read is
   * durable when this resolves. Succeeds on a full disk, too: then appends are refused until there is room.
   * @throws COMMIT_LOG_POISONED when what was read cannot be made durable
   */
  static async open(deps: CommitLogDeps, options: CommitLogOptions, end: LogEnd): Promise<CommitLog> {
    const complete = {
      segmentBytes: 64 * MIB,
      syncDelayMs: 50,
      maxWaitingBytes: 32 * MIB,
      retryMs: 1000,
      keepFreeBytes: 0,
      ...options,
    };
    checkOptions(complete);
    const { folder, segmentBytes } = complete;
    const { fs } = deps;
    const log = new CommitLog(deps, complete, end);
    await makeFolders(fs, dirname(folder), [basename(folder)]);
    await assertIsEnd(fs, folder, end);
    for (const segment of end.open) {
      await syncFile(fs, segmentPath(folder, segment)).catch((error: unknown) => {
        throw log.#poisonWith(error);
      });
    }
    if (end.unused[0]?.sizeBytes === segmentBytes) await log.#spares.adopt();
    return log;
  }

  /** The largest payload that an append may have. */
  get maxPayloadBytes(): number {
    return this.#options.segmentBytes - SEGMENT_HEADER_BYTES - 2 * RECORD_HEADER_BYTES;
  }

  /**
   * Acknowledged when it resolves, as the mode says; with the record's sequence, which grows from call to call.
   * The payload is copied before the call returns: it may be a view of memory that is used again.
   * @throws COMMIT_LOG_FULL when the disk has no room, COMMIT_LOG_BUSY when too much waits already,
   *   COMMIT_LOG_POISONED after a failed write or sync, INVALID_ARGUMENT when it is larger than a segment
   */
  append(payload: Uint8Array): Promise<number> {
    const refusal = this.#refusal(payload.length);
    if (refusal) return Promise.reject(refusal);
    const sequence = this.#nextSequence++;
    return new Promise((resolve, reject) => {
      this.#filling.add(payload, { sequence, resolve, reject });
      if (this.#drainQueued) return;
      this.#drainQueued = true;
      void this.#serially(() => this.#drain());
    });
  }

  /** Refuses an append of so much before it is tried, if that is certain; undefined when it may be taken. */
  refusal(payloadBytes: number): VarveError | undefined {
    const refusal = this.#refusal(payloadBytes);
    if (refusal) return refusal;
    if ((this.#active?.roomBytes ?? 0) >= recordBytes(payloadBytes)) return undefined;
    const full = this.#spares.refusal;
    if (full) this.#refused = full;
    return full;
  }

  /**
   * Everything appended so far is on the disk when it resolves, whatever the mode, but for what was refused.
   * @throws COMMIT_LOG_POISONED
   */
  async flush(): Promise<void> {
    await this.#serially(async () => {
      this.#throwIfPoisoned();
      await this.#sync();
    });
  }

  /** Where the next append goes, at the earliest. */
  position(): LogPosition {
    const sequence = this.#nextSequence;
    if (!this.#active) return { segment: this.#spares.segment, sequence, offset: SEGMENT_HEADER_BYTES };
    // What waits comes behind it, also what is before the next append.
    return { segment: this.#active.segment, sequence, offset: this.#active.writtenBytes };
  }

  /** All records before this place can be read, unless they are damaged. */
  written(): LogPosition {
    return { ...this.position(), sequence: this.#writtenSequence + 1 };
  }

  /**
   * Ends the current segment, if it has any record, so that what comes now goes into another, and the ones
   * before it can be removed once they are not needed. Returns the place: all that was appended before the call
   * is before it, and all that is before it was acknowledged or refused when this resolves.
   * @throws COMMIT_LOG_POISONED
   */
  async rotate(): Promise<LogPosition> {
    return await this.#serially(async () => {
      this.#throwIfPoisoned();
      if (this.#active && this.#active.writtenBytes > SEGMENT_HEADER_BYTES) await this.#seal();
      // Appends that wait now are in no segment yet, and go behind this place.
      return { segment: this.position().segment, sequence: this.#writtenSequence + 1 };
    });
  }

  /**
   * Removes the segments before `segment`, never the one in use; returns how many. Call it when a manifest that
   * makes them unnecessary is durable.
   */
  async removeBefore(segment: number): Promise<number> {
    const { fs } = this.#deps;
    const { folder } = this.#options;
    const limit = Math.min(segment, this.position().segment);
    const due = (await listSegments(fs, folder)).filter((present) => present < limit);
    for (const present of due) await fs.remove(segmentPath(folder, present));
    if (due.length > 0) await fs.syncFolder(folder);
    return due.length;
  }

  status(): CommitLogStatus {
    const { state, reason } = this.#state();
    return {
      mode: this.#options.mode,
      state,
      reason: reason === undefined ? undefined : messageOf(reason),
      position: this.position(),
      durableSequence: this.#durableSequence + 1,
    };
  }

  /** Waits for what was appended, makes it durable and closes the files. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#serially(async () => {
      if (this.#closed) return;
      this.#closed = true;
      await this.#spares[Symbol.asyncDispose]();
      try {
        if (!this.#poison) await this.#seal();
      } finally {
        await this.#active?.close();
      }
    });
  }

  #state(): { state: CommitLogStatus['state']; reason?: unknown } {
    if (this.#closed) return { state: 'closed', reason: this.#poison };
    if (this.#poison) return { state: 'poisoned', reason: this.#poison };
    const needsSpare = this.#active === undefined || this.#active.roomBytes <= RECORD_HEADER_BYTES;
    const reason = this.#refused ?? (needsSpare ? this.#spares.failure : undefined);
    // A spare that has come meanwhile ends the trouble before the next append shows it.
    const full = reason !== undefined && !(this.#spares.ready && this.#refused);
    return full ? { state: 'full', reason } : { state: 'writing' };
  }

  #refusal(payloadBytes: number): VarveError | undefined {
    if (this.#poison) return this.#poison;
    if (this.#closed || this.#stop.signal.aborted) {
      return new VarveError('CANCELLED', `the commit log in ${this.#options.folder} is closed`);
    }
    if (payloadBytes > this.maxPayloadBytes) {
      return new VarveError(
        'INVALID_ARGUMENT',
        `a record of ${payloadBytes} bytes does not fit into a segment of ${this.#options.segmentBytes}`,
        { hint: `Write it in parts of at most ${this.maxPayloadBytes} bytes.` },
      );
    }
    const waitingBytes = this.#filling.usedBytes + recordBytes(payloadBytes);
    if (this.#filling.count > 0 && waitingBytes > this.#options.maxWaitingBytes) {
      return new VarveError(
        'COMMIT_LOG_BUSY',
        `${this.#filling.usedBytes} bytes wait to be written to the commit log already`,
        { hint: 'Repeat it in a moment; if it lasts, the disk is too slow for what is written.' },
      );
    }
    return undefined;
  }

  async #drain(): Promise<void> {
    this.#drainQueued = false;
    const group = this.#filling;
    this.#filling = this.#writing;
    this.#writing = group;
    await this.#write(group);
    group.clear();
  }

  async #write(group: RecordGroup): Promise<void> {
    let from = 0;
    try {
      while (from < group.count) {
        this.#throwIfPoisoned();
        const active = await this.#segmentFor(group.sizeOf(from));
        const to = group.fit(from, active.roomBytes);
        const lastSequence = group.sequenceOf(to - 1);
        await this.#protect(
          active.write(group.encode(from, to, active.codec, active.syncedBytes), lastSequence),
        );
        this.#writtenSequence = lastSequence;
        this.#refused = undefined;
        if (this.#options.mode === 'sync') await this.#sync();
        else this.#syncSoon();
        group.acknowledge(from, to);
        from = to;
      }
    } catch (error) {
      if (error instanceof VarveError && error.code === 'COMMIT_LOG_FULL') this.#refused = error;
      group.refuse(from, error);
    }
  }

  /** The current segment, or the next one when this much does not fit. */
  async #segmentFor(sizeBytes: number): Promise<ActiveSegment> {
    if (this.#active && this.#active.roomBytes >= sizeBytes) return this.#active;
    // Without another one, smaller records may still fit into this: it is ended only when the next is there.
    const spare = await this.#spares.take();
    await this.#seal();
    const identity = {
      segment: spare.segment,
      salt: saltFrom(this.#deps.randomUint32()),
      clock: this.#deps.hybridClock(),
      firstSequence: this.#writtenSequence + 1,
    };
    try {
      this.#active = await ActiveSegment.begin(spare.file, identity, this.#options.segmentBytes);
      // In the same turn: between the two the place of the next append would be a segment too far.
      this.#spares.begun();
    } catch (error) {
      throw await this.#spares.giveBack(spare, error);
    }
    this.#spares.prepare();
    return this.#active;
  }

  async #seal(): Promise<void> {
    const active = this.#active;
    if (!active) return;
    await this.#sync();
    await active.seal();
    this.#active = undefined;
  }

  async #sync(): Promise<void> {
    const writtenSequence = this.#writtenSequence;
    await this.#active?.sync().catch((error: unknown) => {
      throw this.#poisonWith(error);
    });
    this.#durableSequence = Math.max(this.#durableSequence, writtenSequence);
  }

  #syncSoon(): void {
    if (this.#syncIsDue) return;
    this.#syncIsDue = true;
    void this.#syncLater();
  }

  async #syncLater(): Promise<void> {
    // Closing ends the wait: it syncs by itself.
    await this.#deps.clock.sleep(this.#options.syncDelayMs, this.#stop.signal).catch(() => {});
    this.#syncIsDue = false;
    // Of a failure the next append tells, and the status.
    if (!this.#poison) await this.#sync().catch(() => {});
  }

  /** A write that the disk had no room for may be repeated; after any other failure nothing is certain. */
  async #protect(write: Promise<void>): Promise<void> {
    try {
      await write;
    } catch (error) {
      if (!isOutOfSpace(error)) throw this.#poisonWith(error);
      throw new VarveError(
        'COMMIT_LOG_FULL',
        `the commit log in ${this.#options.folder} has no room: ${messageOf(error)}`,
        { hint: 'Free space on that disk; writes are taken again as soon as there is some.', cause: error },
      );
    }
  }

  #throwIfPoisoned(): void {
    if (this.#poison) throw this.#poison;
  }

  #poisonWith(cause: unknown): VarveError {
    if (!this.#poison) {
      this.#poison = new VarveError(
        'COMMIT_LOG_POISONED',
        `the commit log in ${this.#options.folder} could not be written: ${messageOf(cause)}; records from sequence ${this.#durableSequence + 1} on may not be on the disk`,
        { hint: 'Look at the disk, then restart this node: it reads what is there.', cause },
      );
      this.#deps.log.error({ reason: messageOf(cause) }, 'the commit log takes no more writes');
    }
    return this.#poison;
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }
}

function checkOptions({ segmentBytes }: { segmentBytes: number }): void {
  const whole = Number.isInteger(segmentBytes) && segmentBytes % 8 === 0;
  const least = SEGMENT_HEADER_BYTES + 4 * RECORD_HEADER_BYTES;
  assert(
    whole && segmentBytes >= least && segmentBytes <= 2 ** 31,
    `segmentBytes is a multiple of 8 from ${least} to 2^31, not ${segmentBytes}`,
  );
}

/** A log that was opened with what an older replay said would write over what came later. */
async function assertIsEnd(fs: FileSystem, folder: string, end: LogEnd): Promise<void> {
  const last = (await listSegments(fs, folder)).at(-1) ?? 0;
  assert(
    last <= end.segment,
    `segment ${last} of ${folder} came after the replay, which ended at ${end.segment}`,
  );
  for (const { segment } of end.unused) {
    await using file = await fs.open(segmentPath(folder, segment), 'read');
    const header = await file.read(0, SEGMENT_HEADER_BYTES);
    assert(
      header.every((byte) => byte === 0),
      `segment ${segment} of ${folder} was used after the replay`,
    );
  }
}

async function syncFile(fs: FileSystem, path: string): Promise<void> {
  await using file = await fs.open(path, 'update');
  await file.datasync();
}
