import type { FileSystem } from '../../core/file-system.ts';
import type { LogDamage } from './log-damage.ts';
import { scanSegment, type LogRecord } from './scan-segment.ts';
import { listSegments, segmentPath } from './segment-folder.ts';

/** A place between records: everything appended before it has a smaller sequence. */
export interface LogPosition {
  /** Records from here on are in this segment or a later one. */
  readonly segment: number;
  /** Of the first record behind this place. */
  readonly sequence: number;
  /** Where in the segment's file they begin, if that is known: what is before it need not be read. */
  readonly offset?: number;
}

/** Where a log ended, for the writer that carries on from there. */
export interface LogEnd {
  /** The highest number that is taken, 0 when none is. */
  readonly segment: number;
  /** Of the last record. */
  readonly sequence: number;
  /** Segments that did not end in order: what was read from them may not be durable yet. */
  readonly open: readonly number[];
  /** Segments of zeros behind all others, with their sizes. */
  readonly unused: readonly { readonly segment: number; readonly sizeBytes: number }[];
}

export interface ReplayOptions {
  readonly folder: string;
  /** Of the newest manifest: what is before it is skipped, unread as far as segments go. */
  readonly from?: LogPosition | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly windowBytes?: number;
  /** Also of the bytes behind the end of a segment it is told whether they are as they should be. */
  readonly untilEnd?: boolean;
}

export interface ReplayReport {
  /** How many segments were read. */
  readonly segments: number;
  /** How many records were visited. */
  readonly records: number;
  readonly payloadBytes: number;
  /** In order of place. Torn ones are what every crash may leave; the others lost something. */
  readonly damages: readonly LogDamage[];
  readonly end: LogEnd;
}

/**
 * Gives every intact record from `from` on to `visit`, in the order of the appends and each once. Damage costs
 * the records that it hit; it is reported, and never ends the replay. Writes nothing.
 * @throws STORAGE_FORMAT_UNKNOWN when a newer version wrote a segment, the signal's reason when it is aborted,
 *   and whatever `visit` throws
 */
export async function replayCommitLog(
  deps: { readonly fs: FileSystem },
  options: ReplayOptions,
  visit: (record: LogRecord) => void | Promise<void>,
): Promise<ReplayReport> {
  const { folder, from, signal } = options;
  const present = await listSegments(deps.fs, folder);
  const due = present.filter((segment) => segment >= (from?.segment ?? 0));
  const damages: LogDamage[] = [];
  const open: number[] = [];
  let unused: { segment: number; sizeBytes: number }[] = [];
  let lastSequence = 0;
  let records = 0;
  let payloadBytes = 0;
  for (const [index, segment] of due.entries()) {
    const expected = index === 0 ? (from?.segment ?? segment) : (due[index - 1] ?? segment) + 1;
    damages.push(...missing(folder, expected, segment));
    await using file = await deps.fs.open(segmentPath(folder, segment), 'read');
    const scanOptions = {
      segment,
      lastSequence,
      ...(segment === from?.segment && from.offset !== undefined ? { startOffset: from.offset } : {}),
      ...(options.windowBytes === undefined ? {} : { windowBytes: options.windowBytes }),
      untilEnd: options.untilEnd ?? false,
    };
    const scan = await scanSegment(file, scanOptions, (record) => {
      signal?.throwIfAborted();
      if (from && record.sequence < from.sequence) return undefined;
      records++;
      payloadBytes += record.payload.length;
      return visit(record);
    });
    lastSequence = scan.lastSequence;
    damages.push(...scan.damages);
    if (scan.state === 'unused') {
      unused.push({ segment, sizeBytes: scan.sizeBytes });
      continue;
    }
    // A segment is taken into use only after the one before it: zeros there are damage.
    damages.push(...unused.map((zeros) => lostSegment(folder, zeros)));
    unused = [];
    if (scan.state === 'open') open.push(segment);
  }
  const end: LogEnd = {
    segment: Math.max(present.at(-1) ?? 0, (from?.segment ?? 1) - 1),
    sequence: Math.max(lastSequence, (from?.sequence ?? 1) - 1),
    open,
    unused,
  };
  return { segments: due.length, records, payloadBytes, damages, end };
}

function missing(folder: string, expected: number, found: number): LogDamage[] {
  return Array.from({ length: Math.min(1000, Math.max(0, found - expected)) }, (_, index) => ({
    kind: 'missing' as const,
    file: segmentPath(folder, expected + index),
    offset: 0,
    sizeBytes: 0,
  }));
}

function lostSegment(folder: string, zeros: { segment: number; sizeBytes: number }): LogDamage {
  const file = segmentPath(folder, zeros.segment);
  return { kind: 'damaged', file, offset: 0, sizeBytes: zeros.sizeBytes };
}
