import {
  lowerBound,
  mergeBy,
  NO_COLUMNS,
  NO_OVERWRITES,
  type Columns,
  type MergedSample,
} from '../engine/columns.ts';

/**
 * What replicas have of one series and the same span, as one. Of two samples of one time the greater version wins, and
 * any version wins over none; without versions, and of equal ones, the greater bits. So it does not matter who merges,
 * nor in which order. May return one of them, when the others add nothing.
 */
export function mergeReplicas(parts: readonly Columns[]): Columns {
  return parts.reduce(mergeTwo, NO_COLUMNS);
}

function mergeTwo(a: Columns, b: Columns): Columns {
  if (a.times.length === 0) return b;
  if (b.times.length === 0) return a;
  if (isSame(a.times, b.times) && isSame(a.bits, b.bits)) return withVersions(a, b);
  return mergeBy(a, b, wins);
}

function wins(one: MergedSample, other: MergedSample): boolean {
  return one.version === other.version ? one.bits >= other.bits : one.version > other.version;
}

/** The usual case: both have the same. Of the versions the greater ones count. */
function withVersions(a: Columns, b: Columns): Columns {
  if (b.overwrites.length === 0) return a;
  if (a.overwrites.length === 0) return b;
  const versions = new Map(a.overwrites.map(({ place, version }) => [place, version]));
  for (const { place, version } of b.overwrites) {
    if (version > (versions.get(place) ?? 0n)) versions.set(place, version);
  }
  const overwrites = [...versions].map(([place, version]) => ({ place, version }));
  return { ...a, overwrites: overwrites.sort((one, other) => one.place - other.place) };
}

/** Bit for bit. */
export function isSame(a: BigInt64Array | BigUint64Array, b: BigInt64Array | BigUint64Array): boolean {
  return a.length === b.length && Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
}

function bytesOf(numbers: BigInt64Array | BigUint64Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
}

/** What of `theirs` this node has not, or has otherwise and would lose: with the version that each sample has there. */
export function missingFrom(mine: Columns, theirs: Columns): Columns {
  if (isSame(mine.times, theirs.times) && isSame(mine.bits, theirs.bits)) return NO_COLUMNS;
  const merged = mergeReplicas([mine, theirs]);
  const kept: number[] = [];
  for (let place = 0; place < merged.times.length; place++) {
    const time = merged.times[place] as bigint;
    const at = lowerBound(mine.times, time);
    if (mine.times[at] !== time || mine.bits[at] !== merged.bits[place]) kept.push(place);
  }
  const versions = new Map(merged.overwrites.map(({ place, version }) => [place, version]));
  return {
    times: BigInt64Array.from(kept, (place) => merged.times[place] as bigint),
    bits: BigUint64Array.from(kept, (place) => merged.bits[place] as bigint),
    overwrites: kept.flatMap((place, index) => {
      const version = versions.get(place);
      return version === undefined ? NO_OVERWRITES : [{ place: index, version }];
    }),
  };
}
