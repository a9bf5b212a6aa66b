import { applyEvent, emptyBoard, type Board, type BoardRow } from './board.ts';
import { durationText, progressText } from './figures.ts';
import { endText, explanation } from './plain-renderer.ts';
import type { NoteLevel, Page, Renderer, Write } from './renderer.ts';
import type { RunEvent } from './step.ts';

const SPINNER = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const FRAME_MS = 100;

/** Escape sequences around a text; the identity where colours are off. */
export type Paint = (style: 'green' | 'red' | 'yellow' | 'dim', text: string) => string;

const STYLE = { green: 32, red: 31, yellow: 33, dim: 2 } as const;
export const ansiPaint: Paint = (style, text) => `\u001B[${STYLE[style]}m${text}\u001B[0m`;

/**
 * What a terminal shows of the events: lines that stay (`take`), and one line for each running step that is
 * drawn again and again (`live`). Depends on the events and the time that is passed in.
 */
export class TerminalLines {
  #board: Board = emptyBoard;
  readonly #paint: Paint;

  constructor(paint: Paint) {
    this.#paint = paint;
  }

  take(event: RunEvent): string[] {
    this.#board = applyEvent(this.#board, event);
    const row = this.#board.get(`${event.node}/${event.run}`);
    if (!row) return [];
    if (event.step !== '') return event.state === 'failed' ? this.#failed(event) : [];
    if (row.runState === 'done')
      return [`${this.#paint('green', '✔')} ${named(row)} ${endText(row, event.atMs)}`];
    if (row.runState === 'cancelled')
      return [`${this.#paint('yellow', '○')} ${named(row)} ${endText(row, event.atMs)}`];
    return [];
  }

  live(nowMs: number): string[] {
    const spinner = SPINNER[Math.floor(nowMs / FRAME_MS) % SPINNER.length] ?? '';
    return [...this.#board.values()]
      .filter((row) => row.runState === 'running')
      .map((row) => {
        const parts = [
          row.step === '' ? row.run : row.step,
          progressText(row),
          row.waitingFor === undefined ? (row.detail ?? '') : `waiting for ${row.waitingFor}`,
          durationText(Math.max(0, nowMs - row.stepStartedAtMs)),
        ];
        return `${spinner} ${named(row)} ${parts.filter((part) => part !== '').join('  ')}`;
      });
  }

  #failed(event: RunEvent): string[] {
    const reason = event.error?.message ?? event.detail ?? 'failed without a reason';
    const first = `${this.#paint('red', '✘')} ${event.node.padEnd(4)} ${event.step}: ${reason}`;
    return [first, ...explanation(event).map((line) => this.#paint('dim', `       ${line}`))];
  }
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

export interface TerminalDeps {
  readonly write: Write;
  readonly nowMs: () => number;
  readonly size: () => TerminalSize;
  readonly paint: Paint;
}

/** Live progress: what is finished scrolls up, what runs and the current page are redrawn at the bottom. */
export class TerminalRenderer implements Renderer {
  readonly #deps: TerminalDeps;
  readonly #lines: TerminalLines;
  #page: readonly string[] = [];
  #drawnCount = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(deps: TerminalDeps) {
    this.#deps = deps;
    this.#lines = new TerminalLines(deps.paint);
  }

  event(event: RunEvent): void {
    this.#draw(this.#lines.take(event));
  }

  note(level: NoteLevel, source: string, text: string): void {
    const { paint } = this.#deps;
    const mark = level === 'info' ? ' ' : paint(level === 'error' ? 'red' : 'yellow', '!');
    this.#draw([`${mark} ${source.padEnd(4)} ${text}`]);
  }

  page(page: Page): void {
    this.#page = page.lines;
    this.#draw([]);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const last = this.#page;
    this.#page = [];
    // The page stays readable above the prompt.
    this.#deps.write(this.#erase() + last.map((line) => `${line}\n`).join(''));
  }

  #draw(permanent: readonly string[]): void {
    const { write, nowMs, size } = this.#deps;
    const { columns, rows } = size();
    const running = this.#lines.live(nowMs());
    // More lines than the screen has could not be erased again.
    const live = [...running, ...this.#page]
      .slice(0, Math.max(1, rows - 1))
      .map((line) => cut(line, columns));
    const text = this.#erase() + [...permanent, ...live].map((line) => `${line}\n`).join('');
    this.#drawnCount = live.length;
    write(text);
    if (running.length === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    } else if (!this.#timer) {
      this.#timer = setInterval(() => this.#draw([]), FRAME_MS);
      this.#timer.unref();
    }
  }

  #erase(): string {
    const count = this.#drawnCount;
    this.#drawnCount = 0;
    return count === 0 ? '' : `\u001B[${count}A\u001B[0J`;
  }
}

function named(row: BoardRow): string {
  return row.node.padEnd(4);
}

/** A line that the terminal wraps would take two rows and could not be erased. Live lines have no colours. */
function cut(line: string, columns: number): string {
  return Array.from(line)
    .slice(0, Math.max(1, columns - 1))
    .join('');
}
