import type { MasterRecord, MemberRecord } from '../group-keys.ts';
import type { ProxyTarget } from './haproxy-config.ts';

/** To whom clients are led. */
export interface ProxyView {
  /** Undefined while nobody may write. */
  readonly master: ProxyTarget | undefined;
  readonly readers: readonly ProxyTarget[];
}

/**
 * Pure: the write port leads to the write master once its term is active, and to nobody before. The read port
 * leads to the other members, and to the master only where there are none: a member that has to rejoin, or is
 * not in yet, shows old data and is left out.
 */
export function proxyView(members: readonly MemberRecord[], master: MasterRecord | undefined): ProxyView {
  const serving = members.filter(({ state }) => state === 'member');
  const active = master?.state === 'active' ? members.find(({ node }) => node === master.node) : undefined;
  const others = serving.filter(({ node }) => node !== active?.node);
  const readers = others.length > 0 ? others : serving;
  return {
    master: active && target(active),
    readers: readers.map(target).toSorted((a, b) => (a.node < b.node ? -1 : 1)),
  };
}

function target({ node, host, port, poolerPort }: MemberRecord): ProxyTarget {
  return { node, host, port: poolerPort ?? port };
}
