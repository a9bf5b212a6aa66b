import type { Clock } from '../../core/clock.ts';
import { untilDeadline } from '../../core/deadline.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { PlacedInstance, Placement } from '../../placement/placement.ts';
import { topologyOf } from '../../placement/topology.ts';
import { isNew } from '../bootstrap/uninitialized-source.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { ColumnsWriter } from './columns-body.ts';
import type { LocalReplica } from './local-replica.ts';
import type { ReplicaAddress, ReplicaTransport } from './replica-transport.ts';

export interface HandOverDeps {
  /** This one in the placement. */
  readonly node: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly local: LocalReplica;
  readonly transport: ReplicaTransport;
  /** Of one message. */
  readonly timeoutMs: number;
}

/** Messages have about this size. */
const PART_BYTES = 1024 * 1024;
const ALL_TIMES = { startNs: -(1n << 62n), endNs: 1n << 62n };

/**
 * Gives the samples that a node took while it stood alone to the replicas of a placement that it is in now. It gives up
 * its own then, or others would not have them: so more than half of the replicas of each shard have to take them before.
 * What they have already stays. To be repeated until it succeeds; the same again changes nothing.
 * @param shards that the node has samples of
 * @throws WRITE_LEVEL_NOT_REACHED
 */
export async function handOver(
  deps: HandOverDeps,
  placement: Placement,
  { shards, signal }: { readonly shards: readonly number[]; readonly signal: AbortSignal },
): Promise<void> {
  const { node, log } = deps;
  const topology = topologyOf(placement, node);
  const left = new Map<number, number>();
  const takers = new Map<PlacedInstance, number[]>();
  for (const shard of shards) {
    const replicas = topology.shards.get(shard) ?? new Map<string, string>();
    const isFirst = isNew(topology, shard);
    const others = placement.instances.filter(
      ({ id }) => id !== node && replicas.has(id) && (isFirst || replicas.get(id) !== 'initializing'),
    );
    for (const other of others) takers.set(other, [...(takers.get(other) ?? []), shard]);
    // Of a new shard what is here stays here, too.
    const own = isFirst && replicas.has(node) ? 1 : 0;
    left.set(shard, Math.min(others.length, topology.majorityReplicas - own));
  }
  log.info({ shards: shards.length }, 'what this node took while it stood alone is given to the replicas');
  const reasons: string[] = [];
  for (const [taker, taken] of takers) {
    try {
      const samples = await give(deps, taker, { shards: taken, signal });
      log.info({ replica: taker.id, samples }, 'a replica has what this node took alone');
      for (const shard of taken) left.set(shard, (left.get(shard) ?? 0) - 1);
    } catch (error) {
      signal.throwIfAborted();
      reasons.push(`${taker.id}: ${messageOf(error)}`);
    }
  }
  const short = shards.filter((shard) => (left.get(shard) ?? 0) > 0);
  if (short.length === 0) return;
  throw new VarveError(
    'WRITE_LEVEL_NOT_REACHED',
    `too few replicas took what this node has of ${short.length} shards from the time when it stood alone: ${reasons.join('; ')}`,
    { hint: 'It is repeated. Until then the node keeps it, and has no part in the placement.' },
  );
}

/** Returns how many samples went. */
async function give(
  { clock, local, transport, timeoutMs }: HandOverDeps,
  taker: ReplicaAddress,
  { shards, signal }: { readonly shards: readonly number[]; readonly signal: AbortSignal },
): Promise<number> {
  let samples = 0;
  for (const { name: namespace } of local.engine.namespaces()) {
    const writer = new ColumnsWriter();
    const send = async (): Promise<void> => {
      const body = writer.take();
      const limit = { waitingFor: `replica ${taker.id}`, timeoutMs, clock, parent: signal };
      await untilDeadline(limit, (ends) => transport.handOver(taker, { namespace, body }, ends));
    };
    const query = { matchers: [], shards, signal, ...ALL_TIMES };
    for await (const { id, columns } of local.replica.readBatches(namespace, query)) {
      writer.add(id, columns);
      samples += columns.times.length;
      if (writer.length >= PART_BYTES) await send();
    }
    if (writer.length > 0) await send();
  }
  return samples;
}
