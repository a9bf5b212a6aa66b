/** Figures in the shortest form that still says enough. */

export function durationText(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${seconds % 60} s`;
}

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytesText(bytes: number): string {
  let [value, unit] = [bytes, 0];
  while (Math.abs(value) >= 1024 && unit < BYTE_UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 || Math.abs(value) >= 100 ? Math.round(value) : value.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

export function countText(count: number, unit?: string): string {
  if (unit === 'bytes') return bytesText(count);
  const figure = count >= 10 || Number.isInteger(count) ? Math.round(count).toString() : count.toFixed(1);
  return unit ? `${figure} ${unit}` : figure;
}

/** `3/10 shards · 30% · 1.5 shards/s · 4.7 s left`, as far as it is known; '' when nothing is. */
export function progressText(progress: {
  readonly done?: number | undefined;
  readonly total?: number | undefined;
  readonly unit?: string | undefined;
  readonly ratePerSecond?: number | undefined;
  readonly etaMs?: number | undefined;
}): string {
  const { done, total, unit, ratePerSecond, etaMs } = progress;
  if (done === undefined) return '';
  const parts: string[] = [];
  if (total === undefined) parts.push(countText(done, unit));
  else {
    parts.push(
      unit === 'bytes' ? `${bytesText(done)}/${bytesText(total)}` : `${done}/${countText(total, unit)}`,
    );
    if (total > 0) parts.push(`${Math.floor((100 * done) / total)}%`);
  }
  if (ratePerSecond !== undefined) parts.push(`${countText(ratePerSecond, unit)}/s`);
  if (etaMs !== undefined && etaMs > 0) parts.push(`${durationText(etaMs)} left`);
  return parts.join(' · ');
}
