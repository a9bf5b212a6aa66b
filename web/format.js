/** Texts for people. Pure. */

/** `{text, tone}` of a state, by how worried a reader should be. */
export function stateOf(state) {
  const tones = {
    ready: 'good',
    starting: 'warn',
    recovering: 'warn',
    stopping: 'warn',
    unreachable: 'bad',
    running: 'warn',
    done: 'good',
    failed: 'bad',
    cancelled: 'warn',
  };
  return { text: state, tone: tones[state] ?? '' };
}

/** What a node is doing, and for whom it waits. */
export function nowText({ step, waitingFor, reasons }) {
  if (step) return waitingFor ? `${step}: waiting for ${waitingFor}` : step;
  return (reasons ?? []).join('; ');
}

/** One sentence about the whole system. */
export function summaryOf({ nodes }) {
  const ready = nodes.filter(({ state }) => state === 'ready').length;
  const master = nodes.find(({ role }) => role === 'write master');
  const trouble = nodes
    .filter(({ state }) => state !== 'ready')
    .map(({ name, state }) => `${name} is ${state}`);
  const parts = [`${ready} of ${nodes.length} nodes ready`];
  if (master) parts.push(`write master ${master.name}, term ${master.term}`);
  return [...parts, ...trouble].join('; ');
}

export function bytes(count) {
  if (count === null || count === undefined) return '';
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return '';
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60
    ? `${minutes} min ${seconds % 60} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
