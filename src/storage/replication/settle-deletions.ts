import { messageOf } from '../../core/errors.ts';
import { decodeDeletions } from './deletion-ledger.ts';
import type { ReplicaAddress, ReplicaDelete, ReplicaTransport } from './replica-transport.ts';

export interface SettleRequest {
  readonly nodes: readonly ReplicaAddress[];
  /** Deletions of others are left alone: they may be gone. */
  readonly namespaces: readonly string[];
  /** What whoever asks has carried out itself, of these namespaces: the others are to as well. */
  readonly own?: readonly ReplicaDelete[];
  readonly signal: AbortSignal;
  /** Ends what takes too long with one node. */
  readonly limited?: (
    node: ReplicaAddress,
    work: (signal: AbortSignal) => Promise<void>,
    signal: AbortSignal,
  ) => Promise<void>;
}

export interface SettledDeletions {
  /** Who did not carry out all of them, and why: nothing must be taken from these. */
  readonly silent: ReadonlyMap<string, string>;
  /** All that any of them has carried out, the oldest first. */
  readonly deletions: readonly ReplicaDelete[];
}

/**
 * Has each replica carry out the deletions that another one knows, as the repair does: otherwise what is merged from
 * several would have samples again that were deleted where a majority was asked.
 */
export async function settleDeletions(
  transport: ReplicaTransport,
  { nodes, namespaces, own: mine = [], signal, limited = (_node, work) => work(signal) }: SettleRequest,
): Promise<SettledDeletions> {
  const silent = new Map<string, string>();
  const known = new Map<ReplicaAddress, readonly ReplicaDelete[]>();
  const attempt = async (
    node: ReplicaAddress,
    work: (until: AbortSignal) => Promise<void>,
  ): Promise<void> => {
    try {
      await limited(node, work, signal);
    } catch (error) {
      signal.throwIfAborted();
      silent.set(node.id, messageOf(error));
    }
  };
  await Promise.all(
    nodes.map((node) =>
      attempt(node, async (until) => {
        const parts: Uint8Array[] = [];
        for await (const part of transport.ask(node, { kind: 'deletions' }, until)) parts.push(part);
        const all = decodeDeletions(Buffer.concat(parts));
        known.set(
          node,
          all.filter(({ namespace }) => namespaces.includes(namespace)),
        );
      }),
    ),
  );
  const all = new Map([...known.values(), mine].flat().map((deletion) => [keyOf(deletion), deletion]));
  const deletions = [...all.values()].sort((a, b) => (a.stamp < b.stamp ? -1 : 1));
  await Promise.all(
    [...known].map(([node, own]) =>
      attempt(node, async (until) => {
        const has = new Set(own.map(keyOf));
        for (const deletion of deletions) {
          if (!has.has(keyOf(deletion))) await transport.delete(node, deletion, until);
        }
      }),
    ),
  );
  return { silent, deletions };
}

/** The same of one that was passed on. */
export function keyOf({ namespace, stamp }: ReplicaDelete): string {
  return `${stamp}/${namespace}`;
}
