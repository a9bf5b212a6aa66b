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
    bootstrapping: 'warn',
    closed: 'bad',
  };
  return { text: state, tone: tones[state] ?? '' };
}

/** What a node is doing, and for whom it waits. */
export function nowText({ step, waitingFor, reasons }) {
  if (step) return waitingFor ? `${step}: waiting for ${waitingFor}` : step;
  return (reasons ?? []).join('; ');
}

/** What somebody should look at, the worst first. */
export function troubleOf({ nodes, group, dataNodes, namespaces, runs }) {
  const unready = nodes
    .filter(({ state }) => state !== 'ready')
    .map((node) => `${node.name} is ${node.state}${nowText(node) ? `: ${nowText(node)}` : ''}`);
  const engines = nodes
    .filter(({ storage, state }) => storage?.reason && state === 'ready')
    .map(({ name, storage }) => `${name}: ${storage.reason}`);
  const waiting = nodes
    .map(({ name, storage }) => ({ name, text: storage?.bootstrap ? waitText(storage.bootstrap) : '' }))
    .filter(({ text }) => text !== '')
    .map(({ name, text }) => `${name}: ${text}`);
  const leaderless = group && !group.master ? ['the group has no write master: nobody can write'] : [];
  const members = (group?.members ?? [])
    .filter(({ state }) => state !== 'member')
    .map(({ node, state, reason }) => `${node} is ${state}${reason ? `: ${reason}` : ''}`);
  const away = dataNodes
    .filter(({ available }) => available === false)
    .map(({ name }) => `data node ${name} is marked as not available`);
  const damaged = namespaces.flatMap(({ name, nodes: holders }) =>
    holders.filter(({ problem }) => problem).map(({ node, problem }) => `${name} on ${node}: ${problem}`),
  );
  const failed = runs
    .filter(({ state }) => state === 'failed')
    .map(({ node, run, error }) => `${node}: ${run} failed: ${error?.message ?? 'see its log'}`);
  return [...leaderless, ...unready, ...members, ...engines, ...waiting, ...damaged, ...away, ...failed];
}

/** What the newest bootstrap of an engine did. */
export function engineText({ bootstrap, reason }) {
  if (!bootstrap) return reason ?? '';
  const filled = bootstrap.sources.filter(({ fulfilledBlocks }) => fulfilledBlocks > 0);
  const blocks = new Map();
  for (const { source, fulfilledBlocks } of filled)
    blocks.set(source, (blocks.get(source) ?? 0) + fulfilledBlocks);
  const from = [...blocks].map(([source, count]) => `${source} ${count}`).join(', ');
  const told = toldText(bootstrap);
  const now = [bootstrap.progress, waitText(bootstrap)].filter(Boolean);
  if (now.length > 0) return `${bootstrap.state}: ${[...now, told].filter(Boolean).join('; ')}`;
  const took = bootstrap.tookMs === null ? '' : ` in ${duration(bootstrap.tookMs)}`;
  const parts = [`${bootstrap.state}${took}`, from && `blocks: ${from}`, bootstrap.error, told];
  return parts.filter(Boolean).join('; ');
}

/** The last thing that an operator has told it. */
function toldText({ interventions }) {
  const last = interventions?.at(-1);
  return last ? `${last.at}: ${last.by} ${last.what}` : '';
}

/** What nobody could fill yet, and why, of the first shard of which that is said. */
export function waitText({ unfulfilled }) {
  const [first] = unfulfilled ?? [];
  return first ? `shard ${first.shard} of ${first.namespace} waits: ${first.reason}, ${first.detail}` : '';
}

/** One sentence about the whole system. */
export function summaryOf({ nodes }) {
  const ready = nodes.filter(({ state }) => state === 'ready').length;
  const master = nodes.find(({ role }) => role === 'write master');
  const parts = [`${ready} of ${nodes.length} nodes ready`];
  if (master) parts.push(`write master ${master.name}, term ${master.term}`);
  return parts.join('; ');
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
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60
    ? `${minutes} min ${seconds % 60} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** `2026-01-02T03:04:05.000Z` as `Jan 2, 03:04`, in the time of the nodes (UTC). */
export function moment(iso) {
  const options = { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
  return new Date(iso).toLocaleString('en', { ...options, timeZone: 'UTC' });
}
