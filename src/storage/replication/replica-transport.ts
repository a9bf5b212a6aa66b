import type { WriteOutcome } from '../engine/storage-engine.ts';

/** A node that has replicas, and where it listens. */
export interface ReplicaAddress {
  readonly id: string;
  readonly endpoint: string;
}

/**
 * - 1, 2: the body of a remote write request of this version, in snappy
 * - `columns`: as `columns-body.ts` draws it
 */
export type ReplicaFormat = 1 | 2 | 'columns';

/** What one node took and others are to have, too. The same again changes nothing. */
export interface ReplicaWrite {
  readonly namespace: string;
  readonly format: ReplicaFormat;
  readonly body: Uint8Array;
  /** Of the hybrid clock of the node that took it: its version everywhere. */
  readonly stamp: bigint;
  /** Of the placement that says where it goes; not given with what is brought later. */
  readonly routedBy?: number;
}

/** Samples that a node took before it had any part in the placement, as `columns-body.ts` draws them. */
export interface HandedOver {
  readonly namespace: string;
  readonly body: Uint8Array;
  /** As that of a write. */
  readonly routedBy: number;
}

/** A deletion as replicas pass it on. */
export interface ReplicaDelete {
  readonly namespace: string;
  readonly stamp: bigint;
  readonly startNs: bigint;
  readonly endNs: bigint;
  /** Matchers by name, operator and value. */
  readonly selectors: readonly (readonly PlainMatcher[])[];
  /** As that of a write. */
  readonly routedBy?: number;
}

export type PlainMatcher = readonly [name: string, operator: string, value: string];

/** A question to a replica; numbers of 64 bits are text, because it travels as JSON. */
export type ReplicaQuestion =
  | {
      readonly kind: 'read';
      readonly namespace: string;
      readonly matchers: readonly PlainMatcher[];
      readonly startNs: string;
      readonly endNs: string;
      readonly shards?: readonly number[];
      readonly maxSeries?: number;
      readonly maxSamples?: number;
    }
  | (MetadataQuestion & { readonly kind: 'series' | 'labelNames' })
  | (MetadataQuestion & { readonly kind: 'labelValues'; readonly label: string })
  | (MetadataQuestion & { readonly kind: 'cardinality' })
  | {
      readonly kind: 'digests';
      readonly namespace: string;
      readonly startNs: string;
      readonly endNs: string;
      readonly shards: readonly number[];
    }
  | {
      readonly kind: 'sealed';
      readonly namespace: string;
      readonly startNs: string;
      readonly shards: readonly number[];
    }
  | { readonly kind: 'blocks'; readonly namespace: string }
  | { readonly kind: 'deletions' };

export interface MetadataQuestion {
  readonly namespace: string;
  readonly selectors: readonly (readonly PlainMatcher[])[];
  readonly startNs: string;
  readonly endNs: string;
  readonly limit?: number;
  readonly shards?: readonly number[];
}

/**
 * How nodes reach each other's replicas. What the other node refuses is thrown with its own code, what keeps it from
 * being asked as REPLICA_UNREACHABLE.
 */
export interface ReplicaTransport {
  write(to: ReplicaAddress, write: ReplicaWrite, signal: AbortSignal): Promise<WriteOutcome>;
  delete(to: ReplicaAddress, deletion: ReplicaDelete, signal: AbortSignal): Promise<void>;
  /** The other node takes what it has nothing for at the same time. */
  handOver(to: ReplicaAddress, samples: HandedOver, signal: AbortSignal): Promise<void>;
  /**
   * The parts of the answer, each whole and checked; an empty one only says that the other node is at it. An answer that
   * ends too early throws.
   */
  ask(to: ReplicaAddress, question: ReplicaQuestion, signal: AbortSignal): AsyncIterable<Uint8Array>;
}
