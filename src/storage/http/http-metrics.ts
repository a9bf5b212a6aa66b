import { Counter, Gauge, type Metric, type Registry } from 'prom-client';
import { DURATION_BUCKETS, type Durations, type HttpFigures } from './http-figures.ts';

/** Puts the figures of the HTTP side into a registry, to be read when it is asked. */
export function httpMetrics(
  registry: Registry,
  figures: HttpFigures,
  now: { readonly reads: () => number; readonly bodyBytes: () => number },
): void {
  const registers = [registry];
  const requests: Counter = new Counter({
    name: 'varve_storage_http_requests_total',
    help: 'Requests to the storage engine that were answered.',
    labelNames: ['route', 'status'],
    registers,
    collect: () => {
      requests.reset();
      for (const [route, statuses] of figures.answers) {
        for (const [status, count] of statuses) requests.inc({ route, status }, count);
      }
    },
  });
  const textFields: Counter = new Counter({
    name: 'varve_storage_influx_text_fields_total',
    help: 'Fields of line protocol that were left out because they are texts.',
    registers,
    collect: () => {
      textFields.reset();
      textFields.inc(figures.textFields);
    },
  });
  const gauge = (name: string, help: string, read: () => number): void => {
    const made: Gauge = new Gauge({ name, help, registers, collect: () => made.set(read()) });
  };
  gauge('varve_storage_http_reads_running', 'Reads that are under way.', now.reads);
  gauge('varve_storage_http_body_bytes', 'Bytes of request bodies that are in memory.', now.bodyBytes);
  registry.registerMetric(durationMetric(figures));
}

const DURATION_NAME = 'varve_storage_http_request_duration_seconds';

/** A histogram of what was counted already; the library's own counts by itself. */
function durationMetric(figures: HttpFigures): Metric {
  const about = {
    name: DURATION_NAME,
    help: 'From the head of a request to the end of its answer.',
    type: 'histogram',
    aggregator: 'sum',
  };
  const get = (): object => ({
    ...about,
    values: [...figures.durations].flatMap(([route, durations]) => durationValues(route, durations)),
  });
  return { ...about, get: () => Promise.resolve(get()), reset: () => {} } as unknown as Metric;
}

function durationValues(route: string, { counts, count, sumSeconds }: Durations): object[] {
  const ends = [...DURATION_BUCKETS.map(String), '+Inf'];
  let below = 0;
  const buckets = counts.map((one, i) => {
    below += one;
    return { metricName: `${DURATION_NAME}_bucket`, labels: { le: ends[i] ?? '', route }, value: below };
  });
  return [
    ...buckets,
    { metricName: `${DURATION_NAME}_sum`, labels: { route }, value: sumSeconds },
    { metricName: `${DURATION_NAME}_count`, labels: { route }, value: count },
  ];
}
