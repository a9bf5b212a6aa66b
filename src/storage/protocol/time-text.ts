import { VarveError } from '../../core/errors.ts';

export const NS_PER_MS = 1_000_000n;
const NS_PER_SECOND = 1_000_000_000n;
export const MIN_NS = -(1n << 63n);
export const MAX_NS = (1n << 63n) - 1n;

const SECONDS = /^([+-]?)(\d+)(?:\.(\d*))?(?:[eE]\+?(\d{1,2}))?$/;
const RFC3339 =
  /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))$/;

/** The first nanosecond of a millisecond, as far as 64 bits reach. */
export function startOfMs(ms: bigint): bigint {
  return clampNs(ms * NS_PER_MS);
}

/** The end of a millisecond, not included. */
export function endOfMs(ms: bigint): bigint {
  return clampNs((ms + 1n) * NS_PER_MS);
}

export function clampNs(ns: bigint): bigint {
  return ns < MIN_NS ? MIN_NS : ns > MAX_NS ? MAX_NS : ns;
}

/**
 * A time as Prometheus' API takes it: seconds since the epoch, with a fraction, or RFC 3339. Exact to the nanosecond.
 * @throws INVALID_ARGUMENT naming the parameter
 */
export function parseTime(name: string, text: string): bigint {
  const ns = secondsNs(text) ?? rfc3339Ns(text);
  if (ns !== undefined && ns >= MIN_NS && ns <= MAX_NS) return ns;
  throw new VarveError(
    'INVALID_ARGUMENT',
    `${name} is ${JSON.stringify(text.slice(0, 60))}, which is no time`,
    {
      hint: 'Times are seconds since 1970 (1767225600.25) or RFC 3339 (2026-01-01T00:00:00.25Z).',
    },
  );
}

function secondsNs(text: string): bigint | undefined {
  const [, sign, whole, fraction = '', exponent = '0'] = SECONDS.exec(text) ?? [];
  if (whole === undefined || whole.length > 20) return undefined;
  // 1.7672256e9 is how Go's clients may write it.
  const shift = Number(exponent);
  if (shift > 18) return undefined;
  const digits = fraction.slice(0, 9 + shift).padEnd(9 + shift, '0');
  const ns = BigInt(whole) * 10n ** BigInt(9 + shift) + BigInt(digits);
  return sign === '-' ? -ns : ns;
}

function rfc3339Ns(text: string): bigint | undefined {
  const [, year, month, day, hour, minute, second, fraction = '', sign, offsetHours, offsetMinutes] =
    RFC3339.exec(text) ?? [];
  if (year === undefined) return undefined;
  const utcMs = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  // Date.parse takes 24:00:00 and no 30 February.
  if (Number.isNaN(utcMs) || Number(hour) > 23) return undefined;
  if (new Date(utcMs).getUTCDate() !== Number(day)) return undefined;
  const offsetMs = (Number(offsetHours ?? 0) * 60 + Number(offsetMinutes ?? 0)) * 60_000;
  const ms = BigInt(utcMs) - BigInt(sign === '-' ? -offsetMs : offsetMs);
  return ms * NS_PER_MS + BigInt(fraction.padEnd(9, '0'));
}

const UNIT_NS: Readonly<Record<string, bigint>> = {
  ns: 1n,
  us: 1000n,
  ms: NS_PER_MS,
  s: NS_PER_SECOND,
  m: 60n * NS_PER_SECOND,
  h: 3600n * NS_PER_SECOND,
  d: 86_400n * NS_PER_SECOND,
  w: 604_800n * NS_PER_SECOND,
  y: 31_536_000n * NS_PER_SECOND,
};

/** `48h`, `1d12h`, `90s`: as Prometheus writes durations. Undefined for anything else. */
export function parseDuration(text: string): bigint | undefined {
  if (!/^(?:\d{1,19}(?:ns|us|ms|s|m|h|d|w|y))+$/.test(text)) return undefined;
  return [...text.matchAll(/(\d+)(ns|us|ms|[smhdwy])/g)].reduce(
    (sum, [, digits = '0', unit = '']) => sum + BigInt(digits) * (UNIT_NS[unit] ?? 0n),
    0n,
  );
}

/** In the largest unit up to hours that it is a whole number of. */
export function formatDuration(ns: bigint): string {
  if (ns === 0n) return '0s';
  const unit = ['h', 'm', 's', 'ms', 'us'].find((name) => ns % (UNIT_NS[name] ?? 1n) === 0n) ?? 'ns';
  return `${ns / (UNIT_NS[unit] ?? 1n)}${unit}`;
}

/** RFC 3339 with as much of a fraction as there is. */
export function formatTime(ns: bigint): string {
  const seconds = floorDivide(ns, NS_PER_SECOND);
  const date = new Date(Number(seconds) * 1000);
  if (Number.isNaN(date.getTime())) return `${ns} ns`;
  const fraction = String(ns - seconds * NS_PER_SECOND)
    .padStart(9, '0')
    .replace(/0+$/, '');
  const text = date.toISOString().replace(/\.000Z$/, '');
  return `${text}${fraction === '' ? '' : `.${fraction}`}Z`;
}

export function floorDivide(value: bigint, by: bigint): bigint {
  const quotient = value / by;
  return value < 0n && quotient * by !== value ? quotient - 1n : quotient;
}
