import { VarveError } from '../../core/errors.ts';
import type { ColumnBatch, SeriesSamples } from '../engine/storage-engine.ts';
import type { LabelPair } from '../index/labels.ts';
import { MAX_NS, MIN_NS, NS_PER_MS } from './time-text.ts';
import { msOf } from './read-encoder.ts';

/**
 * Series as lines of JSON, the same for export and import:
 *
 *     {"metric":{"__name__":"up","job":"node"},"values":[1,0.5,"NaN"],"timestamps":[1767225600000,…]}
 *
 * `timestamps` are milliseconds. Where a time is no whole millisecond, `timestampsNs` stands in their place, with
 * nanoseconds as texts. Values are numbers, or for what JSON has none for: `"NaN"`, `"+Inf"`, `"-Inf"`, and
 * `"NaN:7ff0000000000002"` with the bits of a NaN that is not the usual one (that one is Prometheus' stale marker).
 */
export interface JsonSeries {
  readonly metric: Readonly<Record<string, string>>;
  readonly values: readonly (number | string)[];
  readonly timestamps?: readonly number[];
  readonly timestampsNs?: readonly string[];
}

/** Prometheus' own for what is not a number. */
const USUAL_NAN = 0x7ff8_0000_0000_0001n;
const EXPONENT = 0x7ff0_0000_0000_0000n;
const FRACTION = 0x000f_ffff_ffff_ffffn;
const NAN_BITS = /^NaN:([0-9a-f]{16})$/;

/** Lines of one series, in parts of at most one batch each. */
export class JsonLineEncoder {
  #metric = '';

  begin(labels: readonly LabelPair[]): void {
    this.#metric = JSON.stringify(Object.fromEntries(labels));
  }

  line({ times, values, bits }: ColumnBatch): string {
    const texts = Array.from(values, (value, i) => valueText(value, bits, i));
    return `{"metric":${this.#metric},"values":[${texts.join(',')}],${timesText(times)}}\n`;
  }
}

function timesText(times: BigInt64Array): string {
  const halves = new Int32Array(times.buffer, times.byteOffset, times.length * 2);
  const ms: number[] = [];
  for (let i = 0; i < times.length; i += 1) {
    const whole = msOf(halves[2 * i] as number, halves[2 * i + 1] as number);
    // The low 32 bits tell: a whole millisecond's are the product's.
    if (((Math.imul((whole % 0x1_0000_0000) | 0, 1_000_000) | 0) ^ (halves[2 * i] as number)) !== 0) {
      return `"timestampsNs":[${Array.from(times, (time) => `"${time}"`).join(',')}]`;
    }
    ms.push(whole);
  }
  return `"timestamps":[${ms.join(',')}]`;
}

function valueText(value: number, bits: BigUint64Array, i: number): string {
  if (Number.isFinite(value)) return Object.is(value, -0) ? '-0' : String(value);
  if (value === Infinity) return '"+Inf"';
  if (value === -Infinity) return '"-Inf"';
  const pattern = bits[i] as bigint;
  return pattern === USUAL_NAN ? '"NaN"' : `"NaN:${pattern.toString(16).padStart(16, '0')}"`;
}

/** One line. @throws INVALID_ARGUMENT naming what is wrong with it */
export function parseJsonSeries(line: string): SeriesSamples {
  const parsed = parseObject(line);
  const labels = labelsOf(parsed['metric']);
  const { values } = parsed;
  if (!Array.isArray(values)) throw invalid('"values" is not an array');
  const times = timesOf(parsed);
  if (times.length !== values.length) {
    throw invalid(`there are ${values.length} values and ${times.length} timestamps`);
  }
  return { labels, samples: times.map((timeNs, i) => ({ timeNs, value: valueOf(values[i]) })) };
}

function parseObject(line: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    throw invalid('it is not JSON');
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw invalid('it is no object');
  return parsed as Record<string, unknown>;
}

function labelsOf(metric: unknown): LabelPair[] {
  if (typeof metric !== 'object' || metric === null || Array.isArray(metric)) {
    throw invalid('"metric" is not an object of labels');
  }
  return Object.entries(metric).map(([name, value]) => {
    if (typeof value !== 'string') throw invalid(`label ${JSON.stringify(name)} is not a text`);
    return [name, value];
  });
}

function timesOf({ timestamps, timestampsNs }: Record<string, unknown>): bigint[] {
  if ((timestamps === undefined) === (timestampsNs === undefined)) {
    throw invalid('it has to have one of "timestamps" (milliseconds) and "timestampsNs"');
  }
  if (timestamps !== undefined) {
    if (!Array.isArray(timestamps)) throw invalid('"timestamps" is not an array');
    return timestamps.map((ms: unknown) => {
      if (!Number.isSafeInteger(ms)) throw invalid(`timestamp ${JSON.stringify(ms)} is no whole millisecond`);
      return inRange(BigInt(ms as number) * NS_PER_MS);
    });
  }
  if (!Array.isArray(timestampsNs)) throw invalid('"timestampsNs" is not an array');
  return timestampsNs.map((ns: unknown) => {
    if (typeof ns !== 'string' || !/^-?\d{1,19}$/.test(ns)) {
      throw invalid(`timestamp ${JSON.stringify(ns)} is no text of nanoseconds`);
    }
    return inRange(BigInt(ns));
  });
}

function inRange(ns: bigint): bigint {
  if (ns < MIN_NS || ns > MAX_NS) throw invalid('a timestamp is outside of 64 bits of nanoseconds');
  return ns;
}

/** NaNs with other bits than the usual ones are doubles too, although JavaScript has one name for all. */
const scratch = new DataView(new ArrayBuffer(8));

function valueOf(value: unknown): number {
  if (typeof value === 'number') return value;
  if (value === '+Inf' || value === 'Inf') return Infinity;
  if (value === '-Inf') return -Infinity;
  const bits = value === 'NaN' ? USUAL_NAN : nanBits(value);
  if (bits === undefined) throw invalid(`value ${JSON.stringify(value)?.slice(0, 40)} is no number`);
  scratch.setBigUint64(0, bits);
  return scratch.getFloat64(0);
}

function nanBits(value: unknown): bigint | undefined {
  const [, hex] = (typeof value === 'string' && NAN_BITS.exec(value)) || [];
  if (hex === undefined) return undefined;
  const bits = BigInt(`0x${hex}`);
  const isNan = (bits & EXPONENT) === EXPONENT && (bits & FRACTION) !== 0n;
  return isNan ? bits : undefined;
}

function invalid(why: string): VarveError {
  return new VarveError('INVALID_ARGUMENT', `a line of JSON cannot be taken: ${why}`, {
    hint: 'A line is {"metric":{"__name__":"up","job":"node"},"values":[1],"timestamps":[1767225600000]}.',
  });
}
