import type { RunEvent } from './step.ts';

export type NoteLevel = 'info' | 'warn' | 'error';

/** One way to show the stream of run events, and what else a person who started a system wants to read. */
export interface Renderer {
  event(event: RunEvent): void;
  /** One sentence; `source` is the node or part that it is about. */
  note(level: NoteLevel, source: string, text: string): void;
  /**
   * A page: `lines` for people, `data` for programs. A page with `refresh` replaces the one before it where
   * that is possible, and is left out where it would only pile up.
   */
  page(page: Page): void;
  /** Leaves the output whole: nothing half drawn, the cursor where a prompt expects it. */
  close(): void;
}

export interface Page {
  readonly name: string;
  readonly lines: readonly string[];
  readonly data: Readonly<Record<string, unknown>>;
  readonly refresh?: boolean;
}

/** Where the lines go: a stream, or an array in a test. */
export type Write = (text: string) => void;
