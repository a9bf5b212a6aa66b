import { systemClock } from '../core/clock.ts';
import { jsonRenderer } from '../run/json-renderer.ts';
import { plainRenderer } from '../run/plain-renderer.ts';
import type { Renderer } from '../run/renderer.ts';
import { ansiPaint, TerminalRenderer } from '../run/terminal-renderer.ts';
import type { CliContext } from './context.ts';

export interface ChosenRenderer {
  readonly renderer: Renderer;
  /** Whether pages may be refreshed. */
  readonly interactive: boolean;
}

/** JSON when asked for; live progress on a terminal that can show it; plain lines otherwise. */
export function chooseRenderer({ stdout, environment }: CliContext, json: boolean): ChosenRenderer {
  const write = (text: string): void => void stdout.write(text);
  const nowMs = (): number => systemClock.nowMs();
  if (json) return { renderer: jsonRenderer(write, nowMs), interactive: false };
  const plain = !stdout.isTTY || environment['NO_COLOR'] || environment['TERM'] === 'dumb';
  if (plain) return { renderer: plainRenderer(write, nowMs), interactive: false };
  const size = () => ({ columns: stdout.columns || 80, rows: stdout.rows || 24 });
  return { renderer: new TerminalRenderer({ write, nowMs, size, paint: ansiPaint }), interactive: true };
}
