import { join } from 'node:path';
import {
  hasCode,
  makeFolders,
  readWholeFile,
  writeFileAtomically,
  type FileSystem,
} from '../../core/file-system.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';

const FOLDER = 'restores';

/**
 * Says that a namespace is being filled from a backup, from before the first fileset until the last one is indexed: what
 * it has by then is of that backup, so that a restore that was interrupted goes on, and others do not begin.
 */
export class RestoreMarks {
  readonly #fs: FileSystem;
  readonly #folder: string;

  /** @param folder the engine's */
  constructor(fs: FileSystem, folder: string) {
    this.#fs = fs;
    this.#folder = folder;
  }

  /** The backup; one of a namespace that was deleted meanwhile does not count. */
  async read({ name, id }: { readonly name: string; readonly id: number }): Promise<string | undefined> {
    try {
      const text = (await readWholeFile(this.#fs, this.#path(name))).toString();
      const { namespaceId, backup } = JSON.parse(text) as { namespaceId: unknown; backup: unknown };
      return namespaceId === id && typeof backup === 'string' ? backup : undefined;
    } catch (error) {
      // Without it the namespace counts as one that has data of its own: nothing is written over it.
      if (hasCode(error, 'ENOENT') || error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  /** Durable when it resolves. */
  async set({ name, id }: { readonly name: string; readonly id: number }, backup: string): Promise<void> {
    await makeFolders(this.#fs, this.#folder, [FOLDER]);
    const text = JSON.stringify({ namespaceId: id, backup });
    await writeFileAtomically(this.#fs, this.#path(name), Buffer.from(text));
  }

  async remove({ name }: { readonly name: string }): Promise<void> {
    await removeIfThere(this.#fs, this.#path(name));
    await this.#fs.syncFolder(join(this.#folder, FOLDER));
  }

  #path(name: string): string {
    return join(this.#folder, FOLDER, `${name}.json`);
  }
}
