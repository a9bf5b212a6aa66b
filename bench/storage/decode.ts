import { readFileSync } from 'node:fs';
import { KERNEL_FILE, Kernel } from '../../src/storage/kernel/kernel.ts';
import { checked } from '../../src/storage/kernel/kernel-fault.ts';
import { median } from '../measure.ts';
import { hostOf, timesOf, valuesOf, type DataSet } from '../storage-data.ts';
import { middle, short, Table } from './figures.ts';

const BLOCK = 480;
const CHUNK = 120;
const MAX_SERIES = 4000;

/** Nanoseconds a sample. */
export interface DecodeFigures {
  readonly columnNs: number;
  /** When every series has times of its own. */
  readonly ownNs: number;
  readonly xorNs: number;
}

interface Piece {
  readonly address: number;
  readonly sizeBytes: number;
}

/**
 * Sealed columns of two hours and XOR chunks of the same samples, decoded by the kernels. Series of one target share
 * their times in filesets, so times are decoded once a target; beside it stands what it costs when none are shared.
 * Processor time, of one thread.
 */
export function decodeFigures(set: DataSet, rounds: number): DecodeFigures {
  const kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 1 << 30 });
  const { calls } = kernel;
  const [raw, times, out, out2, scratch] = [0, 1, 2, 3, 4].map(() => kernel.allocate(64 << 10)) as [
    number,
    number,
    number,
    number,
    number,
  ];
  const keep = (sizeBytes: number): Piece => {
    const address = kernel.allocate(checked(sizeBytes));
    kernel.bytes.copyWithin(address, out, out + sizeBytes);
    return { address, sizeBytes };
  };
  const load = (column: BigInt64Array | Float64Array, to: number): void =>
    kernel.bytes.set(new Uint8Array(column.buffer, column.byteOffset, column.byteLength), to);
  const count = Math.min(set.series, MAX_SERIES);
  const series = Array.from({ length: count }, (_, i) => {
    const ms = timesOf(set, i).subarray(0, BLOCK);
    load(valuesOf(set, i).slice(0, BLOCK), raw);
    const values = keep(calls.encodeValues(raw, BLOCK, out, scratch));
    load(BigInt64Array.from(ms, BigInt), times);
    const chunks: Piece[] = [];
    for (let from = 0; from < BLOCK * 8; from += CHUNK * 8) {
      chunks.push(keep(calls.encodeXorChunk(times + from, raw + from, CHUNK, out)));
    }
    load(
      BigInt64Array.from(ms, (one) => BigInt(one) * 1_000_000n),
      times,
    );
    return { host: hostOf(i), values, times: keep(calls.encodeTimes(times, BLOCK, out, scratch)), chunks };
  });
  const columnNs: number[] = [];
  const privateNs: number[] = [];
  const xorNs: number[] = [];
  const timed = (into: number[], run: () => void): void => {
    const before = process.cpuUsage();
    run();
    const { user, system } = process.cpuUsage(before);
    into.push(((user + system) * 1000) / (count * BLOCK));
  };
  for (let round = 0; round < rounds * 4 + 2; round++) {
    for (const [into, shares] of [
      [columnNs, true],
      [privateNs, false],
    ] as const) {
      timed(into, () => {
        let host = -1;
        for (const one of series) {
          if (!shares || one.host !== host) {
            checked(calls.decodeTimes(one.times.address, one.times.sizeBytes, out2, BLOCK));
          }
          ({ host } = one);
          checked(calls.decodeValues(one.values.address, one.values.sizeBytes, BLOCK, out));
        }
      });
    }
    timed(xorNs, () => {
      for (const { chunks } of series) {
        for (const { address, sizeBytes } of chunks) {
          checked(calls.decodeXorChunk(address, sizeBytes, out, out2, CHUNK));
        }
      }
    });
  }
  // The first rounds are not compiled for speed yet.
  const [columns, own, chunks] = [columnNs.slice(2), privateNs.slice(2), xorNs.slice(2)];
  const table = new Table('decode by the kernels, values and times', ['ns/sample', 'M samples/s']);
  table.row('sealed columns, times shared', [middle(columns), short(1000 / median(columns))]);
  table.row('sealed columns, times of their own', [middle(own), short(1000 / median(own))]);
  table.row('XOR chunks', [middle(chunks), short(1000 / median(chunks))]);
  table.print();
  return { columnNs: median(columns), ownNs: median(own), xorNs: median(chunks) };
}
