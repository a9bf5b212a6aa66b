import { ProtocolKernel } from '../src/storage/protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../src/storage/protocol/remote-write.ts';

/** Of all series of tests: `m{n="…"}`. */
export const SERIES_NAME = 'm';

/** Values by `sampleKey`. */
export type FoundSamples = ReadonlyMap<string, number>;

export function sampleKey(series: string, timeMs: number): string {
  return `${series} ${timeMs}`;
}

/** Who takes writes and may be down. */
export interface Target {
  readonly id: string;
  readonly url: string;
}

export interface Sample {
  readonly series: string;
  readonly timeMs: number;
}

export interface PreparedWrite {
  readonly samples: readonly (Sample & { readonly value: number })[];
  readonly body: Buffer;
}

const kernel = new ProtocolKernel();
const NS_PER_MS = 1_000_000n;
const ANSWER_LIMIT_MS = 30_000;

/**
 * What clients have sent and what of it was acknowledged, so that afterwards it can be said of every sample whether it
 * has to be there. Each value is sent once.
 */
export class SampleLedger {
  readonly namespace: string;
  readonly #mayComeBack: boolean;
  /** By key: all values that were ever sent, in their order. */
  readonly #sent = new Map<string, readonly number[]>();
  /** By key: values that were acknowledged, the last one at the end. */
  readonly #acknowledged = new Map<string, readonly number[]>();
  #value = 0;

  /** @param mayComeBack a value that was corrected counts as well: what docs/replication.md says of lost replicas */
  constructor(namespace = 'default', { mayComeBack = false } = {}) {
    this.namespace = namespace;
    this.#mayComeBack = mayComeBack;
  }

  /** Samples that were acknowledged. */
  get size(): number {
    return this.#acknowledged.size;
  }

  /** A write with a new value for each sample; the same may be sent again and again. */
  prepare(samples: readonly Sample[]): PreparedWrite {
    const written = samples.map((sample) => ({ ...sample, value: ++this.#value }));
    for (const { series, timeMs, value } of written) note(this.#sent, sampleKey(series, timeMs), value);
    const message = encodeWriteRequest(
      written.map(({ series, timeMs, value }) => ({
        labels: [
          ['__name__', SERIES_NAME],
          ['n', series],
        ],
        samples: [{ timeNs: BigInt(timeMs) * NS_PER_MS, value }],
      })),
    );
    return { samples: written, body: kernel.encodeSnappy(message) };
  }

  acknowledge({ samples }: PreparedWrite): void {
    for (const { series, timeMs, value } of samples)
      note(this.#acknowledged, sampleKey(series, timeMs), value);
  }

  /** @throws WriteRefused when the node says no, and what keeps it from answering */
  async send(to: Target, write: PreparedWrite): Promise<void> {
    const url = `${to.url}/ns/${this.namespace}/api/v1/write`;
    const signal = AbortSignal.timeout(ANSWER_LIMIT_MS);
    const answer = await fetch(url, { method: 'POST', body: write.body, signal });
    const text = await answer.text();
    if (answer.status !== 204) throw new WriteRefused(to.id, answer.status, text);
    this.acknowledge(write);
  }

  /** Both in one. */
  async write(to: Target, samples: readonly Sample[]): Promise<void> {
    await this.send(to, this.prepare(samples));
  }

  /** What is acknowledged now: has to be in what is read from now on. */
  acknowledgedNow(): ReadonlyMap<string, readonly number[]> {
    return new Map(this.#acknowledged);
  }

  /**
   * What is wrong with what was found, a few of it: what was acknowledged (until `since`, if given) and is not there or
   * older, and what is there and was never sent. A sample that was sent again may have any value from the last
   * acknowledged one on.
   */
  faults(found: FoundSamples, since: ReadonlyMap<string, readonly number[]> = this.#acknowledged): string[] {
    const faults: string[] = [];
    for (const [key, acknowledged] of since) {
      const value = found.get(key);
      const last = acknowledged.at(-1) as number;
      const sent = this.#sent.get(key) ?? [];
      if (value === undefined) faults.push(`${key} is missing: ${last} was acknowledged`);
      else if (!this.#mayComeBack && !sent.slice(sent.indexOf(last)).includes(value)) {
        faults.push(`${key} is ${value}, although ${last} was acknowledged of ${sent.join()}`);
      }
    }
    for (const [key, value] of found) {
      if (!(this.#sent.get(key) ?? []).includes(value))
        faults.push(`${key} is ${value}, which was never sent`);
    }
    return faults.length > 10 ? [...faults.slice(0, 10), `… ${faults.length} in all`] : faults;
  }
}

/** Lists that were handed out stay as they were. */
function note(map: Map<string, readonly number[]>, key: string, value: number): void {
  map.set(key, [...(map.get(key) ?? []), value]);
}

/** A node has said no. */
export class WriteRefused extends Error {
  readonly status: number;

  constructor(id: string, status: number, text: string) {
    super(`${id} answered ${status} ${text}`);
    this.status = status;
  }

  /** The node itself does not work yet, or no more: another one may take the write. */
  get isNotReady(): boolean {
    return this.status === 503 && !this.message.includes('too few replicas');
  }
}
