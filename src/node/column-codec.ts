import { readFileSync } from 'node:fs';
import { ColumnCodec } from '../storage/engine/sealed-series.ts';
import { Kernel, KERNEL_FILE } from '../storage/kernel/kernel.ts';

const LIMIT_BYTES = 1024 * 1024 * 1024;

/** What reads and writes the columns of filesets, for a process without an engine. */
export function columnCodec(): ColumnCodec {
  return new ColumnCodec(new Kernel(readFileSync(KERNEL_FILE), { limitBytes: LIMIT_BYTES }));
}
