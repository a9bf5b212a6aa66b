import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { slotName } from '../mesh/edge.ts';
import { readSlots } from '../mesh/slots.ts';
import type { GroupView } from './group-view.ts';
import { reignOf } from './reign.ts';

/** How much a target may lack when clients are sent away for it. */
const MAX_LAG_BYTES = 16 * 1024 * 1024;

export interface Readiness {
  readonly node: string;
  /** Undefined: it takes nothing of this master now. */
  readonly lagBytes: number | undefined;
}

export type Choice = { readonly to: string } | { readonly refusal: string };

/** Who takes over: `wanted`, or else the member that lacks least. */
export function chooseTarget(
  view: GroupView,
  self: string,
  wanted: string | undefined,
  ready: readonly Readiness[],
): Choice {
  if (wanted === self) return { refusal: `${self} is write master already` };
  const record = view.master?.value;
  const fences = record ? view.fences.get(reignOf(record)) : undefined;
  const reasons = new Map<string, string>();
  const fit: { readonly node: string; readonly lagBytes: number }[] = [];
  for (const { node, state, tags } of view.members.values()) {
    if (node === self || (wanted !== undefined && node !== wanted)) continue;
    const lagBytes = ready.find((one) => one.node === node)?.lagBytes;
    if (state !== 'member') reasons.set(node, `it is ${state}`);
    else if (tags.nofailover === true) reasons.set(node, 'it has the tag nofailover');
    else if (fences?.get(node)?.followed !== true) reasons.set(node, 'it does not follow yet');
    else if (lagBytes === undefined) reasons.set(node, 'it takes no changes now');
    else if (lagBytes > MAX_LAG_BYTES) reasons.set(node, `it lacks ${lagBytes} bytes`);
    else fit.push({ node, lagBytes });
  }
  const [best] = fit.toSorted((a, b) => a.lagBytes - b.lagBytes);
  if (best) return { to: best.node };
  if (wanted !== undefined && !view.members.has(wanted)) return { refusal: `there is no member ${wanted}` };
  const why = [...reasons].map(([node, reason]) => `${node}: ${reason}`).join('; ');
  return { refusal: `nobody can take over (${why || 'there is no other member'})` };
}

/** As the master sees it. */
export async function readReadiness(
  servers: GroupServers,
  self: ServerAddress,
  databases: readonly string[],
  nodes: readonly string[],
): Promise<Readiness[]> {
  const slots = await Promise.all(
    databases.map(async (database) => ({
      database,
      slots: await servers.withConnection(self, database, readSlots),
    })),
  );
  return nodes.map((node) => {
    let lagBytes: number | undefined = 0;
    for (const { database, slots: ofDatabase } of slots) {
      const slot = ofDatabase.get(slotName(node, database));
      if (!slot || slot.lost || slot.activePid === null) lagBytes = undefined;
      else if (lagBytes !== undefined) lagBytes = Math.max(lagBytes, slot.lagBytes);
    }
    return { node, lagBytes };
  });
}
