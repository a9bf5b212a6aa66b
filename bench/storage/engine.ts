import type { DataSet } from '../storage-data.ts';

export async function engineFigures(
  _folder: string,
  _set: DataSet,
  _rounds: number,
): Promise<{
  bytesPerSample: number;
  indexBytesPerSample: number;
  readMs: number;
  startMs: number;
  bareNodeMs: number;
}> {
  return { bytesPerSample: NaN, indexBytesPerSample: NaN, readMs: NaN, startMs: NaN, bareNodeMs: NaN };
}
