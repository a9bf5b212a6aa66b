import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { writeFileAtomic } from './atomic-file.ts';
import type { RunAs } from './run-as.ts';

const INCLUDE = "include 'varve.conf'";

/** Who may log in how, where the caller says nothing: everybody on this machine, with a password. */
export const DEFAULT_HBA: readonly string[] = [
  'local all         all              scram-sha-256',
  'host  all         all 127.0.0.1/32 scram-sha-256',
  'host  all         all ::1/128      scram-sha-256',
  'local replication all              scram-sha-256',
  'host  replication all 127.0.0.1/32 scram-sha-256',
  'host  replication all ::1/128      scram-sha-256',
];

export interface ServerConfig {
  readonly settings: Readonly<Record<string, string>>;
  readonly hba: readonly string[];
  /** Lines of pg_ident.conf: which users of the operating system may be which roles. */
  readonly ident: readonly string[];
}

export interface ConfigChange {
  /** Names of settings that were added, removed or have another value, sorted. */
  readonly settings: readonly string[];
  /** pg_hba.conf or pg_ident.conf. */
  readonly access: boolean;
}

/** What differs between the files of a data folder and `wanted`. */
export async function configChange(dataDir: string, wanted: ServerConfig): Promise<ConfigChange> {
  const present = parseSettings(await readOr(join(dataDir, 'varve.conf'), ''));
  const names = new Set([...Object.keys(present), ...Object.keys(wanted.settings)]);
  const included = (await readOr(join(dataDir, 'postgresql.conf'), '')).split('\n').includes(INCLUDE);
  return {
    settings: [...names].filter((name) => !included || present[name] !== wanted.settings[name]).toSorted(),
    access:
      (await readOr(join(dataDir, 'pg_hba.conf'), '')) !== linesText(wanted.hba) ||
      (await readOr(join(dataDir, 'pg_ident.conf'), '')) !== linesText(wanted.ident),
  };
}

/** Writes `varve.conf`, `pg_ident.conf` and `pg_hba.conf`, each atomically, and has the former included. */
export async function writeConfig(
  dataDir: string,
  wanted: ServerConfig,
  owner: RunAs | undefined,
): Promise<void> {
  await writeFileAtomic(join(dataDir, 'varve.conf'), settingsText(wanted.settings), { owner });
  await writeFileAtomic(join(dataDir, 'pg_ident.conf'), linesText(wanted.ident), { owner });
  await writeFileAtomic(join(dataDir, 'pg_hba.conf'), linesText(wanted.hba), { owner });
  const main = join(dataDir, 'postgresql.conf');
  const text = await readOr(main, '');
  // At the end, because the last value given counts.
  if (!text.split('\n').includes(INCLUDE)) {
    await writeFileAtomic(main, `${text.trimEnd()}\n\n${INCLUDE}\n`, { owner });
  }
}

/** Of a data folder that was configured before. */
export async function configuredPort(dataDir: string): Promise<number | undefined> {
  const { port } = parseSettings(await readOr(join(dataDir, 'varve.conf'), ''));
  return port === undefined ? undefined : Number(port);
}

export function settingsText(settings: Readonly<Record<string, string>>): string {
  const lines = Object.entries(settings).map(([name, value]) => {
    if (!/^[a-z_][\w.]*$/i.test(name) || /[\0\r\n]/.test(value)) {
      throw new VarveError('INVALID_ARGUMENT', `invalid server setting ${JSON.stringify(name)}`, {
        detail: `Its value is ${JSON.stringify(value)}.`,
      });
    }
    return `${name} = '${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'\n`;
  });
  return `# Rewritten at each start. Own settings belong into the node's configuration.\n${lines.join('')}`;
}

export function parseSettings(text: string): Record<string, string> {
  const settings: Record<string, string> = {};
  for (const line of text.split('\n')) {
    const [, name, value] = /^([\w.]+) = '(.*)'$/.exec(line) ?? [];
    if (name === undefined || value === undefined) continue;
    settings[name] = value.replaceAll("''", "'").replaceAll('\\\\', '\\');
  }
  return settings;
}

function linesText(lines: readonly string[]): string {
  return `# Rewritten at each start.\n${lines.map((line) => `${line}\n`).join('')}`;
}

async function readOr(path: string, otherwise: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return otherwise;
    throw error;
  });
}
