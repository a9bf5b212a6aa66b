import { readFileSync } from 'node:fs';
import { beforeAll, expect, test, vi } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { VarveError } from '../../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { ColumnCodec } from '../engine/sealed-series.ts';
import { verifyFolder } from '../engine/storage-check.ts';
import type { Finding } from '../engine/storage-engine.ts';
import { parseSelector } from '../index/selector.ts';
import { Kernel, KERNEL_FILE } from '../kernel/kernel.ts';
import { readEverything } from './check.suite.ts';
import { SimulatedClock } from './clock.suite.ts';
import { openEngine } from './open-engine.suite.ts';

vi.setConfig({ testTimeout: 600_000 });

const MINUTE_MS = 60_000;
const MS_NS = 1_000_000n;
const FOLDER = '/storage';
const START_MS = 1_767_225_600_000;
const ROUNDS = seedCount(process.env['VARVE_SOAK'] ? 4000 : 64);

type Content = Map<string, Map<bigint, bigint>>;

let intact: SimulatedDisk;
let nowMs = 0;
/** By namespace. */
let written: Map<string, Content>;

/** Names of namespaces and all they have; what is found damaged is put aside, and the next try goes on without it. */
async function contentOf(engine: Engine): Promise<{ content: Map<string, Content>; refusals: VarveError[] }> {
  const refusals: VarveError[] = [];
  const content = new Map<string, Content>();
  for (const { name } of engine.namespaces()) {
    for (let tries = 0; ; tries++) {
      try {
        content.set(name, (await readEverything(engine, name)).found);
        break;
      } catch (error) {
        const known = error instanceof VarveError && /DAMAGED|SHARD_NOT_READY/.test(error.code);
        if (!known || tries > 50) throw error;
        refusals.push(error);
        await turns();
      }
    }
  }
  return { content, refusals };
}

/** What mends itself in the background gets its time. */
async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => void setImmediate(resolve));
}

async function opened(disk: SimulatedDisk, clock: SimulatedClock): Promise<Engine> {
  return await openEngine({ fs: disk, clock, seed: 7 }, { folder: FOLDER, logMode: 'sync' });
}

/** Files of every kind: sealed blocks, merged ones, snapshots, an image, a log behind them, deletions. */
beforeAll(async () => {
  const random = new SeededRandom(1);
  intact = new SimulatedDisk({ seed: 1 });
  await intact.makeFolder(FOLDER);
  const clock = new SimulatedClock(START_MS);
  const engine = await opened(intact, clock);
  const options = {
    blockSizeNs: 60_000n * MS_NS,
    bufferPastNs: 0n,
    bufferFutureNs: 10_000n * MS_NS,
    retentionNs: 3_600_000n * MS_NS,
  };
  await engine.applyNamespaces([
    namespaceOptions({ name: 'first', ...options, coldWritesEnabled: true }),
    namespaceOptions({ name: 'second', ...options, cachePolicy: 'all' }),
  ]);
  const write = async (agoMs = 0): Promise<void> => {
    const nowNs = BigInt(clock.nowMs() - agoMs) * MS_NS;
    for (const namespace of agoMs === 0 ? ['first', 'second'] : ['first']) {
      const series = Array.from({ length: 12 }, (_, i) => ({
        labels: [
          ['__name__', `metric${i % 2}`],
          ['host', `h${i}`],
        ] as const,
        samples: Array.from({ length: 5 }, (_, j) => ({ timeNs: nowNs + BigInt(j), value: random.next() })),
      }));
      await engine.writeSeries(namespace, series);
    }
  };
  for (let minute = 0; minute < 3; minute++) {
    await write();
    clock.advance(MINUTE_MS);
  }
  await engine.flush();
  await write(2 * MINUTE_MS);
  await write();
  await engine.snapshot();
  await write();
  await engine.deleteSeries('first', {
    selectors: [parseSelector('metric0{host="h2"}')],
    startNs: 0n,
    endNs: 1n << 62n,
  });
  await write();
  await turns();
  ({ content: written } = await contentOf(engine));
  await engine[Symbol.asyncDispose]();
  nowMs = clock.nowMs();
});

/** One bit, or the end, of a file. */
function damaged(content: Buffer, random: SeededRandom): { bytes: Buffer; what: string } {
  if (random.chance(0.25)) {
    const length = random.below(content.length);
    return { bytes: content.subarray(0, length), what: `cut to ${length} bytes` };
  }
  const bytes = Buffer.from(content);
  const at = random.below(bytes.length);
  const bit = random.below(8);
  bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
  return { bytes, what: `bit ${bit} of byte ${at} flipped` };
}

