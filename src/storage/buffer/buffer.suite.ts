import { encodeLabels, type LabelPair } from '../index/labels.ts';
import { KernelHarness } from '../kernel/kernel-harness.suite.ts';
import { encodeWriteRequest, encodeWriteRequest2, type SeriesToWrite } from '../kernel/remote-write.suite.ts';
import { BufferMemory } from './buffer-memory.ts';
import { NamespaceBuffer, type BufferOptions } from './namespace-buffer.ts';

export const MS = 1_000_000n;
export const MINUTE = 60_000n * MS;
export const HOUR = 60n * MINUTE;
/** Half past the hour of a block of two. */
export const NOW = 1_700_006_400_000n * MS + 90n * MINUTE;

export const OPTIONS: BufferOptions = {
  blockSizeNs: 2n * HOUR,
  bufferPastNs: 10n * MINUTE,
  bufferFutureNs: 2n * MINUTE,
  retentionNs: 48n * HOUR,
  coldWritesEnabled: false,
  maxSeries: 100_000,
  shardCount: 4,
};

let harness: KernelHarness | undefined;

/** A remote write body as it comes over the wire. */
export function bodyOf(series: readonly SeriesToWrite[], version: 1 | 2 = 1): Uint8Array {
  harness ??= new KernelHarness();
  return harness.encodeSnappy(version === 1 ? encodeWriteRequest(series) : encodeWriteRequest2(series));
}

export function newBuffer(options: Partial<BufferOptions> = {}, memory = newMemory()): NamespaceBuffer {
  return new NamespaceBuffer(memory, { ...OPTIONS, ...options });
}

export function newMemory(limitBytes = 64 << 20): BufferMemory {
  return new BufferMemory({ limitBytes });
}

/** What a buffer holds, by labels and time: bits, and the version where one is told. */
export function contentOf(
  buffer: NamespaceBuffer,
): Map<string, Map<bigint, { bits: bigint; version?: bigint }>> {
  const content = new Map<string, Map<bigint, { bits: bigint; version?: bigint }>>();
  for (const { startNs } of buffer.blocks()) {
    for (const reference of buffer.seriesOfBlock(startNs)) {
      const key = Buffer.from(buffer.labelsOf(reference)).toString('hex');
      const samples = content.get(key) ?? new Map<bigint, { bits: bigint; version?: bigint }>();
      const columns = buffer.readBlock(reference, startNs);
      if (columns === undefined) throw new Error('a series of the block has no samples');
      const versions = new Map(columns.overwrites.map(({ place, version }) => [place, version]));
      for (const [place, time] of columns.times.entries()) {
        const version = versions.get(place);
        samples.set(time, { bits: columns.bits[place] ?? 0n, ...(version === undefined ? {} : { version }) });
      }
      content.set(key, samples);
    }
  }
  return content;
}

export const keyOf = (labels: readonly LabelPair[]): string =>
  Buffer.from(encodeLabels(labels)).toString('hex');
