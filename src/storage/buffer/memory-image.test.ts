import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { readWholeFile } from '../../core/file-system.ts';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import type { LabelPair } from '../index/labels.ts';
import { contentOf, MS, newBuffer, newMemory, NOW, OPTIONS } from './buffer.suite.ts';
import { MemoryImages } from './memory-image.ts';
import { NamespaceBuffer } from './namespace-buffer.ts';
import { restoreImage } from './restore-image.ts';
import type { BufferMemory } from './buffer-memory.ts';
import { verifyImages } from './verify-image.ts';

const FOLDER = '/images';
const LIMIT = { limitBytes: 64 << 20 };
const SERIES = 300;

interface Logged {
  readonly namespace: number;
  readonly payload: Uint8Array;
}

async function newDisk(): Promise<SimulatedDisk> {
  const disk = new SimulatedDisk();
  await disk.makeFolder(FOLDER);
  return disk;
}

/** Two namespaces that are written to in turn: scrapes of many series, now and then a late sample. */
class Writer {
  readonly buffers: readonly NamespaceBuffer[];
  readonly log: Logged[] = [];
  #scrape = 0;
  #version = 1000n;

  constructor(memory: BufferMemory) {
    this.buffers = [newBuffer({}, memory), newBuffer({}, memory)];
  }

  async scrape(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const tick = this.#scrape++;
      const namespace = tick % 5 === 4 ? 1 : 0;
      const series = Array.from({ length: namespace === 0 ? SERIES : 20 + tick }, (_, n) => ({
        labels: [['n', String(n)]] satisfies LabelPair[],
        samples: [
          { timeNs: NOW + BigInt(tick * 100) * MS, value: tick * n },
          ...(n % 50 === tick % 50 ? [{ timeNs: NOW + BigInt((tick >> 1) * 100) * MS, value: -n }] : []),
        ],
      }));
      const buffer = this.buffers[namespace] as NamespaceBuffer;
      await buffer.commit(buffer.prepare(series, NOW), ++this.#version, (payload) => {
        this.log.push({ namespace, payload: payload.slice() });
        return Promise.resolve();
      });
    }
  }
}

async function restored(
  disk: SimulatedDisk,
): Promise<
  { buffers: NamespaceBuffer[]; images: MemoryImages; memory: BufferMemory; notes: unknown } | undefined
> {
  const { restored: image } = await restoreImage(disk, FOLDER, LIMIT);
  if (!image) return undefined;
  const { memory, images, notes } = image;
  const buffers = image.buffers.map((state) => NamespaceBuffer.restore(memory, OPTIONS, state));
  return { buffers, images, memory, notes };
}

test('an image and the log behind it give what was live, and that again after the next image', async () => {
  const disk = await newDisk();
  const memory = newMemory();
  const writer = new Writer(memory);
  const images = new MemoryImages(disk, FOLDER, memory);
  await writer.scrape(400);
  await images.prepare(writer.buffers);
  const first = images.capture(writer.buffers, { position: writer.log.length });
  await writer.scrape(30);
  expect((await images.write(first))?.spilledPages).toBeGreaterThan(0);
  let position = writer.log.length;
  const second = images.capture(writer.buffers, { position });
  // Nothing was closed since, or hardly anything: what is full was written already.
  expect((await images.write(second))?.spilledPages).toBeLessThan(3);
  await writer.scrape(40);
  expect((await disk.list(FOLDER)).map(({ name }) => name)).toEqual(['image-2.img', 'spill-0.img']);

  for (let round = 0; round < 3; round++) {
    const again = await restored(disk);
    expect(again?.notes).toEqual({ position });
    const { buffers, images: nextImages, memory: nextMemory } = again as NonNullable<typeof again>;
    for (const { namespace, payload } of writer.log.slice(position)) {
      expect(buffers[namespace]?.replay(payload)).toMatchObject({ unreadable: false, orphans: 0 });
    }
    for (const namespace of [0, 1]) {
      const expected = contentOf(writer.buffers[namespace] as NamespaceBuffer);
      expect(contentOf(buffers[namespace] as NamespaceBuffer)).toEqual(expected);
      expect(buffers[namespace]?.index().seriesCount()).toBe(writer.buffers[namespace]?.seriesCount);
    }
    position = writer.log.length;
    const report = await nextImages.write(nextImages.capture(buffers, { position }));
    expect(report?.spilledPages).toBeLessThan(3);
    for (const buffer of buffers) buffer.dispose();
    expect(nextMemory.kernel.calls.usedPages()).toBe(0);
  }
});

