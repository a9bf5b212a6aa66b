import { bytes, duration, nowText, stateOf, summaryOf } from './format.js';
import { showTable } from './table.js';

/** The page asks again after each answer; the last one stays when the node falls silent. */
const EVERY_MS = 1000;

const place = (id) => document.getElementById(id);

function show(system) {
  place('summary').textContent = summaryOf(system);
  place('summary').className = system.nodes.every(({ state }) => state === 'ready') ? 'good' : 'warn';
  showTable(place('nodes'), NODE_COLUMNS, system.nodes);
  showTable(place('group'), GROUP_COLUMNS, system.group?.members ?? []);
  showTable(place('data-nodes'), DATA_NODE_COLUMNS, system.dataNodes ?? []);
  showTable(place('namespaces'), NAMESPACE_COLUMNS, system.namespaces ?? []);
  const runs = (system.runs ?? []).toSorted((a, b) => (a.startedAt < b.startedAt ? 1 : -1));
  showTable(place('runs'), RUN_COLUMNS, runs.slice(0, 30));
}

const NODE_COLUMNS = [
  ['node', ({ name }) => name],
  ['kind', ({ kind, role }) => (role ? `${kind}, ${role}` : kind)],
  ['state', ({ state }) => stateOf(state)],
  ['PostgreSQL', ({ postgres }) => postgresText(postgres)],
  ['HTTP', ({ http }) => link(http)],
  ['now', nowText],
];

const GROUP_COLUMNS = [
  ['member', ({ node }) => node],
  ['role', ({ role }) => role],
  ['alive', ({ alive }) => (alive ? { text: 'alive', tone: 'good' } : { text: 'silent', tone: 'bad' })],
  [
    'state',
    ({ state, reason }) => ({
      text: reason ? `${state}: ${reason}` : state,
      tone: state === 'member' ? '' : 'warn',
    }),
  ],
];

const DATA_NODE_COLUMNS = [
  ['data node', ({ name }) => name],
  ['place', ({ host, port, database }) => `${host}:${port}/${database}`],
  ['for', ({ accessDatabase }) => accessDatabase],
  [
    'state',
    ({ available }) =>
      available ? { text: 'available', tone: 'good' } : { text: 'not available', tone: 'bad' },
  ],
];

const NAMESPACE_COLUMNS = [
  ['namespace', ({ name }) => name],
  ['node', ({ node }) => node],
  ['series', ({ series }) => String(series ?? '')],
  ['samples in memory', ({ samples }) => String(samples ?? '')],
  ['memory', ({ memoryBytes }) => bytes(memoryBytes)],
  ['on disk', ({ diskBytes }) => bytes(diskBytes)],
];

const RUN_COLUMNS = [
  ['run', ({ node, run }) => `${node}: ${run}`],
  ['state', ({ state }) => stateOf(state)],
  ['step', ({ step }) => step],
  ['progress', progressOf],
  ['', ({ error, waitingFor, detail }) => error?.message ?? waitingFor ?? detail ?? ''],
];

function progressOf({ state, done, total, unit, etaMs }) {
  if (done === null || total === null || state !== 'running') return '';
  const bar = document.createElement('progress');
  bar.max = total;
  bar.value = done;
  bar.title = `${done} of ${total} ${unit ?? ''}${etaMs === null ? '' : `, ${duration(etaMs)} left`}`;
  return bar;
}

function postgresText(postgres) {
  if (!postgres) return '';
  const text = `${postgres.version ?? ''} on ${postgres.host}:${postgres.port}`;
  return postgres.up ? text : { text: `down, ${text}`, tone: 'bad' };
}

function link(http) {
  const anchor = document.createElement('a');
  anchor.href = http;
  anchor.textContent = http.replace('http://', '');
  return anchor;
}

async function follow() {
  for (;;) {
    try {
      const response = await fetch('/api/system');
      if (!response.ok) throw new Error(`the node answered ${response.status}`);
      show(await response.json());
    } catch (error) {
      place('summary').textContent = `no answer: ${error.message}`;
      place('summary').className = 'bad';
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

void follow();
