/**
 * Where the shards of a distributed hypertable go: one copy each, evenly over its members. Deterministic, so that
 * the same call gives the same map; moves as few shards as evenness needs, and only such as may be moved.
 */
export interface PlacedShard {
  readonly number: number;
  readonly node: string;
}

/** Shard by shard in turn over the nodes, in the order of their names. */
export function spreadShards(shardCount: number, nodes: readonly string[]): PlacedShard[] {
  const members = inOrder(nodes);
  return Array.from({ length: shardCount }, (_, number) => ({
    number,
    node: members[number % members.length] ?? '',
  }));
}

/**
 * The shards that `newcomer` takes from the fullest nodes until it has its fair share, of those that
 * `mayMove` allows.
 */
export function planAttach(
  shards: readonly PlacedShard[],
  members: { readonly nodes: readonly string[]; readonly newcomer: string },
  mayMove: (number: number) => boolean,
): PlacedShard[] {
  const { nodes, newcomer } = members;
  const counts = countByNode(shards, [...nodes, newcomer]);
  const fairCount = Math.floor(shards.length / counts.size);
  const movable = new Map(
    [...counts.keys()].map((node) => [
      node,
      shards.filter((shard) => shard.node === node && mayMove(shard.number)).map((shard) => shard.number),
    ]),
  );
  const moves: PlacedShard[] = [];
  while ((counts.get(newcomer) ?? 0) < fairCount) {
    const donors = inOrder([...counts.keys()]).filter(
      (node) =>
        node !== newcomer && (counts.get(node) ?? 0) > fairCount && (movable.get(node)?.length ?? 0) > 0,
    );
    const donor = extreme(donors, (node) => -(counts.get(node) ?? 0));
    const number = donor === undefined ? undefined : movable.get(donor)?.pop();
    if (donor === undefined || number === undefined) break;
    moves.push({ number, node: newcomer });
    counts.set(donor, (counts.get(donor) ?? 0) - 1);
    counts.set(newcomer, (counts.get(newcomer) ?? 0) + 1);
  }
  return moves;
}

/** All shards of `leaver`, each to the node that has fewest by then. */
export function planDetach(
  shards: readonly PlacedShard[],
  members: { readonly nodes: readonly string[]; readonly leaver: string },
): PlacedShard[] {
  const remaining = inOrder(members.nodes).filter((node) => node !== members.leaver);
  const counts = countByNode(shards, remaining);
  return shards
    .filter((shard) => shard.node === members.leaver)
    .flatMap(({ number }) => {
      const node = extreme(remaining, (candidate) => counts.get(candidate) ?? 0);
      if (node === undefined) return [];
      counts.set(node, (counts.get(node) ?? 0) + 1);
      return [{ number, node }];
    });
}

function inOrder(nodes: readonly string[]): string[] {
  return [...new Set(nodes)].sort((a, b) => (a < b ? -1 : 1));
}

function countByNode(shards: readonly PlacedShard[], nodes: readonly string[]): Map<string, number> {
  const counts = new Map(nodes.map((node) => [node, 0]));
  for (const { node } of shards) if (counts.has(node)) counts.set(node, (counts.get(node) ?? 0) + 1);
  return counts;
}

/** The first of those with the smallest value. */
function extreme(nodes: readonly string[], value: (node: string) => number): string | undefined {
  return nodes.reduce<string | undefined>(
    (best, node) => (best === undefined || value(node) < value(best) ? node : best),
    undefined,
  );
}
