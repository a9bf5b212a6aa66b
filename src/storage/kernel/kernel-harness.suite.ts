import { existsSync, readFileSync } from 'node:fs';
import { type Address, KERNEL_FILE, Kernel } from './kernel.ts';
import { KernelFault, type KernelFaultName, checked } from './kernel-fault.ts';
import { type Samples } from './xor-chunk.ts';

const REGION_BYTES = 1 << 20;

/** The kernels as functions over arrays, in the shape of their plain counterparts. */
export class KernelHarness {
  readonly kernel: Kernel;
  readonly #regions: Address[];

  constructor(limitBytes = 64 << 20) {
    if (!existsSync(KERNEL_FILE)) throw new Error('no build/kernel.wasm: run `node bin/prepare.js --dev`');
    this.kernel = new Kernel(readFileSync(KERNEL_FILE), { limitBytes });
    this.#regions = [0, 1, 2, 3].map(() => this.kernel.allocate(REGION_BYTES));
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

  decodeValues(bytes: Uint8Array, count: number): BigUint64Array {
    const out = this.region(1);
    checked(this.kernel.calls.decodeValues(this.put(0, bytes), bytes.length, count, out));
    return new BigUint64Array(this.take(out, count * 8).buffer);
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
    const count = checked(this.kernel.calls.decodeTimes(this.put(0, bytes), bytes.length, out, capacity));
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
    const count = checked(
      this.kernel.calls.decodeXorChunk(this.put(0, bytes), bytes.length, times, values, capacity),
    );
    return {
      times: new BigInt64Array(this.take(times, count * 8).buffer),
      values: new BigUint64Array(this.take(values, count * 8).buffer),
    };
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
