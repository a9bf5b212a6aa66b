import { applyEvent, emptyBoard, type Board, type BoardRow } from './board.ts';
import { durationText, progressText } from './figures.ts';
import type { Renderer, Write } from './renderer.ts';
import type { RunEvent } from './step.ts';

/** A step that only repeats how far it is gets a line no more often than this. */
const PROGRESS_EVERY_MS = 5000;

/**
 * What a log shows of each event: begin and end of what is really done, why it waits, and how far it is from
 * time to time. Steps with nothing to do are only counted. Depends on the events alone.
 */
export class PlainLines {
  #board: Board = emptyBoard;
  readonly #lastLine = new Map<string, { atMs: number; text: string }>();

  take(event: RunEvent): string[] {
    this.#board = applyEvent(this.#board, event);
    const row = this.#board.get(`${event.node}/${event.run}`);
    const text = row && (event.step === '' ? runText(row, event) : stepText(row, event));
    if (!row || !text) return [];
    const key = `${event.node}/${event.run}/${event.step}`;
    const last = this.#lastLine.get(key);
    const repeats = event.step !== '' && event.state === 'running' && last !== undefined;
    if (repeats && event.atMs - last.atMs < PROGRESS_EVERY_MS && sameWait(last.text, text)) return [];
    if (repeats && last.text === text) return [];
    this.#lastLine.set(key, { atMs: event.atMs, text });
    return [stamped(event.atMs, event.node, text), ...explanation(event).map((line) => `    ${line}`)];
  }
}

/** Timestamped lines, for logs and for terminals that cannot be redrawn. */
export function plainRenderer(write: Write, nowMs: () => number): Renderer {
  const plain = new PlainLines();
  const print = (lines: readonly string[]): void => write(lines.map((line) => `${line}\n`).join(''));
  return {
    event: (event) => print(plain.take(event)),
    note: (level, source, text) =>
      print([stamped(nowMs(), source, level === 'info' ? text : `${level}: ${text}`)]),
    page: ({ lines, refresh }) => {
      if (!refresh) print(lines);
    },
    close: () => {},
  };
}

/** Detail and hint of a failed run's error, for the line below it. */
export function explanation(event: RunEvent): string[] {
  if (event.state !== 'failed' || event.step === '' || !event.error) return [];
  const { detail, hint } = event.error;
  return [...(detail?.split('\n') ?? []), ...(hint ? [`hint: ${hint}`] : [])];
}

/** What a run that ended has to say. */
export function endText(row: BoardRow, atMs: number): string {
  const took = durationText(atMs - row.startedAtMs);
  const steps = `${row.appliedCount} done, ${row.skippedCount} had nothing to do`;
  return `${row.run} ${row.runState} in ${took} (steps: ${steps})`;
}

function runText(row: BoardRow, event: RunEvent): string {
  if (event.state === 'running') return '';
  if (event.state === 'failed') return `${row.run} failed ${event.detail ?? ''}`.trimEnd();
  return endText(row, event.atMs);
}

/** '' when the event is not worth a line. */
function stepText(row: BoardRow, event: RunEvent): string {
  const name = `${row.run}: ${row.step}`;
  switch (row.stepState) {
    case 'pending':
    case 'checking':
    case 'skipped':
      return event.waitingFor === undefined ? '' : `${name}: waiting for ${event.waitingFor}`;
    case 'done':
      return `${name} done in ${durationText(event.atMs - row.stepStartedAtMs)}`;
    case 'failed':
      return `${name} failed: ${event.error?.message ?? event.detail ?? 'without a reason'}`;
    case 'running':
      break;
  }
  return [name, runningText(row)].filter((part) => part !== '').join(': ');
}

function runningText(row: BoardRow): string {
  const waiting = row.waitingFor === undefined ? '' : `waiting for ${row.waitingFor}`;
  return [progressText(row), row.detail ?? '', waiting].filter((part) => part !== '').join('; ');
}

/** Whether two lines of one step wait for the same, so that the second adds nothing but progress. */
function sameWait(a: string, b: string): boolean {
  const wait = (text: string): string => /waiting for .*/.exec(text)?.[0] ?? '';
  return wait(a) === wait(b);
}

function stamped(atMs: number, source: string, text: string): string {
  return `${new Date(atMs).toISOString()} ${source.padEnd(4)} ${text}`;
}
