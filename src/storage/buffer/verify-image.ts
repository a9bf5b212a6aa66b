import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { messageOf } from '../../core/errors.ts';
import { hasCode, type File, type FileSystem } from '../../core/file-system.ts';
import type { FileDamage } from '../fileset/fileset-damage.ts';
import {
  decodeImageHead,
  headEnd,
  IMAGE_PAGE_BYTES,
  pagesOffset,
  readImageHead,
  type PagePlace,
} from './image-head.ts';
import { imageName, imageNumbers, spillName, type ImageMeta } from './memory-image.ts';

/**
 * What of the images in a folder, and of the spill beside them, is not as it was written: every byte is read, also of
 * pages that nothing needs any more. Changes nothing; an image that is removed meanwhile is not looked at.
 */
export async function verifyImages(fs: FileSystem, folder: string): Promise<FileDamage[]> {
  const found: FileDamage[] = [];
  for (const number of await imageNumbers(fs, folder)) {
    const path = join(folder, imageName(number));
    const damages: FileDamage[] = [];
    try {
      await verifyImage(fs, folder, number, damages);
    } catch (error) {
      if (!hasCode(error, 'EIO', 'ENOENT')) throw error;
      damages.push({ file: path, offset: 0, reason: `it cannot be read: ${messageOf(error)}` });
    }
    // One that was superseded takes its spill along.
    if (damages.length > 0 && (await fs.stat(path))) found.push(...damages);
  }
  return found;
}

async function verifyImage(
  fs: FileSystem,
  folder: string,
  number: number,
  damages: FileDamage[],
): Promise<void> {
  const path = join(folder, imageName(number));
  await using file = await fs.open(path, 'read');
  const tell = (offset: number, reason: string): void => {
    damages.push({ file: path, offset, reason });
  };
  const bytes = await readImageHead(file);
  if (bytes === 'unknown') return;
  const head = bytes === 'damaged' ? undefined : decodeImageHead(bytes);
  if (bytes === 'damaged' || head === undefined) {
    tell(0, 'its head does not match its checksums');
    return;
  }
  const { meta, pages } = head;
  const begin = pagesOffset(meta.length, pages.length);
  const used = headEnd(head);
  if (bytes.subarray(used).some((byte) => byte !== 0)) tell(used, 'its padding is not zero');
  const own = pages.filter(({ isSpilled }) => !isSpilled);
  const sizeBytes = await file.sizeBytes();
  const endsAt = begin + own.length * IMAGE_PAGE_BYTES;
  if (sizeBytes !== endsAt)
    tell(Math.min(sizeBytes, endsAt), `it has ${sizeBytes} bytes instead of ${endsAt}`);
  damages.push(...(await verifyPages(file, own, begin)));
  const spilled = pages.filter(({ isSpilled }) => isSpilled);
  if (spilled.length === 0) return;
  const { spill: spillNumber } = JSON.parse(meta.toString()) as ImageMeta;
  await using spill = await fs.open(join(folder, spillName(spillNumber)), 'read');
  damages.push(...(await verifyPages(spill, spilled, 0)));
}

async function verifyPages(file: File, pages: readonly PagePlace[], begin: number): Promise<FileDamage[]> {
  const damages: FileDamage[] = [];
  for (const { page, checksum } of pages) {
    const offset = begin + page * IMAGE_PAGE_BYTES;
    const bytes = await file.read(offset, IMAGE_PAGE_BYTES);
    if (bytes.length === IMAGE_PAGE_BYTES && crc32(bytes) === checksum) continue;
    const reason =
      bytes.length < IMAGE_PAGE_BYTES ? 'a page is cut off' : 'a page does not match its checksum';
    damages.push({ file: file.path, offset, reason });
  }
  return damages;
}
