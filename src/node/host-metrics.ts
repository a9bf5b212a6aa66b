import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import type { HostSampler } from './host-metrics-sampler.ts';
import { SampleBuffer, type Sample } from './sample-buffer.ts';

export interface HostMetricsDeps {
  readonly clock: Clock;
  readonly sampler: HostSampler;
  readonly connect: () => Promise<Connection>;
  readonly host: string;
  /** Others who want each reading. */
  readonly onSample?: ((sample: Sample) => void) | undefined;
  readonly note: (level: 'info' | 'warn', text: string) => void;
}

const EVERY_MS = 1000;
/** Seconds that are kept while the database is away. */
const BUFFERED_COUNT = 300;
/** Seconds that go into one statement when there is something to make up for. */
const BATCH_COUNT = 30;
const RETRY = { firstMs: 500, maxMs: 10_000 } as const;

/** One row a reading, in one statement and one round trip. Only the unqualified unnest takes several arrays. */
const INSERT = `insert into public.host_metrics (time, host, metric, labels, value)
select * from unnest(
  $1::pg_catalog.timestamptz[], $2::pg_catalog.text[], $3::pg_catalog.text[],
  $4::pg_catalog.jsonb[], $5::pg_catalog.float8[])`;

/**
 * Reads the machine every second and writes what it read. While the database is away the last minutes are kept
 * and written later. A connection that breaks during the commit may leave a second written twice.
 */
export class HostMetrics {
  readonly #deps: HostMetricsDeps;
  readonly #buffer = new SampleBuffer(BUFFERED_COUNT);
  #arrived = (): void => {};

  constructor(deps: HostMetricsDeps) {
    this.#deps = deps;
  }

  /** Until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#sample(signal), this.#write(signal)]);
  }

  async #sample(signal: AbortSignal): Promise<void> {
    const { clock, sampler, onSample } = this.#deps;
    while (!signal.aborted) {
      const sample = { atMs: clock.nowMs(), readings: await sampler.sample() };
      this.#buffer.add(sample);
      onSample?.(sample);
      this.#arrived();
      // On the full second, whatever reading took.
      await clock.sleep(EVERY_MS - (clock.nowMs() % EVERY_MS), signal).catch(() => {});
    }
  }

  async #write(signal: AbortSignal): Promise<void> {
    const { clock, note } = this.#deps;
    const backoff = new Backoff(RETRY);
    let failing: string | undefined;
    while (!signal.aborted) {
      try {
        await this.#writeUntilLost(signal, () => {
          if (failing !== undefined) note('info', `metrics are written again${this.#lossText()}`);
          failing = undefined;
          backoff.reset();
        });
      } catch (error) {
        if (signal.aborted) return;
        const why = messageOf(error);
        // Each reason once, not with every attempt.
        if (failing !== why) note('warn', `metrics cannot be written: ${why}; they are kept for a while`);
        failing = why;
        await clock.sleep(backoff.nextMs(), signal).catch(() => {});
      }
    }
  }

  async #writeUntilLost(signal: AbortSignal, onWritten: () => void): Promise<void> {
    await using connection = await this.#deps.connect();
    while (!signal.aborted) {
      const batch = this.#buffer.oldest(BATCH_COUNT);
      if (batch.length === 0) {
        await this.#nextSample(signal);
        continue;
      }
      await connection.query(INSERT, this.#columns(batch));
      this.#buffer.remove(batch);
      onWritten();
    }
  }

  #columns(batch: readonly Sample[]): unknown[][] {
    const rows = batch.flatMap(({ atMs, readings }) =>
      readings.map((reading) => ({ ...reading, time: new Date(atMs).toISOString() })),
    );
    return [
      rows.map(({ time }) => time),
      rows.map(() => this.#deps.host),
      rows.map(({ metric }) => metric),
      rows.map(({ labels }) => JSON.stringify(labels)),
      rows.map(({ value }) => value),
    ];
  }

  #nextSample(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const go = (): void => {
        signal.removeEventListener('abort', go);
        resolve();
      };
      this.#arrived = go;
      signal.addEventListener('abort', go, { once: true });
    });
  }

  #lossText(): string {
    const { droppedCount } = this.#buffer;
    return droppedCount === 0 ? '' : `; ${droppedCount} seconds are lost in all`;
  }
}
