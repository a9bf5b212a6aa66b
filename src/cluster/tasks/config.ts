import type { Connection } from '../../postgres/connection.ts';
import { DEFAULT_CONFIG, type ConfigKey } from '../schema/default-rows.ts';

/** `rdpg.config` of a group, read: what is missing or no number has its default. */
export interface WorkConfig {
  readonly defaultDaysToKeepFileHistory: number;
  readonly poolSize: number;
  readonly instanceAllowed: number;
  readonly instanceLimit: number;
  /** An interval of PostgreSQL. */
  readonly stuckDuration: string;
  readonly databaseExtensions: readonly string[];
  readonly vacuumBloatRatio: number;
  readonly vacuumBloatBytes: number;
  readonly vacuumFullTables: readonly string[];
  /** `host:port`, or empty. */
  readonly serviceAddress: string;
}

export async function readConfig(connection: Connection, cluster: string): Promise<WorkConfig> {
  const { rows } = await connection.query<{ key: string; value: string }>(
    'select key, value from rdpg.config where cluster_id = $1',
    [cluster],
  );
  return parseConfig(new Map(rows.map(({ key, value }) => [key, value])));
}

export function parseConfig(values: ReadonlyMap<string, string>): WorkConfig {
  const text = (key: ConfigKey): string => (values.get(key) ?? DEFAULT_CONFIG[key]).trim();
  const number = (key: ConfigKey): number => {
    const value = text(key);
    return value !== '' && Number.isFinite(Number(value)) && Number(value) >= 0
      ? Number(value)
      : Number(DEFAULT_CONFIG[key]);
  };
  const words = (key: ConfigKey): string[] => text(key).split(/\s+/).filter(Boolean);
  return {
    defaultDaysToKeepFileHistory: number('defaultDaysToKeepFileHistory'),
    poolSize: number('poolSize'),
    instanceAllowed: number('instanceAllowed'),
    instanceLimit: number('instanceLimit'),
    stuckDuration: text('stuckDuration'),
    databaseExtensions: words('databaseExtensions'),
    vacuumBloatRatio: number('vacuumBloatRatio'),
    vacuumBloatBytes: number('vacuumBloatBytes'),
    vacuumFullTables: words('vacuumFullTables'),
    serviceAddress: text('serviceAddress'),
  };
}
