import type { FileSystem } from '../../core/file-system.ts';
import type { SeededRandom } from '../../../test/seeded-random.ts';
import type { FilesetId } from './fileset-id.ts';
import { FilesetReader, type ReadOptions } from './fileset-reader.ts';
import { FilesetWriter } from './fileset-writer.ts';
import type { FilesetInfo, FilesetKind } from './info-file.ts';

export type Series = readonly (readonly [id: string, payload: string])[];

export const ROOT = '/data';
export const HOUR_NS = 3_600_000_000_000n;

export function idOf(more: Partial<FilesetId> = {}): FilesetId {
  return { namespace: 'default', shard: 3, blockStartNs: 2n * HOUR_NS, volume: 0, ...more };
}

export async function write(
  fs: FileSystem,
  id: FilesetId,
  series: Series,
  more: { kind?: FilesetKind; createdAtNs?: bigint; annotation?: string; root?: string } = {},
): Promise<FilesetInfo> {
  const { kind = 'flush', createdAtNs = 5n, annotation = 'note', root = ROOT } = more;
  const options = { root, id, kind, blockSizeNs: 2n * HOUR_NS, createdAtNs };
  await using writer = await FilesetWriter.create({ fs }, options);
  for (const [name, payload] of series) await writer.add(latin1(name), latin1(payload));
  return await writer.finish(latin1(annotation));
}

export async function readAll(
  fs: FileSystem,
  info: FilesetInfo,
  options: ReadOptions & { root?: string } = {},
): Promise<[string, string][]> {
  await using reader = new FilesetReader({ fs }, options.root ?? ROOT, info);
  const found: [string, string][] = [];
  for await (const series of reader.series(options)) {
    for (const { id, payload } of series) found.push([id.toString('latin1'), payload.toString('latin1')]);
  }
  return found;
}

/** Any series, sorted by the bytes of their ids. */
export function randomSeries(random: SeededRandom, count: number): Series {
  const series = new Map<string, string>();
  while (series.size < count) {
    const prefix = random.pick(['', 'a', 'metric{host=', 'metric{host="b",job="']);
    const id = prefix + random.bytes(random.below(12)).toString('latin1');
    series.set(id, random.bytes(random.below(40)).toString('latin1'));
  }
  return [...series].sort(([a], [b]) => Buffer.compare(latin1(a), latin1(b)));
}

export function latin1(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}
