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
const SUFFIX = '.json';

interface Marked {
  readonly name: string;
  /** Another one for each creation of a namespace of that name. */
  readonly id: number;
}

/**
 * Says of namespaces that they are being filled from a backup, from before the first fileset until the last one is
 * indexed: what they have by then is of that backup, so that a restore that was interrupted goes on, and others do not
 * begin.
 */
export class RestoreMarks {
  readonly #fs: FileSystem;
  readonly #folder: string;
  readonly #marks = new Map<string, { readonly namespaceId: unknown; readonly backup: unknown }>();

  private constructor(fs: FileSystem, folder: string) {
    this.#fs = fs;
    this.#folder = folder;
  }

  /** @param folder the engine's */
  static async open(fs: FileSystem, folder: string): Promise<RestoreMarks> {
    const marks = new RestoreMarks(fs, folder);
    const entries = await fs.list(join(folder, FOLDER)).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT')) return [];
      throw error;
    });
    for (const { name: file } of entries) {
      if (file.endsWith(SUFFIX)) await marks.#load(file.slice(0, -SUFFIX.length));
    }
    return marks;
  }

  /** From which backup a namespace is being filled; a mark of one that was deleted meanwhile does not count. */
  backupOf({ name, id }: Marked): string | undefined {
    const mark = this.#marks.get(name);
    return mark?.namespaceId === id && typeof mark.backup === 'string' ? mark.backup : undefined;
  }

  /** Durable when it resolves. */
  async set({ name, id }: Marked, backup: string): Promise<void> {
    await makeFolders(this.#fs, this.#folder, [FOLDER]);
    const mark = { namespaceId: id, backup };
    await writeFileAtomically(this.#fs, this.#path(name), Buffer.from(JSON.stringify(mark)));
    this.#marks.set(name, mark);
  }

  async remove({ name }: Pick<Marked, 'name'>): Promise<void> {
    await removeIfThere(this.#fs, this.#path(name));
    await this.#fs.syncFolder(join(this.#folder, FOLDER));
    this.#marks.delete(name);
  }

  async #load(name: string): Promise<void> {
    const text = (await readWholeFile(this.#fs, this.#path(name))).toString();
    try {
      this.#marks.set(name, Object(JSON.parse(text)) as { namespaceId: unknown; backup: unknown });
    } catch (error) {
      // Without it the namespace counts as one that has data of its own: nothing is written over it.
      if (!(error instanceof SyntaxError)) throw error;
    }
  }

  #path(name: string): string {
    return join(this.#folder, FOLDER, `${name}${SUFFIX}`);
  }
}
