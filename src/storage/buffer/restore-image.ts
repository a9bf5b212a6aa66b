import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { hasCode, type File, type FileSystem } from '../../core/file-system.ts';
import { BufferMemory, type BufferMemoryOptions } from './buffer-memory.ts';
import {
  decodeImageHead,
  IMAGE_PAGE_BYTES,
  pagesOffset,
  readImageHead,
  STALE,
  type ImageHead,
} from './image-head.ts';
import { imageName, imageNumbers, MemoryImages, spillName, type ImageMeta } from './memory-image.ts';
import type { BufferState } from './namespace-buffer.ts';

export interface RestoredImage {
  readonly memory: BufferMemory;
  /** For the next images of this memory. */
  readonly images: MemoryImages;
  /** For `NamespaceBuffer.restore`, in the order in which they were captured. */
  readonly buffers: readonly BufferState[];
  readonly notes: unknown;
}

export interface RestoreReport {
  readonly restored: RestoredImage | undefined;
  /** Of each image that was not taken, why. */
  readonly refused: readonly { readonly file: string; readonly reason: string }[];
}

/** Pages that lie side by side in memory and file, read at once. */
interface Run {
  readonly isSpilled: boolean;
  readonly address: number;
  readonly page: number;
  readonly checksums: number[];
}

const MAX_RUN_PAGES = 64;
const READERS = 4;
/** To hand as many to another thread takes longer than to read them. */
const READ_NOW_PAGES = 4;
/** So long they are read before other work gets its turn. */
const SLICE_MS = 5;

class Refusal extends Error {}

/** Makes memory what the newest image in the folder says that fits these kernels and is whole. */
export async function restoreImage(
  fs: FileSystem,
  folder: string,
  options: BufferMemoryOptions,
): Promise<RestoreReport> {
  const refused: { file: string; reason: string }[] = [];
  for (const number of await imageNumbers(fs, folder)) {
    const file = join(folder, imageName(number));
    try {
      return { restored: await restore(fs, folder, number, options), refused };
    } catch (error) {
      if (!(error instanceof Refusal) && !hasCode(error, 'ENOENT', 'EIO')) throw error;
      refused.push({ file, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return { restored: undefined, refused };
}

async function restore(
  fs: FileSystem,
  folder: string,
  number: number,
  options: BufferMemoryOptions,
): Promise<RestoredImage> {
  const path = join(folder, imageName(number));
  await using file = await fs.open(path, 'read');
  const bytes = await readImageHead(file);
  const head = typeof bytes === 'string' ? undefined : decodeImageHead(bytes);
  if (head === undefined) throw new Refusal('its head is damaged, or another version wrote it');
  const memory = new BufferMemory(options);
  if (!head.kernelHash.equals(memory.kernelHash)) throw new Refusal('other kernels made it');
  const meta = JSON.parse(head.meta.toString()) as ImageMeta;
  const { end, pages, serial, free } = meta.allocator;
  if (memory.kernel.calls.restoreAllocator(end, pages, serial) === 0) {
    throw new Refusal('the memory limit is lower than it needs');
  }
  const offset = pagesOffset(head.meta.length, head.pages.length);
  const runs = runsOf(head);
  const own = runs.filter(({ isSpilled }) => !isSpilled);
  const spilled = runs.filter(({ isSpilled }) => isSpilled);
  await readRuns(file, own, offset, memory);
  if (spilled.length > 0) {
    await using spill = await fs.open(join(folder, spillName(meta.spill)), 'read');
    await readRuns(spill, spilled, 0, memory);
  }
  for (const page of [...free].reverse()) memory.kernel.calls.addFreePage(page);
  memory.space.adopt(meta.regions);
  const images = new MemoryImages(fs, folder, memory);
  images.adopt(number, meta.spill, head.pages);
  return { memory, images, buffers: meta.buffers, notes: meta.notes };
}

/** Joins pages that follow each other in memory and in their file. */
function runsOf({ pages }: ImageHead): Run[] {
  const runs: Run[] = [];
  let last: Run | undefined;
  const needed = pages.filter(({ address }) => address !== STALE);
  for (const { address, isSpilled, page, checksum } of needed.sort((a, b) => a.address - b.address)) {
    const length = last?.checksums.length ?? 0;
    const follows =
      last !== undefined &&
      length < MAX_RUN_PAGES &&
      last.isSpilled === isSpilled &&
      last.address + length * IMAGE_PAGE_BYTES === address &&
      last.page + length === page;
    if (follows) last?.checksums.push(checksum);
    else runs.push((last = { isSpilled, address, page, checksums: [checksum] }));
  }
  return runs;
}

/** Reads straight into the kernel's memory, several runs at a time. */
async function readRuns(
  file: File,
  runs: readonly Run[],
  offset: number,
  memory: BufferMemory,
): Promise<void> {
  const { buffer } = memory.kernel.bytes;
  let next = 0;
  let sliceEndMs = performance.now() + SLICE_MS;
  const readSome = async (): Promise<void> => {
    for (let run = runs[next++]; run !== undefined; run = runs[next++]) {
      const { address, page, checksums } = run;
      const into = Buffer.from(buffer, address, checksums.length * IMAGE_PAGE_BYTES);
      const position = offset + page * IMAGE_PAGE_BYTES;
      const isShort = checksums.length <= READ_NOW_PAGES;
      const readBytes =
        (isShort ? file.readNow?.(position, into) : undefined) ??
        (await file.read(position, into.length, into)).length;
      if (readBytes < into.length) throw new Refusal('a page is cut off');
      check(into, checksums);
      if (performance.now() < sliceEndMs) continue;
      await nextTurn();
      sliceEndMs = performance.now() + SLICE_MS;
    }
  };
  await Promise.all(Array.from({ length: READERS }, readSome));
}

function check(bytes: Buffer, checksums: readonly number[]): void {
  for (const [i, checksum] of checksums.entries()) {
    const page = bytes.subarray(i * IMAGE_PAGE_BYTES, (i + 1) * IMAGE_PAGE_BYTES);
    if (crc32(page) !== checksum) throw new Refusal('a page does not match its checksum');
  }
}
