import { join } from 'node:path';
import { hasCode, type FileSystem } from '../../core/file-system.ts';

const NAME = /^segment-(\d{12,15})\.log$/;

export function segmentPath(folder: string, segment: number): string {
  return join(folder, `segment-${String(segment).padStart(12, '0')}.log`);
}

/** Numbers of the segments that are there, ascending. An absent folder has none. */
export async function listSegments(fs: FileSystem, folder: string): Promise<number[]> {
  const entries = await fs.list(folder).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return [];
    throw error;
  });
  return entries
    .flatMap(({ name, kind }) => {
      const digits = kind === 'file' ? NAME.exec(name)?.[1] : undefined;
      return digits === undefined ? [] : [Number(digits)];
    })
    .sort((a, b) => a - b);
}
