/** The plain counterpart of `assembly/admission.ts`: which samples of a request are in time. */
export interface SeriesTimes {
  readonly times: readonly bigint[];
}

export interface Row {
  /** -1: it has no series. */
  readonly reference: number;
  readonly time: bigint;
}

export function leaveOutRows<T extends Row>(rows: readonly T[], from: bigint, to: bigint): T[] {
  return rows.filter(({ reference, time }) => reference < 0 || time < from || time >= to);
}

export interface Admission {
  /** Of each series, the places of its samples that pass, counted through all series. */
  readonly kept: readonly (readonly number[])[];
  readonly tooOld: number;
  readonly tooNew: number;
}

export function admitSamples(series: readonly SeriesTimes[], from: bigint, to: bigint): Admission {
  let place = 0;
  const kept = series.map(({ times }) => {
    const first = place;
    place += times.length;
    return times.flatMap((time, i) => (from <= time && time < to ? [first + i] : []));
  });
  const all = series.flatMap(({ times }) => times);
  return {
    kept,
    tooOld: all.filter((time) => time < from).length,
    tooNew: all.filter((time) => time >= to).length,
  };
}