/** Which samples may be gone when this file is damaged; undefined for none. */
function mayLose(path: string): ((namespace: string, series: string, timeNs: bigint) => boolean) | undefined {
  const fileset = /\/(data|snapshots)\/(\w+)\/\d+\/fileset-(-?\d+)-\d+-\w+\.db$/.exec(path);
  if (fileset) {
    const [, , namespace, start = '0'] = fileset;
    const startNs = BigInt(start);
    return (name, _series, timeNs) =>
      name === namespace && timeNs >= startNs && timeNs < startNs + BigInt(MINUTE_MS) * MS_NS;
  }
  // What is neither in files nor in snapshots: the block that is written, and the late samples of a flushed one.
  return path.includes('/log/') ? () => true : undefined;
}

test('there is a file of every kind', () => {
  const files = [...intact.files().keys()].join('\n');
  for (const kind of [
    'catalog-0',
    '/log/segment-',
    '/snapshots/manifest-',
    '/snapshots/first/',
    '/data/first/',
    '/index/first/',
    '.cover',
    '/tombstones/first',
    '/image/',
  ]) {
    expect(files).toContain(kind);
  }
  expect([...written.values()].every((content) => content.size >= 11)).toBe(true);
});

test('without damage, all is there and nothing is found', async () => {
  const engine = await opened(intact.processCrash(1), new SimulatedClock(nowMs));
  expect((await contentOf(engine)).content).toEqual(written);
  expect(await findingsOf(engine)).toEqual([]);
  await engine[Symbol.asyncDispose]();
});

async function findingsOf(engine: Engine): Promise<string[]> {
  return await inWords(engine.verify());
}

/** Of a folder that no engine uses. */
async function findingsIn(disk: SimulatedDisk): Promise<string[]> {
  return await inWords(verifyFolder({ fs: disk, codec: () => codec }, FOLDER, {}));
}

async function inWords(findings: AsyncIterable<Finding>): Promise<string[]> {
  const found: string[] = [];
  for await (const { file, offset, reason } of findings) found.push(`${file} at ${offset}: ${reason}`);
  return found;
}

const codec = new ColumnCodec(new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 64 * 1024 * 1024 }));

test('a flipped bit or a cut in any file: the same data, or damage that is told with its place and costs nothing else', async () => {
  const paths = [...intact.files().keys()].sort();
  const kinds = new Map<string, number>();
  for (let round = 0; round < ROUNDS; round++) {
    const random = new SeededRandom(round);
    // Kinds of files in turn, whatever their number.
    const kind = [
      '/log/',
      '/data/',
      '/snapshots/',
      '/index/',
      '/tombstones/',
      '/image/',
      'catalog',
      'manifest',
    ];
    const some = paths.filter((path) => path.includes(kind[round % kind.length] as string));
    const path = some[random.below(some.length)] ?? '';
    const content = intact.files().get(path) ?? Buffer.alloc(0);
    if (content.length === 0) continue;
    const { bytes, what } = damaged(content, random);
    await check(path, bytes, {
      what: `round ${round}: ${path}, ${what}`,
      isCut: bytes.length < content.length,
    });
    kinds.set(path.split('/')[2] ?? '', (kinds.get(path.split('/')[2] ?? '') ?? 0) + 1);
  }
  expect(kinds.size).toBeGreaterThan(5);
});

async function check(
  path: string,
  bytes: Buffer,
  { what, isCut }: { what: string; isCut: boolean },
): Promise<void> {
  const disk = intact.processCrash(1);
  disk.plant(path, bytes);
  let engine: Engine;
  try {
    engine = await opened(disk, new SimulatedClock(nowMs));
  } catch (error) {
    // Deletions that cannot be read: nobody may go on without knowing what was deleted.
    expect(error, what).toBeInstanceOf(VarveError);
    expect(String(error), what).toContain(path);
    expect(path, what).toMatch(/tombstones/);
    return;
  }
  const told = engine.findings.map(({ file }) => file);
  const { content, refusals } = await contentOf(engine);
  const lost = compare(content, what, mayLose(path));
  const files = [...told, ...refusals.map(String), ...engine.findings.map(({ file }) => file)];
  // A log that ends early looks as after a kill that came before its end was written.
  const isTorn = isCut && path.includes('/log/');
  if (lost > 0 && !isTorn) {
    expect(files.join('\n'), `${what}: ${lost} samples are lost`).toContain(path.split('/').at(-1));
  }
  await engine[Symbol.asyncDispose]();
}

