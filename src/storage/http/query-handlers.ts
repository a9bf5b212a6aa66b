import { VarveError } from '../../core/errors.ts';
import type { LimitedResult } from '../engine/storage-engine.ts';
import { answerData, decodeName, JSON_TYPE, namespaceOf, send, type Exchange } from './exchange.ts';
import { readLimit, readParams, readRange, readSelectors } from './read-params.ts';
import type { StorageHttpDeps } from './storage-http.ts';

/** Results of one request, when it sets no limit of its own. */
const MOST_RESULTS = 1_000_000;
const SEND_CHARS = 64 * 1024;

/** `GET` or `POST /api/v1/series`. */
export async function series(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const params = await readParams(deps.bodies, exchange);
  const query = {
    ...readRange(params),
    selectors: readSelectors(params, { required: true }),
    limit: readLimit(params, MOST_RESULTS),
  };
  const namespace = namespaceOf(exchange, params);
  await deps.reads.run(exchange, async (signal) => {
    const found = await deps.engine(namespace).series(namespace, query);
    await answerList(exchange, found, {
      signal,
      item: (labels) => JSON.stringify(Object.fromEntries(labels)),
    });
  });
}

/** `GET` or `POST /api/v1/labels`. */
export async function labelNames(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  await texts(deps, exchange, (engine, namespace, query) => engine.labelNames(namespace, query));
}

/** `GET /api/v1/label/NAME/values`. */
export async function labelValues(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const [, , , , part = ''] = exchange.path.split('/');
  const name = labelNameOf(decodeName(part));
  if (name === '') throw new VarveError('INVALID_ARGUMENT', 'the path names no label');
  await texts(deps, exchange, (engine, namespace, query) => engine.labelValues(namespace, name, query));
}

/** Prometheus 3 writes names that are no identifiers as `U__…` with characters by their code. */
function labelNameOf(text: string): string {
  if (!text.startsWith('U__')) return text;
  return text
    .slice(3)
    .replaceAll(/__|_([0-9a-fA-F]{1,6})_/g, (_, hex: string | undefined) =>
      hex === undefined || Number.parseInt(hex, 16) > 0x10_ffff
        ? '_'
        : String.fromCodePoint(Number.parseInt(hex, 16)),
    );
}

type Engine = ReturnType<StorageHttpDeps['engine']>;
type Metadata = Parameters<Engine['series']>[1];

async function texts(
  deps: StorageHttpDeps,
  exchange: Exchange,
  find: (engine: Engine, namespace: string, query: Metadata) => Promise<LimitedResult<string>>,
): Promise<void> {
  const params = await readParams(deps.bodies, exchange);
  const query = {
    ...readRange(params),
    selectors: readSelectors(params, { required: false }),
    limit: readLimit(params, MOST_RESULTS),
  };
  const namespace = namespaceOf(exchange, params);
  await deps.reads.run(exchange, async (signal) => {
    const found = await find(deps.engine(namespace), namespace, query);
    await answerList(exchange, found, { signal, item: (text) => JSON.stringify(text) });
  });
}

/** `{"status":"success","data":[…]}`, sent as it is made: a million series are too long for one text. */
async function answerList<T>(
  { response }: Exchange,
  found: LimitedResult<T>,
  { signal, item }: { readonly signal: AbortSignal; readonly item: (value: T) => string },
): Promise<void> {
  response.writeHead(200, { 'content-type': JSON_TYPE });
  let text = '{"status":"success","data":[';
  for (const [i, value] of found.values.entries()) {
    text += `${i === 0 ? '' : ','}${item(value)}`;
    if (text.length >= SEND_CHARS) {
      await send(response, text, signal);
      text = '';
    }
  }
  const { truncated, warnings = [] } = found;
  const all = truncated ? [...warnings, 'results truncated due to limit'] : warnings;
  const told = all.length > 0 ? `,"warnings":${JSON.stringify(all)}` : '';
  await send(response, `${text}]${told}}`, signal);
  response.end();
}

/** `GET /api/v1/status/tsdb`: how many series there are, and which labels have the most values. */
export async function cardinality(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const params = await readParams(deps.bodies, exchange);
  const namespace = namespaceOf(exchange, params);
  const query = { ...readRange(params), selectors: readSelectors(params, { required: false }) };
  const limit = params.has('limit') ? readLimit(params, 10_000) : 10;
  const { seriesCount, labels, warnings = [] } = await deps.engine(namespace).cardinality(namespace, query);
  const top = (count: (label: (typeof labels)[number]) => number): object[] =>
    [...labels]
      .sort((a, b) => count(b) - count(a))
      .slice(0, limit)
      .map((label) => ({ name: label.name, value: count(label) }));
  const data = {
    headStats: {
      numSeries: seriesCount,
      numLabelPairs: labels.reduce((sum, { valueCount }) => sum + valueCount, 0),
    },
    labelValueCountByLabelName: top(({ valueCount }) => valueCount),
    seriesCountByLabelName: top(({ seriesCount: count }) => count),
  };
  answerData(exchange, data, warnings.length > 0 ? { warnings } : {});
}

/** `POST` or `PUT /api/v1/admin/tsdb/delete_series`. */
export async function deleteSeries(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const params = await readParams(deps.bodies, exchange);
  const selectors = readSelectors(params, { required: true });
  const namespace = namespaceOf(exchange, params);
  const { series: count } = await deps
    .engine(namespace)
    .deleteSeries(namespace, { ...readRange(params), selectors });
  exchange.response.writeHead(204, { 'x-varve-series-deleted': count });
  exchange.response.end();
}
