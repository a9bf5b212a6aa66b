import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

/** What `/metrics` says of requests to the storage engine. */
export class HttpFigures {
  readonly #requests: Counter<'route' | 'status'>;
  readonly #durations: Histogram<'route'>;
  readonly #textFields: Counter;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#requests = new Counter({
      name: 'varve_storage_http_requests_total',
      help: 'Requests to the storage engine that were answered.',
      labelNames: ['route', 'status'],
      registers,
    });
    this.#durations = new Histogram({
      name: 'varve_storage_http_request_duration_seconds',
      help: 'From the head of a request to the end of its answer.',
      labelNames: ['route'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30],
      registers,
    });
    this.#textFields = new Counter({
      name: 'varve_storage_influx_text_fields_total',
      help: 'Fields of line protocol that were left out because they are texts.',
      registers,
    });
  }

  answered(route: string, status: number, tookMs: number): void {
    this.#requests.inc({ route, status });
    this.#durations.observe({ route }, tookMs / 1000);
  }

  leftOut(textFields: number): void {
    if (textFields > 0) this.#textFields.inc(textFields);
  }

  /** Of what is under way. */
  watch(registry: Registry, now: { readonly reads: () => number; readonly bodyBytes: () => number }): void {
    const gauge = (name: string, help: string, read: () => number): void => {
      const made: Gauge = new Gauge({ name, help, registers: [], collect: () => made.set(read()) });
      registry.registerMetric(made);
    };
    gauge('varve_storage_http_reads_running', 'Reads that are under way.', now.reads);
    gauge('varve_storage_http_body_bytes', 'Bytes of request bodies that are in memory.', now.bodyBytes);
  }
}
