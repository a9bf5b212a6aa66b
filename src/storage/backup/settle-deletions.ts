import { messageOf } from '../../core/errors.ts';
import { decodeDeletions } from '../replication/deletion-ledger.ts';
import type { ReplicaAddress, ReplicaDelete, ReplicaTransport } from '../replication/replica-transport.ts';

/**
 * Has each replica carry out the deletions that another one knows, as the repair does: otherwise what is merged from
 * several would have samples again that were deleted where a majority was asked. Returns who did not, and why: nothing
 * must be taken from these.
 */
export async function settleDeletions(
  transport: ReplicaTransport,
  {
    nodes,
    namespaces,
  }: { readonly nodes: readonly ReplicaAddress[]; readonly namespaces: readonly string[] },
  signal: AbortSignal,
): Promise<ReadonlyMap<string, string>> {
  const silent = new Map<string, string>();
  const known = new Map<ReplicaAddress, readonly ReplicaDelete[]>();
  const attempt = async (node: ReplicaAddress, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      signal.throwIfAborted();
      silent.set(node.id, messageOf(error));
    }
  };
  await Promise.all(
    nodes.map((node) =>
      attempt(node, async () => {
        const parts: Uint8Array[] = [];
        for await (const part of transport.ask(node, { kind: 'deletions' }, signal)) parts.push(part);
        const all = decodeDeletions(Buffer.concat(parts));
        // Others may be of namespaces that are gone.
        known.set(
          node,
          all.filter(({ namespace }) => namespaces.includes(namespace)),
        );
      }),
    ),
  );
  const all = new Map([...known.values()].flat().map((deletion) => [keyOf(deletion), deletion]));
  const inOrder = [...all.values()].sort((a, b) => (a.stamp < b.stamp ? -1 : 1));
  await Promise.all(
    [...known].map(([node, own]) =>
      attempt(node, async () => {
        const has = new Set(own.map(keyOf));
        for (const deletion of inOrder) {
          if (!has.has(keyOf(deletion))) await transport.delete(node, deletion, signal);
        }
      }),
    ),
  );
  return silent;
}

function keyOf({ namespace, stamp }: ReplicaDelete): string {
  return `${stamp}/${namespace}`;
}
