import { join } from 'node:path';
import { hasCode, makeFolders, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { decodeAt, FileDamageError, FormatFault } from '../fileset/fileset-damage.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import type { LabelPair } from '../index/labels.ts';
import { labelMatcher, type LabelMatcher, type MatchOperator } from '../index/matcher.ts';
import { withoutRange, type Columns } from './columns.ts';

/** What was written before `version` of the series that match is deleted in [startNs, endNs). */
export interface Tombstone {
  readonly version: bigint;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly selectors: readonly (readonly LabelMatcher[])[];
}

export const TOMBSTONE_FOLDER = 'tombstones';

/**
 * The deletions of a namespace that its filesets do not have yet. The log has each of them, too; what the log forgets
 * must have been saved here before.
 */
export class TombstoneSet {
  readonly #fs: FileSystem;
  readonly #folder: string;
  readonly #namespace: string;
  #tombstones: readonly Tombstone[] = [];
  #unsaved = false;

  constructor(fs: FileSystem, folder: string, namespace: string) {
    this.#fs = fs;
    this.#folder = folder;
    this.#namespace = namespace;
  }

  get all(): readonly Tombstone[] {
    return this.#tombstones;
  }

  /** 0 when there is none. */
  get newestVersion(): bigint {
    return this.#tombstones.at(-1)?.version ?? 0n;
  }

  /** @throws FILESET_DAMAGED: deleted data would come back, so nobody may go on without knowing */
  async load(): Promise<void> {
    const file = this.#path;
    const [content] = await this.#fs.readFiles([file]);
    if (!(content instanceof Buffer)) {
      if (hasCode(content, 'ENOENT')) return;
      throw content ?? new Error('no content');
    }
    this.#tombstones = decodeAt(file, 0, () => {
      const { bodyEnd } = decodeCheckedFile(file, 'VRVTOMBS', content);
      return decodeTombstones(content.subarray(FILE_HEADER_BYTES, bodyEnd));
    });
  }

  /** Does nothing for one that is there. In the order of versions. */
  add(tombstone: Tombstone): void {
    if (this.#tombstones.some(({ version }) => version === tombstone.version)) return;
    this.#tombstones = [...this.#tombstones, tombstone].sort((a, b) => (a.version < b.version ? -1 : 1));
    this.#unsaved = true;
  }

  /** Of these there is nothing left to delete. */
  retire(isDone: (tombstone: Tombstone) => boolean): number {
    const left = this.#tombstones.filter((tombstone) => !isDone(tombstone));
    const retired = this.#tombstones.length - left.length;
    if (retired > 0) {
      this.#tombstones = left;
      this.#unsaved = true;
    }
    return retired;
  }

  /** All of them are durable without the log when it resolves. */
  async save(): Promise<void> {
    if (!this.#unsaved) return;
    const saved = this.#tombstones;
    await makeFolders(this.#fs, this.#folder, [TOMBSTONE_FOLDER]);
    await writeFileAtomically(
      this.#fs,
      this.#path,
      encodeCheckedFile('VRVTOMBS', 0, encodeTombstones(saved)),
    );
    if (saved === this.#tombstones) this.#unsaved = false;
  }

  async remove(): Promise<void> {
    await removeIfThere(this.#fs, this.#path);
  }

  /** Those that a fileset has not seen and that reach into the range. */
  after(version: bigint, startNs: bigint, endNs: bigint): readonly Tombstone[] {
    if (this.#tombstones.length === 0) return this.#tombstones;
    return this.#tombstones.filter(
      (tombstone) => tombstone.version > version && tombstone.startNs < endNs && startNs < tombstone.endNs,
    );
  }

  get #path(): string {
    return join(this.#folder, TOMBSTONE_FOLDER, `${this.#namespace}.db`);
  }
}

/** What is left of the samples of a series. */
export function bury(
  columns: Columns,
  labels: readonly LabelPair[],
  tombstones: readonly Tombstone[],
): Columns {
  let left = columns;
  for (const { selectors, startNs, endNs } of tombstones) {
    if (selectors.some((selector) => accepts(selector, labels))) left = withoutRange(left, startNs, endNs);
  }
  return left;
}

function accepts(selector: readonly LabelMatcher[], labels: readonly LabelPair[]): boolean {
  return selector.every((matcher) => {
    const label = labels.find(([name]) => name === matcher.name);
    return matcher.matches(label?.[1] ?? '');
  });
}

type Plain = [
  version: string,
  startNs: string,
  endNs: string,
  selectors: [string, MatchOperator, string][][],
];

export function encodeTombstones(tombstones: readonly Tombstone[]): Buffer {
  const plain = tombstones.map(({ version, startNs, endNs, selectors }): Plain => [
    String(version),
    String(startNs),
    String(endNs),
    selectors.map((selector) => selector.map(({ name, operator, value }) => [name, operator, value])),
  ]);
  return Buffer.from(JSON.stringify(plain));
}

/** @throws FormatFault */
export function decodeTombstones(bytes: Uint8Array): Tombstone[] {
  try {
    return (JSON.parse(Buffer.from(bytes).toString()) as Plain[]).map(
      ([version, startNs, endNs, selectors]) => ({
        version: BigInt(version),
        startNs: BigInt(startNs),
        endNs: BigInt(endNs),
        selectors: selectors.map((selector) =>
          selector.map(([name, operator, value]) => labelMatcher(name, operator, value)),
        ),
      }),
    );
  } catch (error) {
    if (error instanceof FileDamageError) throw error;
    throw new FormatFault(0, `its content are no deletions: ${String(error)}`);
  }
}
