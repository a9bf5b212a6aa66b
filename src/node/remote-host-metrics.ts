import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import type { SeriesSamples } from '../storage/engine/storage-engine.ts';
import { ProtocolKernel } from '../storage/protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../storage/protocol/remote-write.ts';
import { SampleBuffer, type Sample } from './sample-buffer.ts';
import type { StorageClient } from './storage-client.ts';

export interface RemoteHostMetricsDeps {
  readonly clock: Clock;
  readonly client: StorageClient;
  readonly host: string;
  readonly note: (level: 'info' | 'warn', text: string) => void;
}

/** What metrics of the machine are called beside those of others. */
export const HOST_PREFIX = 'host_';

const BUFFERED_COUNT = 300;
const BATCH_COUNT = 30;
const RETRY = { firstMs: 500, maxMs: 10_000 } as const;
const TIMEOUT_MS = 10_000;
/** What comes right by itself so soon is not worth a word: nothing is lost meanwhile. */
const PATIENCE_MS = 5000;

/** Sends readings of the machine to a storage engine by Prometheus' remote write, as any other sender would. */
export class RemoteHostMetrics {
  readonly #deps: RemoteHostMetricsDeps;
  readonly #buffer = new SampleBuffer(BUFFERED_COUNT);
  readonly #kernel = new ProtocolKernel();
  #arrived = (): void => {};

  constructor(deps: RemoteHostMetricsDeps) {
    this.#deps = deps;
  }

  add(sample: Sample): void {
    this.#buffer.add(sample);
    this.#arrived();
  }

  /** Until the signal fires. What cannot be sent is kept for a while; what is refused for good is given up. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, note, client } = this.#deps;
    const backoff = new Backoff(RETRY);
    let failing: { readonly sinceMs: number; said: string | undefined } | undefined;
    while (!signal.aborted) {
      const batch = this.#buffer.oldest(BATCH_COUNT);
      if (batch.length === 0) {
        await this.#nextSample(signal);
        continue;
      }
      try {
        await client.write(this.#body(batch), AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]));
        this.#buffer.remove(batch);
        if (failing?.said !== undefined) note('info', 'metrics go to the storage engine again');
        failing = undefined;
        backoff.reset();
      } catch (error) {
        if (signal.aborted) return;
        // Refused for good: the same bytes would be refused again.
        const isForGood = error instanceof VarveError && error.httpStatus < 500;
        if (isForGood) this.#buffer.remove(batch);
        const nowMs = clock.monotonicMs();
        failing ??= { sinceMs: nowMs, said: undefined };
        const why = messageOf(error);
        if (failing.said !== why && (isForGood || nowMs - failing.sinceMs >= PATIENCE_MS)) {
          note('warn', `metrics do not reach the storage engine: ${why}`);
          failing.said = why;
        }
        await clock.sleep(backoff.nextMs(), signal).catch(() => {});
      }
    }
  }

  #body(batch: readonly Sample[]): Uint8Array {
    return this.#kernel.encodeSnappy(encodeWriteRequest(hostSeries(batch, this.#deps.host)));
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
}

/** One series a reading, its samples together. */
export function hostSeries(batch: readonly Sample[], host: string): SeriesSamples[] {
  const series = new Map<
    string,
    { labels: [string, string][]; samples: { timeNs: bigint; value: number }[] }
  >();
  for (const { atMs, readings } of batch) {
    for (const { metric, labels, value } of readings) {
      const key = JSON.stringify([metric, labels]);
      let one = series.get(key);
      if (!one) {
        const name: [string, string] = ['__name__', `${HOST_PREFIX}${metric}`];
        one = { labels: [name, ['host', host], ...Object.entries(labels)], samples: [] };
        series.set(key, one);
      }
      one.samples.push({ timeNs: BigInt(atMs) * 1_000_000n, value });
    }
  }
  return [...series.values()];
}
