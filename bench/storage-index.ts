import { setImmediate } from 'node:timers/promises';
import { ByteWriter } from '../src/storage/index/byte-writer.ts';
import { IndexBlock } from '../src/storage/index/index-block.ts';
import type { IndexSegment } from '../src/storage/index/index-segment.ts';
import { encodeLabels } from '../src/storage/index/labels.ts';
import { MutableSegment } from '../src/storage/index/mutable-segment.ts';
import { encodePostings } from '../src/storage/index/posting-codec.ts';
import { SealedSegment } from '../src/storage/index/sealed-segment.ts';
import { segmentBytes } from '../src/storage/index/segment-writer.ts';
import { inMemory } from '../src/storage/index/segment-source.ts';
import { parseSelector } from '../src/storage/index/selector.ts';
import { median, noise } from './measure.ts';
import { DATA_SETS, labelsOf } from './storage-data.ts';

/**
 * The inverted index on the label sets of data sets A and C, and of C with one more label that is different in
 * each series, which is the hardest that an index meets. Milliseconds are CPU time of the process, garbage
 * collection included, because the machine is mostly shared:
 *   npm run bench -- storage-index [rounds] [series of C]
 */
const ROUNDS = Number(process.argv[2] ?? 5);
const C_SERIES = Number(process.argv[3] ?? DATA_SETS.C.series);

type Labels = [string, string][];

const withUnique = (series: number): Labels => {
  // Scattered, as the ids of containers are.
  const id = Math.imul(series + 1, 0x9e3779b1) >>> 0;
  return [...labelsOf(series), ['container_id', `${id.toString(16).padStart(8, '0')}-${series % 10}`]];
};

interface Series {
  readonly bytes: Uint8Array;
  readonly starts: Uint32Array;
}

/** Canonical bytes of all series behind each other, as the engine hands them on. */
function seriesOf(count: number, labels: (series: number) => Labels): Series {
  const parts = Array.from({ length: count }, (_, series) => encodeLabels(labels(series)));
  const starts = new Uint32Array(count + 1);
  parts.forEach((part, index) => (starts[index + 1] = (starts[index] as number) + part.length));
  const bytes = new Uint8Array(starts[count] as number);
  parts.forEach((part, index) => bytes.set(part, starts[index]));
  return { bytes, starts };
}

function build({ bytes, starts }: Series): MutableSegment {
  const segment = new MutableSegment();
  for (let series = 0; series + 1 < starts.length; series++) {
    segment.add(series, bytes, starts[series], starts[series + 1]);
  }
  return segment;
}

/** What one would write at first: a map of maps with arrays of numbers. Returns how many lists it has. */
function buildNaively(count: number, labels: (series: number) => Labels): Map<string, number[]> {
  const lists = new Map<string, number[]>();
  for (let series = 0; series < count; series++) {
    for (const [name, value] of labels(series)) {
      const key = `${name}\u0000${value}`;
      const list = lists.get(key);
      if (list) list.push(series);
      else lists.set(key, [series]);
    }
  }
  return lists;
}

async function timesOf<T>(work: () => T): Promise<{ ms: number[]; last: T }> {
  let last = work();
  const ms: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    await setImmediate();
    const before = process.cpuUsage();
    last = work();
    const { user, system } = process.cpuUsage(before);
    ms.push((user + system) / 1_000);
  }
  return { ms, last };
}

function line(what: string, ms: readonly number[], more = ''): void {
  const figure = `${median(ms)
    .toFixed(median(ms) < 10 ? 3 : 1)
    .padStart(9)} ms ± ${(noise(ms) * 100).toFixed(0).padStart(2)} %`;
  console.log(`  ${what.padEnd(56)}${figure}  ${more}`);
}

const perSecond = (count: number, ms: readonly number[]): string =>
  `${(count / median(ms) / 1000).toFixed(2)} M/s`;

const QUERIES = [
  '{instance="host-00042:9100"}',
  'up{instance="host-00042:9100"}',
  'up{job="node",env="production"}',
  '{job="node",instance=~"host-0004.*"}',
  '{job="node",instance=~"host-.*7:9100",__name__="up"}',
  '{job="node",device=~"dev-(01|02|50)",team!="infra-3"}',
  'up{zone!~"west1-(a|b)"}',
  '{env="production"}',
];

async function measureQueries(kind: string, segment: IndexSegment, more: readonly string[]): Promise<void> {
  const block = new IndexBlock([segment]);
  for (const text of [...QUERIES, ...more]) {
    const { ms, last } = await timesOf(() => block.series({ selectors: [parseSelector(text)] }).count);
    line(`${kind}: ${text}`, ms, `${last} series`);
  }
  const values = await timesOf(() => block.labelValues('instance').length);
  line(`${kind}: values of instance`, values.ms, `${values.last} values`);
  const some = await timesOf(
    () => block.labelValues('instance', { selectors: [parseSelector('up{team="infra-3"}')] }).length,
  );
  line(`${kind}: values of instance where up{team="infra-3"}`, some.ms, `${some.last} values`);
  const shown = await timesOf(() => {
    const found = block.series({ selectors: [parseSelector('up')] });
    let labels = 0;
    for (let index = 0; index < found.count; index++) labels += found.labels(index).length;
    return labels;
  });
  line(`${kind}: up, with its labels as text`, shown.ms, `${shown.last} labels`);
}

