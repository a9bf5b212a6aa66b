import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import { hasCode, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { decodeAt, FileDamageError, FormatFault, type FileDamage } from '../fileset/fileset-damage.ts';
import { namespaceOptions } from './namespace-options.ts';
import type { NamespaceOptions } from './storage-engine.ts';
import type { StoredTopology } from './stored-topology.ts';

/** A namespace under the number that the log knows it by; a namespace made anew has another one. */
export interface CatalogEntry {
  readonly id: number;
  readonly options: NamespaceOptions;
}

export interface CatalogContent {
  readonly shardCount: number;
  /** Of the next namespace: numbers are not used again. */
  readonly nextId: number;
  readonly namespaces: readonly CatalogEntry[];
  /** This node was ready once: its shards are not new, and what it has lost cannot be taken for nothing. */
  readonly everAvailable: boolean;
  /** Which shards are this node's; absent while it stands alone. */
  readonly topology?: StoredTopology;
  /** Deleted, but their files may not be gone yet. */
  readonly deleted: readonly { readonly id: number; readonly name: string }[];
}

interface Stored extends CatalogContent {
  readonly generation: number;
}

/** Two copies, so that one flipped bit does not cost the node. */
export const CATALOG_FILES = ['catalog-0.db', 'catalog-1.db'] as const;

/**
 * Which namespaces there are, durably. What is in the catalog decides: data of namespaces that it does not name is
 * left over.
 */
export class Catalog {
  readonly #fs: FileSystem;
  readonly #folder: string;
  #stored: Stored;

  private constructor(fs: FileSystem, folder: string, stored: Stored) {
    this.#fs = fs;
    this.#folder = folder;
    this.#stored = stored;
  }

  /**
   * Reads it, or makes it in a folder that has none.
   * @throws FILESET_DAMAGED when both copies are, STORAGE_FOLDER_MISMATCH for another number of shards
   */
  static async open(fs: FileSystem, folder: string, shardCount: number): Promise<Catalog> {
    const { copies, damages } = await readCopies(fs, folder);
    const newest = copies.sort((a, b) => b.generation - a.generation)[0];
    if (!newest) {
      const [damage] = damages;
      if (damage) throw new FileDamageError(damage);
      const catalog = new Catalog(fs, folder, {
        generation: 0,
        shardCount,
        nextId: 1,
        namespaces: [],
        everAvailable: false,
        deleted: [],
      });
      await catalog.change(catalog.content);
      return catalog;
    }
    if (newest.shardCount !== shardCount) {
      throw new VarveError(
        'STORAGE_FOLDER_MISMATCH',
        `the data in ${folder} has ${newest.shardCount} shards, the configuration says ${shardCount}`,
        { hint: `Configure ${newest.shardCount} shards, or use another folder.` },
      );
    }
    return new Catalog(fs, folder, newest);
  }

  get content(): CatalogContent {
    return this.#stored;
  }

  /** Durable when it resolves; as it was when it throws (or the other, after a crash). */
  async change(content: CatalogContent): Promise<void> {
    const stored: Stored = { ...content, generation: this.#stored.generation + 1 };
    for (const name of CATALOG_FILES)
      await writeFileAtomically(this.#fs, join(this.#folder, name), encode(stored));
    this.#stored = stored;
  }
}

/** What is wrong with the copies; an absent one is nothing wrong in a folder that has none. */
export async function catalogDamage(fs: FileSystem, folder: string): Promise<readonly FileDamage[]> {
  return (await readCopies(fs, folder)).damages;
}

async function readCopies(
  fs: FileSystem,
  folder: string,
): Promise<{ copies: Stored[]; damages: readonly FileDamage[] }> {
  const files = CATALOG_FILES.map((name) => join(folder, name));
  const copies: Stored[] = [];
  const damages: FileDamage[] = [];
  for (const [index, content] of (await fs.readFiles(files)).entries()) {
    const file = files[index] ?? '';
    if (!(content instanceof Buffer)) {
      if (hasCode(content, 'ENOENT')) continue;
      damages.push({ file, offset: 0, reason: 'the disk cannot read it' });
      continue;
    }
    try {
      copies.push(decodeAt(file, 0, () => decode(file, content)));
    } catch (error) {
      if (!(error instanceof FileDamageError)) throw error;
      damages.push(error.damage);
    }
  }
  return { copies, damages };
}

function encode(stored: Stored): Buffer {
  const text = JSON.stringify(stored, (_, value: unknown) =>
    typeof value === 'bigint' ? `${value}` : value,
  );
  return encodeCheckedFile('VRVCATLG', 0, Buffer.from(text));
}

function decode(file: string, bytes: Buffer): Stored {
  const { bodyEnd } = decodeCheckedFile(file, 'VRVCATLG', bytes);
  try {
    const stored = JSON.parse(bytes.toString('utf8', FILE_HEADER_BYTES, bodyEnd)) as Stored;
    const namespaces = stored.namespaces.map(({ id, options }) => ({ id, options: revived(options) }));
    return { ...stored, namespaces };
  } catch (error) {
    throw new FormatFault(FILE_HEADER_BYTES, `its content is no catalog: ${String(error)}`);
  }
}

/** Options that came later have their defaults. */
function revived(options: NamespaceOptions): NamespaceOptions {
  const fields = Object.entries(options).map(
    ([field, value]: [string, unknown]) =>
      [field, field.endsWith('Ns') ? BigInt(String(value)) : value] as const,
  );
  return namespaceOptions(Object.fromEntries(fields) as unknown as NamespaceOptions);
}
