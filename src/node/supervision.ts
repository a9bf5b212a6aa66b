import type { VarveError } from '../core/errors.ts';
import type { RunEvent } from '../run/step.ts';

/** What a node's process tells the supervisor that started it, over their IPC channel. */
export type NodeMessage =
  | { readonly type: 'event'; readonly event: RunEvent }
  /** The bring-up is done; again after each recovery. */
  | { readonly type: 'ready'; readonly postgresPid: number | null }
  /** Its PostgreSQL is gone; it is being brought up again. */
  | { readonly type: 'recovering'; readonly why: string }
  /** For whoever looks at the terminal. */
  | { readonly type: 'note'; readonly level: 'info' | 'warn'; readonly text: string }
  /** The last word of a process that gives up. */
  | { readonly type: 'failed'; readonly error: ReturnType<VarveError['toJSON']> };

/** Does nothing in a process without a supervisor. */
export type Report = (message: NodeMessage) => void;

/** The message in what came over the channel; undefined for anything else. */
export function nodeMessage(value: unknown): NodeMessage | undefined {
  const type = typeof value === 'object' && value !== null ? (value as { type?: unknown }).type : undefined;
  const known: readonly unknown[] = ['event', 'ready', 'recovering', 'note', 'failed'];
  return known.includes(type) ? (value as NodeMessage) : undefined;
}
