import { quoteIdent } from '../../postgres/sql.ts';
import { GROUP_ROLE } from './context.ts';

/** For whom a member's server has to open its door. */
export interface GroupAccess {
  /** Addresses of the other members' machines, as pg_hba.conf takes them: `10.0.0.2/32`, a network, a host's name. */
  readonly peers: readonly string[];
  /** Only encrypted connections. */
  readonly tls: boolean;
}

/**
 * Lines of pg_hba.conf through which the other members get in, each with the group's password; nobody is trusted. To
 * be in force before the group is made: the document configures its services a second time afterwards.
 */
export function groupHba({ peers, tls }: GroupAccess): string[] {
  const kind = tls ? 'hostssl' : 'host';
  return peers.map((peer) => `${kind} all ${quoteIdent(GROUP_ROLE)} ${peer} scram-sha-256`);
}

/** As a peer's address stands in pg_hba.conf: an address with its mask, a name as it is. */
export function hbaAddress(host: string): string {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) return `${host}/32`;
  return host.includes(':') ? `${host}/128` : host;
}