test('an image is not completed when a block is dropped meanwhile, and the next one is', async () => {
  const disk = await newDisk();
  const memory = newMemory();
  const writer = new Writer(memory);
  await writer.scrape(400);
  const images = new MemoryImages(disk, FOLDER, memory);
  const image = images.capture(writer.buffers, 1);
  const [block] = writer.buffers[0]?.blocks() ?? [];
  writer.buffers[0]?.dropBlock(block?.startNs ?? 0n);
  expect(await images.write(image)).toBeUndefined();
  await writer.scrape(200);
  expect(await images.write(images.capture(writer.buffers, 2))).toBeDefined();
  const again = await restored(disk);
  expect(again?.notes).toBe(2);
  expect(contentOf(again?.buffers[0] as NamespaceBuffer)).toEqual(
    contentOf(writer.buffers[0] as NamespaceBuffer),
  );
});

test('an image in real files, of which short runs of pages are read at once, is taken, and refused when one is damaged', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'varve-test-image-'));
  try {
    const disk = new NodeFileSystem();
    const memory = newMemory();
    const writer = new Writer(memory);
    await writer.scrape(80);
    const images = new MemoryImages(disk, folder, memory);
    await images.write(images.capture(writer.buffers, 'whole'));

    const { restored: image } = await restoreImage(disk, folder, LIMIT);
    expect(image?.notes).toBe('whole');
    for (const [i, state] of (image?.buffers ?? []).entries()) {
      const again = NamespaceBuffer.restore((image as NonNullable<typeof image>).memory, OPTIONS, state);
      expect(contentOf(again)).toEqual(contentOf(writer.buffers[i] as NamespaceBuffer));
    }

    for (const [sizeOf, reason] of [
      [(whole: number) => whole - 1, 'a page is cut off'],
      [(whole: number) => whole, 'a page does not match its checksum'],
    ] as const) {
      const path = join(folder, 'image-1.img');
      await using file = await disk.open(path, 'update');
      const sizeBytes = await file.sizeBytes();
      const last = await file.read(sizeBytes - 1, 1);
      await file.truncate(sizeOf(sizeBytes));
      if (sizeOf(sizeBytes) === sizeBytes) await file.write(sizeBytes - 1, Buffer.of((last[0] ?? 0) ^ 1));
      const { restored: none, refused } = await restoreImage(disk, folder, LIMIT);
      expect(none).toBeUndefined();
      expect(refused).toEqual([{ file: path, reason }]);
      await file.write(sizeBytes - 1, last);
    }
    expect((await restoreImage(disk, folder, LIMIT)).restored?.notes).toBe('whole');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('an image with any damage is refused, or gives what was live', async () => {
  const disk = await newDisk();
  const memory = newMemory();
  const writer = new Writer(memory);
  await writer.scrape(300);
  const images = new MemoryImages(disk, FOLDER, memory);
  await images.write(images.capture(writer.buffers, null));
  const live = contentOf(writer.buffers[0] as NamespaceBuffer);
  const random = new SeededRandom(Number(process.hrtime.bigint() % 1_000_000n));
  let refused = 0;
  for (let round = 0; round < 40; round++) {
    const name = random.pick(['image-1.img', 'spill-0.img']);
    const path = `${FOLDER}/${name}`;
    const whole = await readWholeFile(disk, path);
    const limit = round % 2 === 0 ? Math.min(whole.length, 2000) : whole.length;
    const at = random.below(limit);
    await using file = await disk.open(path, 'update');
    if (round % 5 === 0) await file.truncate(at);
    else await file.write(at, Uint8Array.of((whole[at] ?? 0) ^ (1 << random.below(8))));
    const again = await restored(disk);
    if (again === undefined) refused++;
    else expect(contentOf(again.buffers[0] as NamespaceBuffer)).toEqual(live);
    await file.truncate(0);
    await file.write(0, whole);
  }
  expect(refused).toBeGreaterThan(5);
  expect(await restored(disk)).toBeDefined();
});

test('any flipped bit of an image and its spill is found, also in pages that are not needed any more', async () => {
  const disk = await newDisk();
  const memory = newMemory();
  const writer = new Writer(memory);
  const images = new MemoryImages(disk, FOLDER, memory);
  await writer.scrape(300);
  await images.write(images.capture(writer.buffers, 1));
  for (const { startNs } of writer.buffers[0]?.blocks() ?? []) writer.buffers[0]?.dropBlock(startNs);
  await writer.scrape(20);
  await images.write(images.capture(writer.buffers, 2));
  expect(await verifyImages(disk, FOLDER)).toEqual([]);
  const random = new SeededRandom(3);
  for (const name of ['image-2.img', 'spill-0.img']) {
    const path = `${FOLDER}/${name}`;
    const bytes = await readWholeFile(disk, path);
    for (let round = 0; round < 60; round++) {
      const at = random.below(round % 2 === 0 ? Math.min(bytes.length, 6000) : bytes.length);
      const bit = 1 << random.below(8);
      bytes[at] = (bytes[at] ?? 0) ^ bit;
      disk.plant(path, bytes);
      const found = await verifyImages(disk, FOLDER);
      expect(
        found.map(({ file }) => file),
        `${name} at ${at}`,
      ).toContain(path);
      bytes[at] = (bytes[at] ?? 0) ^ bit;
      disk.plant(path, bytes);
    }
  }
});

test('what could not be written to the spill is written to the next one', async () => {
  const disk = await newDisk();
  const memory = newMemory();
  const writer = new Writer(memory);
  const images = new MemoryImages(disk, FOLDER, memory);
  await writer.scrape(300);
  disk.fault = ({ kind }) => (kind === 'write' ? 'ENOSPC' : undefined);
  await expect(images.write(images.capture(writer.buffers, 1))).rejects.toMatchObject({ code: 'ENOSPC' });
  disk.fault = undefined;
  await images.write(images.capture(writer.buffers, 2));
  expect(await verifyImages(disk, FOLDER)).toEqual([]);
  const again = await restored(disk);
  expect(again?.notes).toBe(2);
  expect(contentOf(again?.buffers[0] as NamespaceBuffer)).toEqual(
    contentOf(writer.buffers[0] as NamespaceBuffer),
  );
});

test('after a power loss at any point of writing there is a whole image, the old one or the new', async () => {
  const memory = newMemory();
  const writer = new Writer(memory);
  await writer.scrape(150);
  const before = await newDisk();
  await before.syncFolder('/');
  const images = new MemoryImages(before, FOLDER, memory);
  await images.write(images.capture(writer.buffers, 'old'));
  const random = new SeededRandom(7);
  const clones: SimulatedDisk[] = [];
  await writer.scrape(100);
  before.onOperation = ({ kind, phase }) => {
    if (kind !== 'read' && kind !== 'list' && phase === 'after')
      clones.push(before.powerLoss(random.below(2 ** 31)));
  };
  await images.write(images.capture(writer.buffers, 'new'));
  const notes = new Set<unknown>();
  for (const clone of clones) notes.add((await restored(clone))?.notes);
  expect(notes).toEqual(new Set(['old', 'new']));
});

test('an image of other kernels, or larger than the memory, is not taken', async () => {
  const disk = await newDisk();
  const memory = newMemory();
  const writer = new Writer(memory);
  await writer.scrape(100);
  const images = new MemoryImages(disk, FOLDER, memory);
  await images.write(images.capture(writer.buffers, null));
  const small = await restoreImage(disk, FOLDER, { limitBytes: 1 << 20 });
  expect(small).toMatchObject({
    restored: undefined,
    refused: [{ reason: 'the memory limit is lower than it needs' }],
  });
  const path = `${FOLDER}/image-1.img`;
  const whole = await readWholeFile(disk, path);
  expect(whole.subarray(24, 56)).toEqual(memory.kernelHash);
  expect(await restoreImage(disk, '/nowhere', LIMIT)).toEqual({ restored: undefined, refused: [] });
});
