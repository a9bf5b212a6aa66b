import { setImmediate as nextTurn } from 'node:timers/promises';
import { VarveError } from '../../core/errors.ts';
import type { StorageEngine } from '../engine/storage-engine.ts';
import { JsonLineEncoder } from '../protocol/json-lines.ts';
import { ChunkFrameEncoder, ReadResponseWriter, SampleSeriesEncoder } from '../protocol/read-encoder.ts';
import { decodeReadRequest, type RemoteReadQuery, type RemoteReadRequest } from '../protocol/remote-read.ts';
import { namespaceOf, send, type Exchange } from './exchange.ts';
import { readParams, readRange, readSelectors } from './read-params.ts';
import type { StorageHttpDeps } from './storage-http.ts';

/** An answer that has to be whole before it is sent takes at most so much memory. */
const MAX_STORED_BYTES = 256 * 1024 * 1024;
/** Work goes on for so long before others get their turn. */
const SLICE_MS = 10;
/** Text that is sent at once. */
const SEND_CHARS = 64 * 1024;

/** Lets others have their turn when it is time: steps of a read may never wait for anything. */
class Turns {
  readonly #nowMs: () => number;
  #startedMs: number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    this.#startedMs = nowMs();
  }

  async yield(signal: AbortSignal): Promise<void> {
    if (this.#nowMs() - this.#startedMs < SLICE_MS) return;
    await nextTurn();
    signal.throwIfAborted();
    this.#startedMs = this.#nowMs();
  }
}

/** `POST /api/v1/read`: Prometheus remote read, samples or streamed chunks as the request accepts. */
export async function remoteRead(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const { request, query } = exchange;
  const encoding = request.headers['content-encoding'] ?? 'snappy';
  if (encoding !== 'snappy' && encoding !== '') {
    throw new VarveError(
      'MEDIA_TYPE_UNSUPPORTED',
      `remote read does not take Content-Encoding ${encoding.slice(0, 40)}`,
      {
        hint: 'Send prometheus.ReadRequest compressed with snappy.',
      },
    );
  }
  const body = await deps.bodies.read(request);
  let asked: RemoteReadRequest;
  try {
    asked = decodeReadRequest(deps.kernel, body.bytes);
  } finally {
    body.release();
  }
  const namespace = namespaceOf(exchange, new URLSearchParams(query));
  await deps.reads.run(exchange, async (signal) => {
    const source = { engine: deps.engine(namespace), namespace };
    if (asked.responseType === 'chunks') await sendChunks(deps, exchange, { source, asked, signal });
    else await sendSamples(deps, exchange, { source, asked, signal });
  });
}

/** Where formats have no place for warnings, a header has them: those that are known before the answer begins. */
class Warnings {
  readonly #texts = new Set<string>();

