import { bytesText } from '../run/figures.ts';
import type { PlacementPlan, PlacementView } from './placement-control.ts';
import { placementLines } from './status-lines.ts';
import type { PlacementStatus } from './storage-placement.ts';
import { ranges } from './summary.ts';
import { textTable } from './text-table.ts';

/** `varve placement show` for people. */
export function viewLines({ placement, owned, changes }: PlacementView): string[] {
  if (!placement) {
    return [
      'There is no placement yet: each storage node stands alone.',
      ...(owned.length > 0 ? [`It is made when the data nodes ${owned.join(', ')} are there.`] : []),
    ];
  }
  const places = placement.instances.map(({ node, isolationGroup, weight, endpoint }) => [
    node,
    isolationGroup,
    String(weight),
    endpoint,
    owned.includes(node) ? 'data node' : '',
  ]);
  const history = changes
    .slice(0, SHOWN_CHANGES)
    .map(({ version, at, by, what }) => [String(version), at, by, what]);
  return [
    ...placementLines(placement),
    '',
    ...textTable(['instance', 'isolation group', 'weight', 'endpoint', 'registry'], places),
    '',
    ...textTable(['instance', 'state', 'shards'], shardRows(placement)),
    ...(history.length > 0 ? ['', ...textTable(['version', 'at', 'by', 'change'], history)] : []),
  ];
}

/** What a change would do. */
export function planLines({ moves, bytes, instances, silent }: PlacementPlan): string[] {
  const rows = moves.map((move) => [
    String(move.shard),
    move.from ?? 'other replicas',
    move.to,
    move.bytes === null ? 'unknown' : bytesText(move.bytes),
  ]);
  const total = bytes === null ? 'an unknown number of bytes' : bytesText(bytes);
  const counts = instances.map(({ node, before, after }) => `${node} ${before} → ${after}`);
  return [
    ...(rows.length > 0 ? [...textTable(['shard', 'from', 'to', 'bytes'], rows), ''] : []),
    `${moves.length} replicas are filled, with ${total} of filesets.`,
    `Shards: ${counts.join(', ')}.`,
    ...silent.map(({ node, why }) => `${node} does not say how many bytes it has: ${why}`),
  ];
}

/** After a change. */
export function changeLines(status: PlacementStatus): string[] {
  return [...placementLines(status), 'varve status --watch shows how the shards are filled.'];
}

const SHOWN_CHANGES = 10;

function shardRows({ instances, shards }: NonNullable<PlacementView['placement']>): string[][] {
  return instances.flatMap(({ node }) => {
    const byState = new Map<string, number[]>();
    for (const { id, instances: replicas } of shards) {
      for (const one of replicas) {
        if (one.node !== node) continue;
        const state = one.source === null ? one.state : `${one.state} from ${one.source}`;
        byState.set(state, [...(byState.get(state) ?? []), id]);
      }
    }
    return [...byState]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([state, ids]) => [node, state, ranges(ids)]);
  });
}
