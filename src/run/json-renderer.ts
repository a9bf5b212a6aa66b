import type { Renderer, Write } from './renderer.ts';

/** One JSON object a line, for programs: `type` is `event`, `note`, or the page's name. */
export function jsonRenderer(write: Write, nowMs: () => number): Renderer {
  const line = (value: object): void => write(`${JSON.stringify(value)}\n`);
  return {
    event: (event) => line({ type: 'event', ...event }),
    note: (level, source, text) => line({ type: 'note', atMs: nowMs(), level, source, text }),
    page: ({ name, data }) => line({ type: name, atMs: nowMs(), ...data }),
    close: () => {},
  };
}
