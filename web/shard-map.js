import { element } from './table.js';

/** In the order of the legend; what a cell looks like is in the style sheet, by class. */
export const LEGEND = [
  ['fs', 'from files'],
  ['commitlog', 'from the commit log'],
  ['peers', 'from peers'],
  ['uninitialized', 'new, nothing to get'],
  ['mixed', 'from several'],
  ['bootstrapping', 'being filled'],
  ['notStarted', 'waits'],
];

/** Of one namespace: a row for each node, a cell for each shard, coloured by where its data came from. */
export function shardMap(namespace, shards) {
  const nodes = [...new Set(shards.flatMap(({ instances }) => instances.map(({ node }) => node)))].sort();
  const rows = nodes.map((node) => {
    const cells = shards.map(({ id, instances }) =>
      cellOf(
        id,
        instances.find((one) => one.node === node && one.namespace === namespace),
      ),
    );
    return element('tr', {}, [element('th', { scope: 'row', textContent: node }), ...cells]);
  });
  const caption = element('caption', { textContent: `${namespace}: ${shards.length} shards` });
  return element('table', { className: 'map' }, [caption, element('tbody', {}, rows)]);
}

export function legend() {
  const entries = LEGEND.map(([name, text]) =>
    element('span', { className: 'entry' }, [element('i', { className: `cell ${name}` }), text]),
  );
  return element('p', { className: 'legend' }, entries);
}

function cellOf(id, instance) {
  if (!instance) return element('td', { title: `shard ${id}: not here` });
  const look = lookOf(instance);
  const [, text] = LEGEND.find(([name]) => name === look) ?? [look, look];
  const source = instance.source?.includes('+') ? ` (${instance.source})` : '';
  return element('td', { className: `cell ${look}`, title: `shard ${id}: ${text}${source}` });
}

function lookOf({ state, source }) {
  if (state !== 'bootstrapped') return state;
  if (source === null) return 'uninitialized';
  return source.includes('+') ? 'mixed' : source;
}
