import type { RunEvent, RunState, StepState } from './step.ts';

/** What one run is doing, as far as its events tell. */
export interface BoardRow {
  readonly run: string;
  readonly node: string;
  readonly runState: RunState;
  /** The step that the last event was about; '' before the first. */
  readonly step: string;
  readonly stepState: StepState;
  readonly startedAtMs: number;
  readonly stepStartedAtMs: number;
  readonly appliedCount: number;
  readonly skippedCount: number;
  readonly done?: number | undefined;
  readonly total?: number | undefined;
  readonly unit?: string | undefined;
  readonly detail?: string | undefined;
  readonly waitingFor?: string | undefined;
  readonly error?: RunEvent['error'];
  /** Of `done`, since the first report of this step. */
  readonly ratePerSecond?: number | undefined;
  readonly etaMs?: number | undefined;
  readonly firstReport?: { readonly atMs: number; readonly done: number } | undefined;
}

/** One row a node and run, in order of their start. Reads events only: the same events, the same board. */
export type Board = ReadonlyMap<string, BoardRow>;

export const emptyBoard: Board = new Map();

/** The board after `event`; the old one stays as it was. */
export function applyEvent(board: Board, event: RunEvent): Board {
  const key = `${event.node}/${event.run}`;
  const before = board.get(key);
  const row = event.step === '' ? ofRun(before, event) : ofStep(before ?? newRow(event), event);
  return new Map(board).set(key, row);
}

function newRow(event: RunEvent): BoardRow {
  return {
    run: event.run,
    node: event.node,
    runState: 'running',
    step: '',
    stepState: 'pending',
    startedAtMs: event.atMs,
    stepStartedAtMs: event.atMs,
    appliedCount: 0,
    skippedCount: 0,
  };
}

function ofRun(before: BoardRow | undefined, event: RunEvent): BoardRow {
  if (event.state === 'running' || !before) return { ...newRow(event), runState: event.state as RunState };
  return { ...before, runState: event.state as RunState, waitingFor: undefined, etaMs: undefined };
}

function ofStep(before: BoardRow, event: RunEvent): BoardRow {
  const same = before.step === event.step;
  const state = event.state as StepState;
  const firstReport =
    (same ? before.firstReport : undefined) ??
    (event.done === undefined ? undefined : { atMs: event.atMs, done: event.done });
  const row: BoardRow = {
    ...before,
    step: event.step,
    stepState: state,
    stepStartedAtMs: same ? before.stepStartedAtMs : event.atMs,
    appliedCount: before.appliedCount + (state === 'done' ? 1 : 0),
    skippedCount: before.skippedCount + (state === 'skipped' ? 1 : 0),
    done: event.done,
    total: event.total,
    unit: event.unit,
    detail: event.detail,
    waitingFor: event.waitingFor,
    error: event.error,
    firstReport,
  };
  return { ...row, ...speed(row, event.atMs) };
}

function speed(row: BoardRow, atMs: number): Pick<BoardRow, 'ratePerSecond' | 'etaMs'> {
  const { done, total, firstReport } = row;
  if (done === undefined || !firstReport || atMs <= firstReport.atMs || done <= firstReport.done) {
    return { ratePerSecond: undefined, etaMs: undefined };
  }
  const ratePerSecond = ((done - firstReport.done) * 1000) / (atMs - firstReport.atMs);
  const left = total === undefined ? undefined : Math.max(0, total - done);
  return { ratePerSecond, etaMs: left === undefined ? undefined : (left / ratePerSecond) * 1000 };
}
