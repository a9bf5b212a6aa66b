import { isUtf8 } from 'node:buffer';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { VarveError } from '../../core/errors.ts';
import type { SeriesSamples, StorageEngine, WriteOutcome } from '../engine/storage-engine.ts';
import { parseJsonSeries } from '../protocol/json-lines.ts';
import { parseLines, precisionNs } from '../protocol/line-protocol.ts';
import { remoteWriteVersion, writeAnswer } from '../protocol/remote-write.ts';
import { NS_PER_MS } from '../protocol/time-text.ts';
import { DEFAULT_NAMESPACE, JSON_TYPE, namespaceOf, type Dialect, type Exchange } from './exchange.ts';
import type { StorageHttpDeps } from './storage-http.ts';

/** Errors of lines that are told; the others are counted. */
const TOLD_ERRORS = 10;
/** Lines of JSON that go to the engine at once have so many characters. */
const PART_LENGTH = 256 * 1024;

/** `POST /api/v1/write`: Prometheus remote write, 1.0 and 2.0. How much was taken is said whatever happens. */
export async function remoteWrite(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const { response } = exchange;
  let outcome: WriteOutcome;
  try {
    outcome = await takeRemote(deps, exchange);
  } catch (error) {
    for (const [name, value] of Object.entries(writtenHeaders(0))) response.setHeader(name, value);
    throw error;
  }
  const { status, text } = writeAnswer(outcome);
  response.writeHead(status, {
    ...writtenHeaders(outcome.samples),
    ...(status === 204
      ? {}
      : { 'content-type': 'text/plain; charset=utf-8', 'content-length': Buffer.byteLength(text) + 1 }),
  });
  response.end(status === 204 ? undefined : `${text}\n`);
}

async function takeRemote(deps: StorageHttpDeps, exchange: Exchange): Promise<WriteOutcome> {
  const { request } = exchange;
  const { headers } = request;
  const version = remoteWriteVersion(headers['content-type'], headers['content-encoding']);
  const namespace = namespaceOf(exchange);
  const body = await deps.bodies.read(request);
  try {
    return await deps.engine(namespace).writeRemote(namespace, version, body.bytes);
  } finally {
    body.release();
  }
}

/** Histograms and exemplars are not stored. */
function writtenHeaders(samples: number): Record<string, number> {
  return {
    'x-prometheus-remote-write-samples-written': samples,
    'x-prometheus-remote-write-histograms-written': 0,
    'x-prometheus-remote-write-exemplars-written': 0,
  };
}

/** What became of the parts of one request. */
class Tally {
  /** Of lines, in words. */
  readonly errors: string[] = [];
  errorCount = 0;
  samples = 0;
  rejected = 0;

  fault(line: number, reason: string): void {
    this.errorCount += 1;
    if (this.errors.length < TOLD_ERRORS) this.errors.push(`line ${line}: ${reason}`);
  }

  async write(engine: StorageEngine, namespace: string, series: readonly SeriesSamples[]): Promise<void> {
    if (series.length === 0) return;
    const outcome = await engine.writeSeries(namespace, series);
    this.samples += outcome.samples;
    for (const { count } of outcome.rejected) this.rejected += count;
    const { status, text } = writeAnswer(outcome);
    if (status === 400 && this.errors.length < TOLD_ERRORS) this.errors.push(text);
  }

  get text(): string {
    const more = this.errorCount - TOLD_ERRORS;
    return [...this.errors, ...(more > 0 ? [`and ${more} more lines`] : [])].join('\n');
  }
}

