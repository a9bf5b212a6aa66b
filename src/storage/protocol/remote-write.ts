import { VarveError } from '../../core/errors.ts';
import type { RemoteWriteVersion, SeriesSamples, WriteOutcome } from '../engine/storage-engine.ts';
import { encodeLabels } from '../index/labels.ts';
import { ProtobufWriter } from './protobuf-writer.ts';
import { floorDivide, NS_PER_MS } from './time-text.ts';

const VERSIONS: ReadonlyMap<string, RemoteWriteVersion> = new Map([
  ['prometheus.WriteRequest', 1],
  ['io.prometheus.write.v2.Request', 2],
]);

/** What came often; strings of headers need not be taken apart each time. */
const known = new Map<string, RemoteWriteVersion>();

/**
 * The version of remote write that a request has by its headers. A sender that names neither type nor encoding is
 * taken at Prometheus' word: 1.0 in snappy.
 * @throws MEDIA_TYPE_UNSUPPORTED
 */
export function remoteWriteVersion(contentType = '', contentEncoding = 'snappy'): RemoteWriteVersion {
  if (contentEncoding !== 'snappy' && contentEncoding !== '') {
    throw unsupported(`Content-Encoding ${JSON.stringify(contentEncoding.slice(0, 40))}`);
  }
  const seen = known.get(contentType);
  if (seen !== undefined) return seen;
  const version = versionOf(contentType);
  if (version === undefined) throw unsupported(`Content-Type ${JSON.stringify(contentType.slice(0, 80))}`);
  if (known.size < 100) known.set(contentType, version);
  return version;
}

function versionOf(contentType: string): RemoteWriteVersion | undefined {
  if (contentType === '') return 1;
  const [type = '', ...parameters] = contentType.split(';').map((part) => part.trim());
  if (type.toLowerCase() !== 'application/x-protobuf') return undefined;
  const proto = parameters.find((parameter) => parameter.toLowerCase().startsWith('proto='));
  if (proto === undefined) return 1;
  return VERSIONS.get(proto.slice('proto='.length).replaceAll('"', ''));
}

function unsupported(what: string): VarveError {
  return new VarveError('MEDIA_TYPE_UNSUPPORTED', `remote write does not take ${what}`, {
    hint: 'Send prometheus.WriteRequest or io.prometheus.write.v2.Request as application/x-protobuf, compressed with snappy.',
  });
}

/** What a sender is told of a request that was taken, at least in part. */
export interface WriteAnswer {
  /** 204, or 400: the rest would be refused again, so do not repeat it. */
  readonly status: 204 | 400;
  readonly text: string;
}

export function writeAnswer({ rejected, histograms }: WriteOutcome): WriteAnswer {
  if (rejected.length === 0 && histograms === 0) return { status: 204, text: '' };
  const reasons = rejected.map(({ reason, count, example }) => `${count} ${REASONS[reason]} (${example})`);
  if (histograms > 0) reasons.push(`${histograms} native histograms, which are not stored`);
  return { status: 400, text: `not taken: ${reasons.join('; ')}` };
}

const REASONS: Readonly<Record<WriteOutcome['rejected'][number]['reason'], string>> = {
  tooOld: 'samples too old',
  tooNew: 'samples too far in the future',
  invalidLabels: 'samples with invalid labels',
  seriesLimit: 'samples of new series beyond the limit of series',
};

/** The body of a remote write 1.0 request, not yet compressed; times are cut to milliseconds. */
export function encodeWriteRequest(series: readonly SeriesSamples[]): Uint8Array {
  const request = new ProtobufWriter();
  const message = new ProtobufWriter(1024);
  const sample = new ProtobufWriter(32);
  for (const { labels, samples } of series) {
    message.reset();
    message.raw(encodeLabels(labels));
    for (const { timeNs, value } of samples) {
      sample.reset();
      sample.doubleField(1, value);
      sample.integerField(2, Number(floorDivide(timeNs, NS_PER_MS)));
      message.bytesField(2, sample.view());
    }
    request.bytesField(1, message.view());
  }
  return request.copy();
}