/** Bytes of all postings in several forms; the one in use is what the sealed segment has. */
function comparePostings(segment: SealedSegment): void {
  const sums = { raw: 0, varint: 0, roaring: 0, blocks: 0 };
  const out = new Uint32Array(segment.seriesCount);
  for (let term = 0; term < segment.termCount; term++) {
    const list = out.subarray(0, segment.readPostings(term, out, 0));
    sums.raw += 4 * list.length;
    sums.varint += varintBytes(list);
    sums.roaring += roaringBytes(list);
    const writer = new ByteWriter();
    encodePostings(list, writer);
    sums.blocks += list.length === 1 ? 3 : writer.length;
  }
  const shown = Object.entries(sums).map(
    ([name, bytes]) => `${name} ${(bytes / segment.seriesCount).toFixed(2)}`,
  );
  console.log(`  postings, bytes a series: ${shown.join(', ')} (blocks is what is written)`);
}

function varintBytes(list: Uint32Array): number {
  let bytes = 0;
  list.forEach((position, index) => {
    const gap = position - (index === 0 ? 0 : (list[index - 1] as number));
    bytes += gap < 0x80 ? 1 : gap < 0x4000 ? 2 : gap < 0x20_0000 ? 3 : 4;
  });
  return bytes;
}

/** By the format's rules: per 65,536 numbers the least of two bytes a number, 8 KiB of bits, four bytes a run. */
function roaringBytes(list: Uint32Array): number {
  let bytes = 8;
  for (let start = 0; start < list.length;) {
    const container = (list[start] as number) >>> 16;
    let stop = start;
    let runs = 0;
    for (; stop < list.length && (list[stop] as number) >>> 16 === container; stop++) {
      if (stop === start || list[stop] !== (list[stop - 1] as number) + 1) runs++;
    }
    bytes += 8 + Math.min(2 * (stop - start), 8_192, 2 + 4 * runs);
    start = stop;
  }
  return bytes;
}

async function measure(
  title: string,
  count: number,
  labels: (series: number) => Labels,
): Promise<Uint8Array> {
  const series = seriesOf(count, labels);
  console.log(
    `\n${title}: ${count} series, ${(series.bytes.length / count).toFixed(0)} bytes of labels each`,
  );
  const labelCount = labels(0).length;
  const built = await timesOf(() => build(series));
  line(
    'add to a segment in memory',
    built.ms,
    `${perSecond(count, built.ms)} series, ${perSecond(count * labelCount, built.ms)} labels`,
  );
  const naive = await timesOf(() => buildNaively(count, labels).size);
  line('a Map of arrays instead, labels made on the way', naive.ms, `${naive.last} lists`);
  const segment = built.last;
  console.log(
    `  memory: ${(segment.memoryBytes / 1e6).toFixed(1)} MB, ${(segment.memoryBytes / count).toFixed(1)} bytes a series`,
  );
  const written = await timesOf(() => segmentBytes([segment]));
  const bytes = written.last;
  line(
    'write it as a sealed segment',
    written.ms,
    `${perSecond(count, written.ms)} series, ${(bytes.length / count).toFixed(2)} bytes a series`,
  );
  const opened = await timesOf(() => SealedSegment.open(inMemory(bytes), 'bench'));
  line('open it', opened.ms);
  const verified = await timesOf(() => SealedSegment.open(inMemory(bytes), 'bench').verify());
  line('open it and verify all checksums', verified.ms, `${(bytes.length / 1e6).toFixed(2)} MB`);
  const merged = await timesOf(
    () => segmentBytes([opened.last, SealedSegment.open(inMemory(bytes), 'again')]).length,
  );
  line('merge two sealed segments with the same series', merged.ms, perSecond(2 * count, merged.ms));
  comparePostings(opened.last);
  const more =
    labelCount > 8
      ? ['{container_id=~"3f.*"}', '{container_id=~".*a7.*"}', '{job="node",container_id!=""}']
      : [];
  await measureQueries('memory', segment, more);
  await measureQueries('sealed', opened.last, more);
  return bytes;
}

const { A } = DATA_SETS;
const bytesOfA = await measure('A', A.series, labelsOf);
const perSample = (blocks: number): string =>
  ((blocks * bytesOfA.length) / (A.series * A.samplesPerSeries)).toFixed(4);
console.log(
  `\n  index of A: ${bytesOfA.length} bytes for ${A.series * A.samplesPerSeries} samples = ${perSample(1)} bytes a sample` +
    ` when its three hours are one index block, ${perSample(2)} when they are two (goal: 0.18)`,
);
await measure('C', C_SERIES, labelsOf);
await measure('C with a unique label', C_SERIES, withUnique);
