import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { VarveError } from '../../core/errors.ts';
import { ColumnCodec, decodeSealedSeries, encodeSealedSeries } from '../engine/sealed-series.ts';
import { decodeCover, encodeCover } from '../engine/index-cover.ts';
import { decodeLogRecord, encodeDelete, encodeFlushed } from '../engine/log-records.ts';
import { decodeTombstones, encodeTombstones, type Tombstone } from '../engine/tombstones.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import { IndexBlock } from '../index/index-block.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import { encodeLabels } from '../index/labels.ts';
import { SealedSegment } from '../index/sealed-segment.ts';
import { inMemory } from '../index/segment-source.ts';
import { segmentBytes } from '../index/segment-writer.ts';
import { parseSelector } from '../index/selector.ts';
import { KERNEL_FILE, Kernel } from '../kernel/kernel.ts';
import { mutate } from './mutate.suite.ts';

const SEEDS = seedCount(process.env['VARVE_SOAK'] ? 20_000 : 1500);

/** Near to the valid bytes, with checksums made right: as if somebody had made them on purpose. */
async function fuzz(
  corpus: readonly Uint8Array[],
  run: (bytes: Buffer, what: string) => unknown,
): Promise<void> {
  for (let seed = 0; seed < SEEDS; seed++) {
    const random = new SeededRandom(seed);
    const [one, other] = [corpus[random.below(corpus.length)], corpus[random.below(corpus.length)]];
    const bytes = mutate(one ?? Buffer.alloc(0), other ?? Buffer.alloc(0), random);
    try {
      await run(bytes, `seed ${seed}`);
    } catch (error) {
      if (!(error instanceof FormatFault || error instanceof VarveError)) {
        throw new Error(`seed ${seed} met a bug`, { cause: error });
      }
    }
  }
}

const TOMBSTONE: Tombstone = {
  version: 5n,
  startNs: -1n,
  endNs: 1n << 62n,
  selectors: [parseSelector('up{a=~"b.*"}'), parseSelector('{a="b"}')],
};

test('records of the log and deletions', async () => {
  await fuzz([encodeTombstones([TOMBSTONE, TOMBSTONE])], (bytes) => decodeTombstones(bytes));
  const records = [
    encodeDelete(1, TOMBSTONE),
    encodeFlushed(300, -5n, [
      { shard: 1, volume: 0 },
      { shard: 31, volume: 2 },
    ]),
    Buffer.from([0, 1, 2, 3]),
  ];
  await fuzz(records, (bytes) => decodeLogRecord(bytes));
});

test('covers of index segments', async () => {
  const cover = encodeCover({
    blockStartNs: 7n,
    volume: 3,
    sizeBytes: 99,
    filesets: [{ blockStartNs: 7n, shard: 1, volume: 0 }],
  });
  await fuzz([cover], (bytes) => {
    if (bytes.length >= 20) {
      bytes.writeUInt32LE(bytes.length, 12);
      bytes.writeUInt32LE(crc32(bytes.subarray(0, -4)), bytes.length - 4);
    }
    return decodeCover('cover', bytes);
  });
});

test('series in filesets, and their columns: no more memory than the engine has for them', async () => {
  const kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 64 << 20 });
  const codec = new ColumnCodec(kernel);
  const times = BigInt64Array.from({ length: 130 }, (_, i) => BigInt(i * 15_000 + (i % 7)) * 1_000_000n);
  const ownTimes = Uint8Array.from(codec.encodeTimes(times));
  const corpus = [
    BigUint64Array.from({ length: 130 }, () => 0n),
    new BigUint64Array(Float64Array.from({ length: 130 }, (_, i) => i / 10).buffer),
    BigUint64Array.from({ length: 130 }, (_, i) => BigInt(i) * 0x9e37_79b9_7f4a_7c15n),
  ].map((bits, i) =>
    encodeSealedSeries({
      timesNumber: i === 0 ? 4 : undefined,
      times: i === 0 ? undefined : ownTimes,
      values: Uint8Array.from(codec.encodeValues(bits)),
      overwrites: i === 2 ? [{ place: 3, version: 9n }] : [],
    }),
  );
  await fuzz(corpus, (bytes, what) => {
    const series = decodeSealedSeries(bytes);
    const count = series.times === undefined ? 130 : codec.decodeTimes(series.times).length;
    const bits = codec.decodeValues(series.values, count);
    expect(bits.length, what).toBe(count);
    for (const { place } of series.overwrites) expect(place, what).toBeGreaterThanOrEqual(0);
  });
  expect(kernel.bytes.length).toBeLessThanOrEqual(64 << 20);
});

test('index segments, with every section used', async () => {
  const mutable = new MutableSegment();
  for (let i = 0; i < 300; i++) {
    const labels = encodeLabels([
      ['__name__', `m${i % 5}`],
      ['host', `h${i}`],
      ...(i % 3 === 0 ? ([['zone', 'z']] as const) : []),
    ]);
    mutable.add(i, labels);
  }
  const bytes = Buffer.from(segmentBytes([mutable]));
  const [footerAt, sections] = [bytes.length - 104, 6];
  let opened = 0;
  await fuzz([bytes], async (changed) => {
    // Of the same length, the sums made right: what is inside has to be checked as well.
    const forged = Buffer.alloc(bytes.length);
    changed.copy(forged);
    bytes.copy(forged, 0, 0, 16);
    bytes.copy(forged, footerAt, footerAt);
    for (let i = 0; i < sections; i++) {
      const entry = footerAt + 20 + i * 12;
      const [offset, size] = [forged.readUInt32LE(entry), forged.readUInt32LE(entry + 4)];
      forged.writeUInt32LE(crc32(forged.subarray(offset, offset + size)), entry + 8);
    }
    forged.writeUInt32LE(crc32(forged.subarray(footerAt, footerAt + 92)), footerAt + 92);
    const segment = SealedSegment.open(inMemory(forged), 'fuzz');
    segment.verify();
    opened++;
    const block = new IndexBlock([segment, mutable]);
    const all = block.series({ selectors: [parseSelector('{__name__=~"m.*",host!="h5"}')], ordered: true });
    expect(all.count).toBeLessThanOrEqual(600);
    for (let i = 0; i < all.count; i += 50) all.labels(i);
    block.labelNames();
    block.labelValues('host', { selectors: [parseSelector('{zone="z"}')] });
    block.labelValues('__name__');
  });
  expect(opened).toBeGreaterThan(SEEDS / 2);
});
