import { moment } from './format.js';
import { element } from './table.js';

/** In the order of the legend; what a cell looks like is in the style sheet, by class. */
export const LEGEND = [
  ['fs', 'from files'],
  ['commitlog', 'from the commit log'],
  ['peers', 'from peers'],
  ['uninitialized', 'new, nothing to get'],
  ['acceptedLoss', 'lost, as an operator said'],
  ['mixed', 'from several'],
  ['bootstrapping', 'being filled'],
  ['notStarted', 'waits'],
  ['nobody', 'nobody has it yet'],
];

/**
 * Of one namespace, by shard and time: a cell for each shard, coloured by where its data came from, in a row for each
 * node and range of time, the newest first. A node that does not tell of ranges has one row, as it stands now.
 */
export function shardMap(namespace, shards, maps) {
  const nodes = [...new Set(shards.flatMap(({ instances }) => instances.map(({ node }) => node)))].sort(
    (a, b) => (a < b ? -1 : 1),
  );
  const bandsOf = (node) =>
    maps
      .filter((map) => map.node === node)
      .flatMap(({ namespaces }) => namespaces)
      .filter(({ name }) => name === namespace)
      .flatMap(({ bands }) => bands);
  const isTimed = nodes.some((node) => bandsOf(node).length > 0);
  const ids = shards.map(({ id }) => id);
  const rows = nodes.flatMap((node) => {
    const bands = bandsOf(node).map((band) => ({ title: moment(band.start), cells: bandCells(ids, band) }));
    if (bands.length === 0 || isBeingFilled(namespace, node, shards))
      bands.unshift({ title: 'now', cells: stateCells(namespace, node, shards) });
    return bands.map(({ title, cells }, index) => {
      const heads = [];
      if (index === 0)
        heads.push(element('th', { scope: 'rowgroup', rowSpan: bands.length, textContent: node }));
      if (isTimed) heads.push(element('th', { scope: 'row', className: 'time', textContent: title }));
      return element('tr', { className: index === 0 ? 'first' : '' }, [...heads, ...cells]);
    });
  });
  const what = isTimed ? ', each from the time beside it' : '';
  const caption = element('caption', { textContent: `${namespace}: ${shards.length} shards${what}` });
  return element('table', { className: 'map' }, [caption, element('tbody', {}, rows)]);
}

export function legend() {
  const entries = LEGEND.map(([name, text]) =>
    element('span', { className: 'entry' }, [element('i', { className: `cell ${name}` }), text]),
  );
  return element('p', { className: 'legend' }, entries);
}

function bandCells(ids, { sources }) {
  const bySource = new Map(
    sources.flatMap(({ source, shards }) => shards.map((id) => [id, source ?? 'nobody'])),
  );
  return ids.map((id) => cell(id, bySource.get(id)));
}

function instanceOn(namespace, node, { instances }) {
  return instances.find((one) => one.node === node && one.namespace === namespace);
}

function isBeingFilled(namespace, node, shards) {
  return shards.some((shard) => instanceOn(namespace, node, shard)?.progress !== undefined);
}

function stateCells(namespace, node, shards) {
  return shards.map((shard) => {
    const { id } = shard;
    const instance = instanceOn(namespace, node, shard);
    if (!instance) return cell(id, undefined);
    const { state, source, progress } = instance;
    if (progress) return cell(id, state, `${progress.doneBlocks} of ${progress.blocks} blocks`);
    if (state !== 'bootstrapped') return cell(id, state);
    return source?.includes('+') ? cell(id, 'mixed', source) : cell(id, source ?? 'uninitialized');
  });
}

function cell(id, look, detail) {
  if (look === undefined) return element('td', { title: `shard ${id}: not here` });
  const [, text] = LEGEND.find(([name]) => name === look) ?? [look, look];
  const title = `shard ${id}: ${text}${detail === undefined ? '' : ` (${detail})`}`;
  return element('td', { className: `cell ${look}`, title });
}
