import { messageOf } from '../core/errors.ts';
import { bytesText } from '../run/figures.ts';
import { HOST_PREFIX } from './remote-host-metrics.ts';
import type { StorageClient } from './storage-client.ts';

/** What a storage engine answers when it is asked for the metrics of the machine. */
export interface StorageSummary {
  /** The data node whose engine was asked. */
  readonly node: string;
  readonly url: string;
  readonly series: number;
  readonly samples: number;
  readonly newest: string | null;
  readonly latest: readonly {
    readonly metric: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly value: number;
  }[];
  readonly error: string | null;
}

const LIVE_SECONDS = 60;
const SHOWN = new Set(['load', 'processes', 'memory_bytes'].map((name) => `${HOST_PREFIX}${name}`));

/** Never throws: what cannot be read is left out, with the reason. */
export async function readStorageSummary(
  client: StorageClient,
  { node, nowMs }: { readonly node: string; readonly nowMs: number },
): Promise<StorageSummary> {
  const seen = new Set<string>();
  const latest = new Map<string, StorageSummary['latest'][number] & { readonly atMs: number }>();
  let [samples, newestMs] = [0, 0];
  let error: string | null = null;
  const query = {
    namespace: 'default',
    match: `{__name__=~"${HOST_PREFIX}.+"}`,
    start: String(nowMs / 1000 - LIVE_SECONDS),
    end: undefined,
  };
  try {
    for await (const line of linesOf(client.export(query))) {
      const { metric, values, timestamps } = JSON.parse(line) as {
        metric: Record<string, string>;
        values: number[];
        timestamps: number[];
      };
      const key = JSON.stringify(metric);
      const { __name__: name = '', host: _host, ...labels } = metric;
      const atMs = timestamps.at(-1) ?? 0;
      seen.add(key);
      samples += values.length;
      newestMs = Math.max(newestMs, atMs);
      const isShown = SHOWN.has(name) && (labels['kind'] ?? 'available') === 'available';
      if (isShown && atMs >= (latest.get(key)?.atMs ?? 0)) {
        latest.set(key, { metric: name, labels, value: values.at(-1) ?? Number.NaN, atMs });
      }
    }
  } catch (reason) {
    error = messageOf(reason);
  }
  return {
    node,
    url: client.url,
    series: seen.size,
    samples,
    newest: newestMs === 0 ? null : new Date(newestMs).toISOString(),
    latest: [...latest.values()].map(({ atMs: _atMs, ...one }) => one),
    error,
  };
}

async function* linesOf(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const piece of pieces) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  if (rest !== '') yield rest;
}

/** Where Prometheus' side of a system is. */
export function storagePlaceLines(http: string): string[] {
  return [
    `  Prometheus   remote_write ${http}/api/v1/write`,
    `               remote_read  ${http}/api/v1/read`,
  ];
}

/** The live query of the summary. */
export function storageLiveLines(summary: StorageSummary): string[] {
  const { node, series, samples, newest, latest, error } = summary;
  if (error !== null) return ['', `${node}'s storage engine does not answer: ${error}`];
  return [
    '',
    `{__name__=~"${HOST_PREFIX}.+"} in ${node}'s storage engine, last ${LIVE_SECONDS} s: ${samples} samples of ${series} series${newest === null ? '' : `, newest ${newest}`}`,
    ...(latest.length > 0 ? [latest.map(latestText).join(', ')] : []),
  ];
}

function latestText({ metric, labels, value }: StorageSummary['latest'][number]): string {
  const figure = metric.endsWith('_bytes') ? bytesText(value) : String(Math.round(value * 100) / 100);
  return `${metric} ${Object.values(labels).join(' ')} ${figure}`;
}
