import { bytesText } from '../run/figures.ts';
import { textTable } from './text-table.ts';
import { storageLiveLines, storagePlaceLines, type StorageSummary } from './storage-summary.ts';
import { LIVE_SECONDS, type SummaryData } from './summary-data.ts';
import { DATABASE, SUPERUSER } from './system-folder.ts';

/** Where things are; fixed while a system runs. */
export interface SummaryPlaces {
  readonly folder: string;
  readonly passfile: string;
  readonly nodes: readonly {
    readonly name: string;
    readonly kind: 'access' | 'data';
    readonly pgPort: number;
    readonly http: string;
  }[];
  readonly coordinatorUrl: string;
  /** Of a data node with a storage engine. */
  readonly storage?: string | undefined;
}

/** What the page shows, from SQL and from a storage engine. */
export type SummaryContent = SummaryData & { readonly storage?: StorageSummary | null };

/** The page that `varve up` shows. */
export function summaryLines(places: SummaryPlaces, data: SummaryContent): string[] {
  const stored = data.storage ? storageLiveLines(data.storage) : [];
  return ['', ...connectionLines(places), '', ...shardLines(data), ...liveLines(data), ...stored, ''];
}

function connectionLines({ folder, passfile, nodes, coordinatorUrl, storage }: SummaryPlaces): string[] {
  const [access] = nodes.filter(({ kind }) => kind === 'access');
  const psql = (port: number): string =>
    `PGPASSFILE=${shellWord(passfile)} psql postgresql://${SUPERUSER}@127.0.0.1:${port}/${DATABASE}`;
  return [
    `Varve is running in ${folder}. Ctrl-C stops it; the next start carries on.`,
    '',
    ...(access ? [`  SQL          ${psql(access.pgPort)}`] : []),
    `               npx varve sql --dir ${shellWord(folder)}`,
    ...(storage === undefined ? [] : storagePlaceLines(storage)),
    ...(access ? [`  dashboard    ${access.http}/`] : []),
    `  coordinator  ${coordinatorUrl}`,
    ...nodes
      .filter(({ kind }) => kind === 'data')
      .map(({ name, pgPort, http }) => `  ${name.padEnd(11)}  PostgreSQL on port ${pgPort}, ${http}`),
  ];
}

function shardLines({ dataNodes, shards }: SummaryData): string[] {
  if (dataNodes.length === 0) return ['No data nodes yet.'];
  const away = dataNodes.filter(({ available }) => !available).map(({ name }) => name);
  const map = shards.map((row) => [row.table, row.node, String(row.shards.length), ranges(row.shards)]);
  return [
    ...(map.length > 0 ? textTable(['table', 'data node', 'shards', 'which'], map) : []),
    ...(away.length > 0 ? [`not available: ${away.join(', ')}`] : []),
    '',
  ];
}

function liveLines({ rows, latest, error }: SummaryData): string[] {
  if (error !== null) return [`the live query failed: ${error}`];
  if (rows.length === 0) return [];
  const total = rows.reduce((sum, row) => sum + row.rows, 0);
  return [
    `public.host_metrics, last ${LIVE_SECONDS} s: ${total} rows`,
    ...textTable(
      ['data node', 'rows', 'newest'],
      rows.map((row) => [row.node, String(row.rows), row.newest ?? '']),
    ),
    '',
    latest.map(latestText).join(', '),
  ];
}

function latestText({ metric, labels, value }: SummaryData['latest'][number]): string {
  const which = Object.values(JSON.parse(labels) as Record<string, string>).join(' ');
  const figure = metric.endsWith('_bytes') ? bytesText(value) : String(Math.round(value * 100) / 100);
  return `${metric} ${which} ${figure}`;
}

/** `0-3 7 9-10` */
export function ranges(numbers: readonly number[]): string {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts: [number, number][] = [];
  for (const number of sorted) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`)).join(' ');
}

/** A path that can be pasted into a shell. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
