import { describe, expect, test } from 'vitest';
import { encodeLabels, type LabelPair } from '../index/labels.ts';
import { bitsOf } from '../kernel/columns.suite.ts';
import { bodyOf, contentOf, HOUR, keyOf, MINUTE, MS, newBuffer, NOW } from './buffer.suite.ts';
import type { NamespaceBuffer } from './namespace-buffer.ts';

const labelsOf = (name: string): LabelPair[] => [['__name__', name]];

/** A replica's buffer that has its versions from elsewhere; before it started there was nothing newer than 5. */
class Replica {
  readonly buffer: NamespaceBuffer = newBuffer({ coldWritesEnabled: true });
  readonly #recovered = NOW + 5n;
  #epoch = NOW + 1000n;

  async write(name: string, version: bigint, value: number, timeNs = NOW): Promise<void> {
    const body = bodyOf([{ labels: labelsOf(name), samples: [{ ms: timeNs / MS, bits: bitsOf(value) }] }]);
    const late = { epoch: ++this.#epoch, heals: false, recovered: this.#recovered };
    await this.buffer.commit(this.buffer.decodeRemote(1, body, NOW), NOW + version, undefined, late);
  }

  /** As a peer gives it: nobody knows since when the peer has it. */
  insert(name: string, value: number): void {
    const columns = { times: BigInt64Array.of(NOW), bits: BigUint64Array.of(bitsOf(value)), overwrites: [] };
    this.buffer.insert(encodeLabels(labelsOf(name)), columns);
  }

  valueOf(name: string): number | undefined {
    const sample = contentOf(this.buffer)
      .get(keyOf(labelsOf(name)))
      ?.get(NOW);
    return sample && new Float64Array(BigUint64Array.of(sample.bits).buffer)[0];
  }
}

describe('a sample that has no version stays when a write comes that is older than', () => {
  test('what was there before the start', async () => {
    const replica = new Replica();
    replica.insert('m', 1);
    await replica.write('m', 4n, 4);
    expect(replica.valueOf('m')).toBe(1);
    await replica.write('m', 6n, 6);
    expect(replica.valueOf('m')).toBe(6);
  });

  test('the last write to its series', async () => {
    const replica = new Replica();
    await replica.write('m', 8n, 8);
    await replica.write('other', 9n, 9);
    await replica.write('m', 7n, 7);
    await replica.write('other', 8n, 8);
    expect([replica.valueOf('m'), replica.valueOf('other')]).toEqual([8, 9]);
  });

  test('the newest write when a peer gave it', async () => {
    const replica = new Replica();
    await replica.write('other', 9n, 9);
    replica.insert('m', 1);
    await replica.write('m', 8n, 8);
    expect(replica.valueOf('m')).toBe(1);
    await replica.write('m', 10n, 10);
    expect(replica.valueOf('m')).toBe(10);
  });

  test('the newest write when series have been given other references', async () => {
    const replica = new Replica();
    const before = NOW - 4n * HOUR;
    for (let i = 0; i < 9; i++) await replica.write(`gone${i}`, 7n, 0, before);
    await replica.write('m', 9n, 9);
    for (const { startNs } of replica.buffer.blocks())
      if (startNs < NOW - HOUR - 30n * MINUTE) replica.buffer.dropBlock(startNs);
    expect(replica.buffer.dropUnusedSeries()).toBe(9);
    await replica.write('m', 8n, 8);
    expect(replica.valueOf('m')).toBe(9);
  });
});