/** Nothing else than what was written; returns how much of it is gone. */
function compare(found: Map<string, Content>, what: string, mayBeLost: ReturnType<typeof mayLose>): number {
  let lost = 0;
  expect([...found.keys()].sort(), what).toEqual([...written.keys()].sort());
  for (const [namespace, content] of written) {
    for (const [series, samples] of content) {
      for (const [timeNs, bits] of samples) {
        const held = found.get(namespace)?.get(series)?.get(timeNs);
        if (held === bits) continue;
        const where = `${what}: ${namespace} ${series} at ${timeNs}`;
        if (!mayBeLost?.(namespace, series, timeNs)) expect(held, where).toBe(bits);
        lost++;
      }
    }
    for (const [series, samples] of found.get(namespace) ?? []) {
      for (const timeNs of samples.keys()) {
        const known = content.get(series)?.has(timeNs) ?? false;
        if (!known && !mayBeLost?.(namespace, series, timeNs))
          expect(known, `${what}: ${series} ${timeNs}`).toBe(true);
      }
    }
  }
  return lost;
}

/** Kinds of files, by what their paths have in common. A spill needs more data: `memory-image.test.ts` has one. */
const KINDS = [
  ['catalog', /\/catalog-\d\.db$/],
  ['log that was sealed, and the spare', /\/log\/segment-/],
  ['fileset', /\/data\/\w+\/\d+\/fileset-/],
  ['summary of filesets', /\/data\/\w+\/summary\.db$/],
  ['snapshot', /\/snapshots\/\w+\/\d+\/fileset-/],
  ['manifest', /\/snapshots\/manifest-/],
  ['index', /\/index\/\w+\/segment-.*\.idx$/],
  ['cover of an index', /\/index\/\w+\/segment-.*\.cover$/],
  ['tombstones', /\/tombstones\//],
  ['memory image', /\/image\/image-/],
] as const;

test('every file is of a kind that verify knows', () => {
  const paths = [...intact.files().keys()];
  for (const path of paths)
    expect(
      KINDS.filter(([, pattern]) => pattern.test(path)),
      path,
    ).toHaveLength(1);
  for (const [kind, pattern] of KINDS)
    expect(
      paths.some((path) => pattern.test(path)),
      kind,
    ).toBe(true);
});

test.each(KINDS)('verify finds any flipped bit and names the file: %s', async (_, pattern) => {
  const files = intact.files();
  const paths = [...files.keys()].filter((path) => pattern.test(path)).sort();
  for (let round = 0; round < ROUNDS / 4; round++) {
    const random = new SeededRandom(round + 1_000_000);
    const path = paths[random.below(paths.length)] ?? '';
    const bytes = Buffer.from(files.get(path) ?? Buffer.alloc(0));
    // Half of them at the edges, where heads and checksums are.
    const at = random.chance(0.5) ? random.below(bytes.length) : random.below(Math.min(bytes.length, 80));
    const place = random.chance(0.5) ? at : bytes.length - 1 - at;
    const bit = random.below(8);
    bytes[place] = (bytes[place] ?? 0) ^ (1 << bit);
    const disk = intact.processCrash(1);
    disk.plant(path, bytes);
    const found = await findingsIn(disk);
    expect(found.join('\n'), `${path}: bit ${bit} of byte ${place} flipped`).toContain(path);
  }
});

test('verify finds a cut in every file but the log', async () => {
  const files = intact.files();
  for (const [path, content] of files) {
    if (path.includes('/log/')) continue;
    const disk = intact.processCrash(1);
    disk.plant(path, content.subarray(0, new SeededRandom(content.length).below(content.length)));
    expect((await findingsIn(disk)).join('\n'), path).toContain(path);
  }
});

test('of an engine that runs, verify finds damage in the last record that was acknowledged', async () => {
  const disk = intact.processCrash(1);
  const engine = await opened(disk, new SimulatedClock(nowMs));
  const labels = [['__name__', 'last']] as const;
  const samples = [{ timeNs: BigInt(nowMs) * MS_NS, value: 1 }];
  await engine.writeSeries('first', [{ labels, samples }]);
  expect(await findingsOf(engine)).toEqual([]);
  const logs = [...disk.files()].filter(([path]) => path.includes('/log/'));
  const [path, bytes] = logs.findLast(([, content]) => content[0] !== 0) ?? ['', Buffer.alloc(0)];
  const last = bytes.findLastIndex((byte) => byte !== 0);
  bytes[last] = (bytes[last] ?? 0) ^ 1;
  disk.plant(path, bytes);
  expect((await findingsOf(engine)).join('\n')).toContain(path);
  await engine[Symbol.asyncDispose]();
});
