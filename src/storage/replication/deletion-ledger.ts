import { join } from 'node:path';
import { hasCode, readWholeFile, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { decodeAt } from '../fileset/fileset-damage.ts';
import type { ReplicaDelete } from './replica-transport.ts';

export const LEDGER_FILE = 'deletions.db';
/** A write or a repair that comes later than this may bring back what was deleted. */
const KEPT_NS = 10n * 86_400n * 1_000_000_000n;
const MOST = 10_000;

/**
 * The deletions that this replica has carried out, for as long as older writes may still come: what was written before
 * a deletion is not taken after it, whether a hint or a repair brings it.
 */
export class DeletionLedger {
  readonly #fs: FileSystem;
  readonly #path: string;
  /** By stamp. */
  #deletions: readonly ReplicaDelete[] = [];

  private constructor(fs: FileSystem, path: string) {
    this.#fs = fs;
    this.#path = path;
  }

  /** @throws FILESET_DAMAGED: without it what was deleted could come back */
  static async open(fs: FileSystem, folder: string): Promise<DeletionLedger> {
    const path = join(folder, LEDGER_FILE);
    const ledger = new DeletionLedger(fs, path);
    try {
      const content = await readWholeFile(fs, path);
      ledger.#deletions = decodeAt(path, 0, () => {
        const { bodyEnd } = decodeCheckedFile(path, 'VRVDELET', content);
        return decodeDeletions(content.subarray(FILE_HEADER_BYTES, bodyEnd));
      });
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error;
    }
    return ledger;
  }

  get all(): readonly ReplicaDelete[] {
    return this.#deletions;
  }

  of(namespaces: readonly string[]): readonly ReplicaDelete[] {
    return this.#deletions.filter(({ namespace }) => namespaces.includes(namespace));
  }

  has({ namespace, stamp }: Pick<ReplicaDelete, 'namespace' | 'stamp'>): boolean {
    return this.#deletions.some((one) => one.stamp === stamp && one.namespace === namespace);
  }

  /** Those that what was written with this version must not survive. */
  after(namespace: string, stamp: bigint): readonly ReplicaDelete[] {
    const newest = this.#deletions.at(-1);
    if (!newest || newest.stamp < stamp) return NONE;
    return this.#deletions.filter((one) => one.stamp > stamp && one.namespace === namespace);
  }

  /** Durable when it resolves. Calls must not overlap. */
  async add(deletion: ReplicaDelete, nowNs: bigint): Promise<void> {
    const kept = this.#deletions.filter(({ stamp }) => stamp > nowNs - KEPT_NS);
    const deletions = [...kept, deletion].sort((a, b) => (a.stamp < b.stamp ? -1 : 1)).slice(-MOST);
    await writeFileAtomically(
      this.#fs,
      this.#path,
      encodeCheckedFile('VRVDELET', 0, encodeDeletions(deletions)),
    );
    this.#deletions = deletions;
  }
}

const NONE: readonly ReplicaDelete[] = [];

export function encodeDeletions(deletions: readonly ReplicaDelete[]): Buffer {
  return Buffer.from(
    JSON.stringify(
      deletions.map(({ namespace, stamp, startNs, endNs, selectors }) => [
        namespace,
        String(stamp),
        String(startNs),
        String(endNs),
        selectors,
      ]),
    ),
  );
}

export function decodeDeletions(bytes: Uint8Array): ReplicaDelete[] {
  const plain = JSON.parse(Buffer.from(bytes).toString()) as [
    string,
    string,
    string,
    string,
    ReplicaDelete['selectors'],
  ][];
  return plain.map(([namespace, stamp, startNs, endNs, selectors]) => ({
    namespace,
    stamp: BigInt(stamp),
    startNs: BigInt(startNs),
    endNs: BigInt(endNs),
    selectors,
  }));
}
