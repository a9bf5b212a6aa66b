import { bytes, duration, engineText, nowText, stateOf, summaryOf, troubleOf } from './format.js';
import { legend, shardMap } from './shard-map.js';
import { element, show, showTable } from './table.js';

/** The page asks again after each answer; the last one stays when the node falls silent. */
const EVERY_MS = 1000;

/** Where shards have their data from changes seldom, and is more to tell. */
const MAPS_EVERY = 5;

let maps = [];

const place = (id) => document.getElementById(id);

function showSystem(system) {
  place('summary').textContent = summaryOf(system);
  place('summary').className = system.nodes.every(({ state }) => state === 'ready') ? 'good' : 'warn';
  const trouble = troubleOf(system).map((textContent) => element('li', { textContent }));
  show(place('trouble'), trouble.length === 0 ? [] : [element('ul', {}, trouble)]);
  showTable(place('nodes'), NODE_COLUMNS, system.nodes);
  const { group } = system;
  const edges = group?.edges ?? [];
  const members = (group?.members ?? []).map((member) => ({
    ...member,
    edges: edges.filter(({ from }) => from === member.node),
    seenFrom: group.askedNode,
  }));
  showTable(place('group'), GROUP_COLUMNS, members);
  showTable(place('data-nodes'), DATA_NODE_COLUMNS, system.dataNodes);
  const held = system.namespaces.flatMap(({ name, nodes }) => nodes.map((node) => ({ ...node, name })));
  showTable(place('namespaces'), NAMESPACE_COLUMNS, held);
  const engines = system.nodes.filter(({ storage }) => storage);
  showTable(place('engines'), ENGINE_COLUMNS, engines);
  showTable(place('placement'), PLACEMENT_COLUMNS, system.placement?.instances ?? []);
  const drawn = system.namespaces.map(({ name }) => shardMap(name, system.shards, maps));
  show(place('shards'), system.shards.length === 0 ? [] : [...drawn, legend()]);
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
  ['replication', replicationOf],
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
  ['series', ({ series }) => number(series)],
  ['samples in memory', ({ openSamples }) => number(openSamples)],
  ['filesets', ({ filesets }) => number(filesets)],
  ['on disk', ({ filesetBytes }) => bytes(filesetBytes)],
  [
    '',
    ({ problem, quarantined }) =>
      problem || quarantined > 0
        ? { text: problem ?? `${quarantined} damaged filesets put aside`, tone: 'bad' }
        : '',
  ],
];

const ENGINE_COLUMNS = [
  ['engine', ({ name }) => name],
  ['state', ({ storage }) => stateOf(storage.state)],
  [
    'memory',
    ({ storage: { memory } }) => (memory ? `${bytes(memory.usedBytes)} of ${bytes(memory.limitBytes)}` : ''),
  ],
  ['log', ({ storage: { log } }) => (log ? `${log.state}, ${bytes(log.bytes)}` : '')],
  ['bootstrap', ({ storage }) => engineText(storage)],
];

/** Of the shards of metrics: while nodes come in or go out, some are on their way. */
const PLACEMENT_COLUMNS = [
  ['instance', ({ node }) => node],
  ['shards available', ({ shards }) => number(shards.available)],
  ['initialising', ({ shards }) => moving(shards.initializing)],
  ['leaving', ({ shards }) => moving(shards.leaving)],
  ['', ({ isLeaving }) => (isLeaving ? { text: 'is being taken out', tone: 'warn' } : '')],
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

function replicationOf({ edges, node, seenFrom }) {
  if (node === seenFrom) return '';
  const broken = edges.filter(({ state }) => state !== 'streaming');
  if (broken.length > 0)
    return { text: broken.map(({ database, state }) => `${database}: ${state}`).join('; '), tone: 'bad' };
  const lag = edges.reduce((sum, { lagBytes }) => sum + (lagBytes ?? 0), 0);
  return edges.length === 0 ? '' : `${bytes(lag)} behind`;
}

function moving(count) {
  return count === 0 ? '' : { text: number(count), tone: 'warn' };
}

function number(count) {
  return (count ?? 0).toLocaleString('en');
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

async function ask(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`the node answered ${response.status}`);
  return response.json();
}

async function follow() {
  for (let round = 0; ; round += 1) {
    try {
      if (round % MAPS_EVERY === 0) maps = await ask('/api/system/maps');
      showSystem(await ask('/api/system'));
    } catch (error) {
      place('summary').textContent = `no answer: ${error.message}`;
      place('summary').className = 'bad';
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

void follow();
