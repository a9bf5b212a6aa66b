import { KernelFault, type KernelFaultName } from './kernel-fault.ts';
import { canonicalLabels } from './remote-write.ts';

/**
 * The plain counterpart of `assembly/series-table.ts`: series by their canonical labels, numbered from 0 up in
 * the order in which they were first seen.
 */
export class SeriesTable {
  readonly #maxSeries: number;
  readonly #references = new Map<string, number>();

  constructor(maxSeries: number) {
    this.#maxSeries = maxSeries;
  }

  get count(): number {
    return this.#references.size;
  }

  /** The canonical labels, by reference. */
  get series(): readonly Uint8Array[] {
    return [...this.#references.keys()].map((key) => Buffer.from(key, 'hex'));
  }

  /** A reference, or why the labels have none. */
  resolve(labels: Uint8Array, creates: boolean): number | KernelFaultName {
    try {
      const key = Buffer.from(canonicalLabels(labels)).toString('hex');
      const known = this.#references.get(key);
      if (known !== undefined) return known;
      if (!creates) return 'BAD_REFERENCE';
      if (this.count === this.#maxSeries) return 'TOO_LARGE';
      this.#references.set(key, this.count);
      return this.count - 1;
    } catch (error) {
      if (error instanceof KernelFault) return error.fault;
      throw error;
    }
  }
}