  readonly add = (text: string): void => {
    // Headers are short, and have no characters of their own.
    if (this.#texts.size < MOST_WARNINGS)
      this.#texts.add(text.replaceAll(/[^\u0020-\u007e]/g, ' ').slice(0, 200));
  };

  headers(): Record<string, string> {
    return this.#texts.size === 0 ? {} : { 'x-varve-warnings': [...this.#texts].join('; ') };
  }
}

const MOST_WARNINGS = 10;

interface Reading {
  readonly source: { readonly engine: StorageEngine; readonly namespace: string };
  readonly asked: RemoteReadRequest;
  readonly signal: AbortSignal;
}

async function sendSamples(
  deps: StorageHttpDeps,
  { response }: Exchange,
  { source, asked, signal }: Reading,
): Promise<void> {
  const warnings = new Warnings();
  const writer = new ReadResponseWriter(deps.kernel);
  const encoder = new SampleSeriesEncoder();
  const turns = new Turns(() => deps.clock.monotonicMs());
  for (const query of asked.queries) {
    for await (const series of source.engine.read(source.namespace, {
      ...readQuery(deps, query, signal),
      onWarning: warnings.add,
    })) {
      encoder.begin(series.labelBytes);
      for await (const batch of series.batches) {
        encoder.add(batch);
        await turns.yield(signal);
      }
      const message = encoder.end();
      if (message) writer.series(message);
      if (writer.storedBytes > MAX_STORED_BYTES) throw tooLarge();
    }
    writer.endResult();
  }
  const parts = writer.finish();
  response.writeHead(200, {
    'content-type': 'application/x-protobuf',
    'content-encoding': 'snappy',
    ...warnings.headers(),
    'content-length': parts.reduce((sum, { length }) => sum + length, 0),
  });
  for (const part of parts) await send(response, part, signal);
  response.end();
}

function tooLarge(): VarveError {
  return new VarveError(
    'READ_LIMIT_EXCEEDED',
    `the answer has more than ${MAX_STORED_BYTES} bytes, compressed as samples`,
    {
      hint: 'Narrow the selector or the time range, or accept STREAMED_XOR_CHUNKS, which need not be whole first.',
    },
  );
}

async function sendChunks(
  deps: StorageHttpDeps,
  { response }: Exchange,
  { source, asked, signal }: Reading,
): Promise<void> {
  const turns = new Turns(() => deps.clock.monotonicMs());
  const warnings = new Warnings();
  // The head is written with the first frame, so that an error before it can still be told.
  const begin = (): void => {
    if (response.headersSent) return;
    response.writeHead(200, {
      ...warnings.headers(),
      'content-type': 'application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse',
    });
  };
  for (const [index, query] of asked.queries.entries()) {
    const encoder = new ChunkFrameEncoder(deps.kernel, index);
    const sendFrames = async (frames: readonly Buffer[]): Promise<void> => {
      for (const frame of frames) {
        begin();
        await send(response, frame, signal);
      }
    };
    for await (const series of source.engine.read(source.namespace, {
      ...readQuery(deps, query, signal),
      onWarning: warnings.add,
    })) {
      encoder.begin(series.labelBytes);
      for await (const batch of series.batches) {
        await sendFrames(encoder.add(batch));
        await turns.yield(signal);
      }
      await sendFrames(encoder.end());
    }
    await sendFrames(encoder.flush());
  }
  begin();
  response.end();
}

function readQuery(deps: StorageHttpDeps, query: RemoteReadQuery, signal: AbortSignal) {
  return { ...query, limits: deps.limits.read, ordered: true, signal };
}

/** `GET` or `POST /api/v1/export`: series as lines of JSON. */
export async function jsonExport(deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const params = await readParams(deps.bodies, exchange);
  const range = readRange(params);
  const selectors = readSelectors(params, { required: true });
  const namespace = namespaceOf(exchange, params);
  const { response } = exchange;
  await deps.reads.run(exchange, async (signal) => {
    const engine = deps.engine(namespace);
    const turns = new Turns(() => deps.clock.monotonicMs());
    const encoder = new JsonLineEncoder();
    const seen = new Set<string>();
    const warnings = new Warnings();
    const sendText = async (lines: string): Promise<void> => {
      if (!response.headersSent) {
        response.writeHead(200, {
          'content-type': 'application/stream+json; charset=utf-8',
          ...warnings.headers(),
        });
      }
      if (lines !== '') await send(response, lines, signal);
    };
    let text = '';
    for (const matchers of selectors) {
      const limits = deps.limits.read;
      const query = { ...range, matchers, limits, signal, onWarning: warnings.add };
      for await (const series of engine.read(namespace, query)) {
        // A series that several selectors match comes once.
        if (selectors.length > 1 && !isNew(seen, series.labelBytes)) continue;
        encoder.begin(series.labels);
        for await (const batch of series.batches) {
          text += encoder.line(batch);
          if (text.length >= SEND_CHARS) {
            await sendText(text);
            text = '';
          }
          await turns.yield(signal);
        }
      }
    }
    await sendText(text);
    response.end();
  });
}

function isNew(seen: Set<string>, labelBytes: Uint8Array): boolean {
  const key = Buffer.from(labelBytes).toString('latin1');
  if (seen.has(key)) return false;
  seen.add(key);
  return true;
}
