import { existsSync, readFileSync } from 'node:fs';
import { type Address, ENTRY, KERNEL_FILE, Kernel, PAGE_ROW } from './kernel.ts';
import { KernelFault, type KernelFaultName, checked } from './kernel-fault.ts';
import { type WalkLimits2 } from './remote-write-2.ts';
import { type WalkLimits, type WalkedRequest } from './remote-write.ts';
import { type PageSeries } from './series-page.ts';
import { type Samples } from './xor-chunk.ts';

const REGION_BYTES = 1 << 20;

/** The kernels as functions over arrays, in the shape of their plain counterparts. */
export class KernelHarness {
  readonly kernel: Kernel;
  readonly #regions: Address[];

  constructor(limitBytes = 64 << 20) {
    if (!existsSync(KERNEL_FILE)) throw new Error('no build/kernel.wasm: run `node bin/prepare.js --dev`');
    this.kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes });
    this.#regions = [0, 1, 2, 3, 4, 5].map(() => this.kernel.allocate(REGION_BYTES));
  }

  region(index: number): Address {
    const address = this.#regions[index];
    if (address === undefined) throw new Error(`no region ${index}`);
    return address;
  }

  /** Puts bytes into a region, and dirt behind them. */
  put(index: number, data: ArrayBufferView): Address {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.length > REGION_BYTES - 64) throw new Error(`${bytes.length} bytes do not fit a region`);
    const address = this.region(index);
    this.kernel.bytes.fill(0xa5, address + bytes.length, address + bytes.length + 64);
    this.kernel.bytes.set(bytes, address);
    return address;
  }

  /** Runs a kernel and proves that it wrote nothing behind the room that it may use. */
  #guarded(out: Address, roomBytes: number, run: () => number): number {
    const [from, to] = [out + roomBytes, out + roomBytes + 4096];
    this.kernel.bytes.fill(0xc3, from, to);
    const result = run();
    if (this.kernel.bytes.subarray(from, to).some((byte) => byte !== 0xc3)) {
      throw new Error(`a kernel wrote behind the ${roomBytes} bytes of its output`);
    }
    return checked(result);
  }

  take(address: Address, sizeBytes: number): Uint8Array {
    return this.kernel.bytes.slice(address, address + sizeBytes);
  }

  encodeValues(values: BigUint64Array): Uint8Array {
    const { calls } = this.kernel;
    const [out, scratch] = [this.region(1), this.region(2)];
    const size = checked(calls.encodeValues(this.put(0, values), values.length, out, scratch));
    if (size > calls.maxValueColumnBytes(values.length)) throw new Error(`${size} bytes are too many`);
    return this.take(out, size);
  }

  encodeValuesLike(values: BigUint64Array, like: Uint8Array): Uint8Array {
    const { calls } = this.kernel;
    const [out, scratch] = [this.region(1), this.region(2)];
    const [from, likeAt] = [this.put(0, values), this.put(3, like)];
    const size = checked(calls.encodeValuesLike(from, values.length, out, scratch, likeAt));
    if (size > calls.maxValueColumnBytes(values.length)) throw new Error(`${size} bytes are too many`);
    return this.take(out, size);
  }

  decodeValues(bytes: Uint8Array, count: number): BigUint64Array {
    const out = this.region(1);
    this.#guarded(out, (count + 4) * 8, () =>
      this.kernel.calls.decodeValues(this.put(0, bytes), bytes.length, count, out),
    );
    return new BigUint64Array(this.take(out, count * 8).buffer);
  }

  decodeSeriesPage(
    payloads: readonly Uint8Array[],
    counts: Uint32Array,
    capacity: number,
  ): (PageSeries | undefined)[] {
    const table = new Uint32Array(payloads.length * PAGE_ROW.length);
    let offset = 0;
    for (const [i, { length }] of payloads.entries()) {
      table.set([offset, length], i * PAGE_ROW.length);
      offset += length;
    }
    const out = this.region(3);
    const rows = this.put(0, table);
    const samples = this.#guarded(out, (capacity + 4) * 8, () =>
      this.kernel.calls.decodeSeriesPage(
        rows,
        payloads.length,
        this.put(1, Buffer.concat(payloads)),
        this.put(2, counts),
        counts.length,
        out,
        capacity,
      ),
    );
    const found = new Int32Array(this.take(rows, table.byteLength).buffer);
    const values = new BigUint64Array(this.take(out, samples * 8).buffer);
    return payloads.map((_, i) => {
      const number = found[i * PAGE_ROW.length + PAGE_ROW.number] as number;
      const first = found[i * PAGE_ROW.length + PAGE_ROW.first] as number;
      return number < 0 ? undefined : { number, values: values.slice(first, first + (counts[number] ?? 0)) };
    });
  }

  encodeTimes(times: BigInt64Array): Uint8Array {
    const { calls } = this.kernel;
    const [out, scratch] = [this.region(1), this.region(2)];
    const size = checked(calls.encodeTimes(this.put(0, times), times.length, out, scratch));
    if (size > calls.maxTimeColumnBytes(times.length)) throw new Error(`${size} bytes are too many`);
    return this.take(out, size);
  }

  decodeTimes(bytes: Uint8Array, capacity: number): BigInt64Array {
    const out = this.region(1);
    const count = this.#guarded(out, (capacity + 4) * 8, () =>
      this.kernel.calls.decodeTimes(this.put(0, bytes), bytes.length, out, capacity),
    );
    return new BigInt64Array(this.take(out, count * 8).buffer);
  }

  encodeXorChunk({ times, values }: Samples): Uint8Array {
    const { calls } = this.kernel;
    const out = this.region(2);
    const size = checked(calls.encodeXorChunk(this.put(0, times), this.put(1, values), times.length, out));
    if (size > calls.maxXorChunkBytes(times.length)) throw new Error(`${size} bytes are too many`);
    return this.take(out, size);
  }

  decodeXorChunk(bytes: Uint8Array, capacity: number): Samples {
    const [times, values] = [this.region(1), this.region(2)];
    const count = this.#guarded(values, capacity * 8, () =>
      this.kernel.calls.decodeXorChunk(this.put(0, bytes), bytes.length, times, values, capacity),
    );
    return {
      times: new BigInt64Array(this.take(times, count * 8).buffer),
      values: new BigUint64Array(this.take(values, count * 8).buffer),
    };
  }

  decodeSnappy(bytes: Uint8Array, capacity: number): Uint8Array {
    const out = this.region(1);
    const size = this.#guarded(out, capacity + 16, () =>
      this.kernel.calls.decodeSnappy(this.put(0, bytes), bytes.length, out, capacity),
    );
    return this.take(out, size);
  }

  encodeSnappy(bytes: Uint8Array): Uint8Array {
    const { calls } = this.kernel;
    const size = checked(
      calls.encodeSnappy(this.put(0, bytes), bytes.length, this.region(1), this.region(2)),
    );
    if (size > calls.maxSnappyBytes(bytes.length)) throw new Error(`${size} bytes are too many`);
    return this.take(this.region(1), size);
  }

  walkWriteRequest(body: Uint8Array, { maxSeries, maxSamples }: WalkLimits): WalkedRequest {
    const [from, entries, times, values, spare] = [this.put(0, body), ...this.#outputs()];
    return this.#walked(
      this.kernel.calls.walkWriteRequest(
        from,
        body.length,
        entries,
        maxSeries,
        times,
        values,
        maxSamples,
        spare,
      ),
    );
  }

  walkWriteRequest2(body: Uint8Array, limits: WalkLimits2): WalkedRequest {
    const [from, entries, times, values, spare] = [this.put(0, body), ...this.#outputs()];
    const count = this.#guarded(spare, limits.maxLabelBytes + 16, () =>
      this.kernel.calls.walkWriteRequest2(
        from,
        body.length,
        entries,
        limits.maxSeries,
        times,
        values,
        limits.maxSamples,
        this.region(5),
        limits.maxSymbols,
        spare,
        limits.maxLabelBytes,
      ),
    );
    return this.#walked(count);
  }

  #outputs(): [Address, Address, Address, Address] {
    return [this.region(1), this.region(2), this.region(3), this.region(4)];
  }

  /** What a walk put into the outputs. */
  #walked(result: number): WalkedRequest {
    const { calls } = this.kernel;
    const count = checked(result);
    const [entries, times, values] = this.#outputs();
    const entry = new Uint32Array(this.take(entries, count * 4 * ENTRY.length).buffer);
    const allTimes = new BigInt64Array(this.take(times, calls.walkedSamples() * 8).buffer);
    const allValues = new BigUint64Array(this.take(values, calls.walkedSamples() * 8).buffer);
    return {
      series: Array.from({ length: count }, (_, i) => {
        const at = (place: number): number => entry[i * ENTRY.length + place] ?? 0;
        const samples = [at(ENTRY.firstSample), at(ENTRY.firstSample) + at(ENTRY.samples)];
        return {
          labels: this.take(at(ENTRY.labels), at(ENTRY.labelsBytes)),
          times: Array.from(allTimes.subarray(...samples)),
          values: Array.from(allValues.subarray(...samples)),
        };
      }),
      exemplars: calls.walkedExemplars(),
      histograms: calls.walkedHistograms(),
    };
  }

  isPlainlyCanonical(labels: Uint8Array): boolean {
    return this.kernel.calls.isPlainlyCanonical(this.put(0, labels), labels.length) === 1;
  }

  canonicalLabels(labels: Uint8Array): Uint8Array {
    const out = this.region(1);
    const size = this.kernel.calls.canonicalLabels(this.put(0, labels), labels.length, out);
    return this.take(out, checked(size));
  }
}

/** What a call results in: its value, or the fault it ends with. */
export function outcome<T>(call: () => T): { value: T } | { fault: KernelFaultName } {
  try {
    return { value: call() };
  } catch (error) {
    if (error instanceof KernelFault) return { fault: error.fault };
    throw error;
  }
}

/** The fault of a call, or undefined when it succeeds. */
export function faultOf(call: () => unknown): KernelFaultName | undefined {
  const result = outcome(call);
  return 'fault' in result ? result.fault : undefined;
}