/** `POST /write` (Influx 1) and `POST /api/v2/write`: line protocol. */
export async function influxWrite(
  deps: StorageHttpDeps,
  exchange: Exchange,
  dialect: Extract<Dialect, 'influx1' | 'influx2'>,
): Promise<void> {
  const params = new URLSearchParams(exchange.query);
  const container = params.get(dialect === 'influx1' ? 'db' : 'bucket');
  const named = exchange.namespace ?? (params.get('namespace') || container || DEFAULT_NAMESPACE);
  const precision = params.get('precision') || 'ns';
  const unitNs = precisionNs(precision);
  if (unitNs === undefined) {
    throw new VarveError('INVALID_ARGUMENT', `invalid precision ${JSON.stringify(precision)}`, {
      hint: 'Precisions are ns, us, ms and s; with /write also n, u, m and h.',
    });
  }
  const bytes = await deps.bodies.readText(exchange.request);
  if (!isUtf8(bytes)) throw new VarveError('INVALID_ARGUMENT', 'the body is not UTF-8');
  const engine = deps.engine(named);
  const tally = new Tally();
  const nowNs = BigInt(deps.clock.nowMs()) * NS_PER_MS;
  for (const part of parseLines(bytes.toString(), { unitNs, nowNs })) {
    for (const { line, reason } of part.errors) tally.fault(line, reason);
    deps.figures.leftOut(part.textFields);
    await tally.write(engine, named, part.series);
    await nextTurn();
  }
  answerInflux(exchange, dialect, tally);
}

function answerInflux({ response }: Exchange, dialect: Dialect, tally: Tally): void {
  if (tally.errors.length === 0) {
    response.writeHead(204, { 'x-influxdb-version': INFLUX_VERSION });
    response.end();
    return;
  }
  const taken = tally.samples > 0 ? 'partial write: ' : '';
  const message = `${taken}${tally.text} dropped=${tally.rejected}`;
  const body = dialect === 'influx1' ? { error: message } : { code: 'invalid', message };
  const text = `${JSON.stringify(body)}\n`;
  const header = message.replaceAll(/[^\u0020-\u007e]/g, ' ').slice(0, 500);
  response.writeHead(400, {
    'content-type': JSON_TYPE,
    'content-length': Buffer.byteLength(text),
    ...(dialect === 'influx1' ? { 'x-influxdb-error': header } : {}),
  });
  response.end(text);
}

/** What clients of Influx look for to know how to speak. */
const INFLUX_VERSION = '1.8.10-varve';

/** `GET /ping`, with which clients of Influx begin. */
export function influxPing(_deps: StorageHttpDeps, { response }: Exchange): Promise<void> {
  response.writeHead(204, { 'x-influxdb-version': INFLUX_VERSION });
  response.end();
  return Promise.resolve();
}

/** `POST /api/v1/import`: series as lines of JSON, as `/api/v1/export` gives them. */
export async function jsonImport(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const namespace = namespaceOf(exchange, new URLSearchParams(exchange.query));
  const bytes = await deps.bodies.readText(exchange.request);
  if (!isUtf8(bytes)) throw new VarveError('INVALID_ARGUMENT', 'the body is not UTF-8');
  const engine = deps.engine(namespace);
  const tally = new Tally();
  const text = bytes.toString();
  for (let [at, line] = [0, 0]; at < text.length;) {
    const partEnd = at + PART_LENGTH;
    const series: SeriesSamples[] = [];
    while (at < Math.min(partEnd, text.length)) {
      const newline = text.indexOf('\n', at);
      const end = newline < 0 ? text.length : newline;
      line += 1;
      const json = text.slice(at, end).trim();
      at = end + 1;
      if (json === '') continue;
      try {
        series.push(parseJsonSeries(json));
      } catch (error) {
        if (!(error instanceof VarveError)) throw error;
        tally.fault(line, error.message);
      }
    }
    await tally.write(engine, namespace, series);
    await nextTurn();
  }
  if (tally.errors.length > 0) throw new VarveError('WRITE_INVALID', importFault(tally));
  exchange.response.writeHead(204);
  exchange.response.end();
}

function importFault(tally: Tally): string {
  return `not everything was taken (${tally.samples} samples were): ${tally.text}`;
}
