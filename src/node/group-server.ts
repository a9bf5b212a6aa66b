import { groupSettingsFor } from '../cluster/mesh/limits.ts';
import { DEFAULT_HBA } from '../postgres/server-config.ts';
import type { GroupSettings } from './group-settings.ts';
import { isLoopback } from '../core/loopback.ts';

/** Room for databases that are replicated: of a manager its own two, of a service group those that are handed out. */
const DATABASES = { manager: 2, service: 20 } as const;

/**
 * What replication needs of a member's server, in force before the group forms: most of it takes a restart to
 * change, and workers that are missing then are told by a warning in the log only.
 */
export function memberSettings(
  major: number,
  { kind, size }: GroupSettings,
): Readonly<Record<string, string>> {
  return groupSettingsFor(major, { members: Math.max(size, 3), databases: DATABASES[kind] });
}

/** Peers and clients from elsewhere come with a password, never on their word. */
export function memberHba({ host }: GroupSettings): readonly string[] {
  if (isLoopback(host)) return DEFAULT_HBA;
  return [...DEFAULT_HBA, 'host  all         all all          scram-sha-256'];
}
