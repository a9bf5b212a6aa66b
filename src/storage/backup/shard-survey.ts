import { VarveError } from '../../core/errors.ts';
import type { BlockJob, BlockOffer } from '../peers/block-fetch.ts';
import { PeerFailure, type PeerClient } from '../peers/peer-client.ts';
import { decodeShards, type PeerShard } from '../peers/peer-messages.ts';
import { MAX_NS, MIN_NS } from '../protocol/time-text.ts';
import { holders, type BackupCluster } from './backup-cluster.ts';

/** Shards that one request asks for. */
const SHARDS_AT_ONCE = 64;

export interface Survey {
  /** A block each, of all that have anything of it. */
  readonly jobs: readonly BlockJob[];
  /** No node knew of a newer version when it was asked. */
  readonly version: bigint;
}

interface Offer {
  readonly node: string;
  readonly shard: PeerShard;
  readonly version: bigint;
}

/**
 * What there is of a namespace, and who can give it.
 * @throws BACKUP_INCOMPLETE when fewer replicas of a shard than are required can
 */
export async function surveyShards(
  { client, signal }: { readonly client: PeerClient; readonly signal: AbortSignal },
  what: {
    readonly cluster: BackupCluster;
    readonly namespace: string;
    readonly required: number;
    /** Nodes of which nothing is taken, and why. */
    readonly excluded: ReadonlyMap<string, string>;
  },
): Promise<Survey> {
  const { cluster, namespace, required, excluded } = what;
  const offers: Offer[] = [];
  const silent = new Map(excluded);
  await Promise.all(
    [...cluster.endpoints.keys()].map(async (node) => {
      if (excluded.has(node)) return;
      const own = cluster.replicas.flatMap((_, shard) =>
        holders(cluster, shard).includes(node) ? [shard] : [],
      );
      for (let at = 0; at < own.length; at += SHARDS_AT_ONCE) {
        const shards = own.slice(at, at + SHARDS_AT_ONCE);
        try {
          const request = { kind: 'shards', namespace, shards, startNs: MIN_NS, endNs: MAX_NS } as const;
          const { version, ...answer } = decodeShards(await client.call(node, request, signal));
          offers.push(...answer.shards.map((shard) => ({ node, shard, version })));
        } catch (error) {
          if (!(error instanceof PeerFailure || error instanceof VarveError)) throw error;
          silent.set(node, error instanceof PeerFailure ? error.reason : error.message);
          return;
        }
      }
    }),
  );
  const jobs = cluster.replicas.flatMap((_, shard) => {
    const found = offers.filter((offer) => offer.shard.shard === shard);
    const whole = found.filter((offer) => offer.shard.state === 'whole');
    if (whole.length < required) throw incomplete(namespace, { shard, required, cluster, found, silent });
    return blocksOf(shard, whole, whole.length - required);
  });
  const version = offers.reduce((newest, one) => (one.version > newest ? one.version : newest), 0n);
  return { jobs, version };
}

function blocksOf(shard: number, whole: readonly Offer[], spare: number): BlockJob[] {
  const blocks = new Map<bigint, BlockOffer[]>();
  for (const { node, version, shard: has } of whole) {
    for (const block of has.blocks) {
      const known = blocks.get(block.startNs) ?? [];
      blocks.set(block.startNs, known);
      known.push({ node, block, version });
    }
  }
  return [...blocks].map(([startNs, offers]) => ({ shard, startNs, offers, spare }));
}

function incomplete(
  namespace: string,
  what: {
    readonly shard: number;
    readonly required: number;
    readonly cluster: BackupCluster;
    readonly found: readonly Offer[];
    readonly silent: ReadonlyMap<string, string>;
  },
): VarveError {
  const { shard, required, cluster, found, silent } = what;
  const states = holders(cluster, shard).map((node) => {
    const state = found.find((offer) => offer.node === node)?.shard.state;
    return `${node}: ${state ?? silent.get(node) ?? 'no answer'}`;
  });
  return new VarveError(
    'BACKUP_INCOMPLETE',
    `${required} replicas of shard ${shard} of namespace ${namespace} have to give what they have (${states.join('; ')})`,
    { hint: 'Nothing counts as backed up. Bring the nodes back, or ask fewer with --consistency one.' },
  );
}
