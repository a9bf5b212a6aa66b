import type { FileSystem } from '../../core/file-system.ts';
import type { FilesetId } from './fileset-id.ts';
import { nameSealed } from './seal-filesets.ts';

/** A failure costs all of them. */
const MAX_GROUP = 512;

interface Waiting {
  readonly id: FilesetId;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Seals filesets below one root: those that come while some are being sealed are the next to be, all in one step. The
 * step that syncs the files of a group syncs the names of the group before.
 */
export class GroupSeal {
  readonly #fs: FileSystem;
  readonly #root: string;
  #waiting: Waiting[] = [];
  #running = false;

  constructor(fs: FileSystem, root: string) {
    this.#fs = fs;
    this.#root = root;
  }

  /** Resolves when the fileset, whose files are all written, is durable and complete. @throws what the disk throws */
  seal(id: FilesetId): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ id, resolve, reject });
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    let named: readonly Waiting[] = [];
    while (this.#waiting.length + named.length > 0) {
      const group = this.#waiting.splice(0, MAX_GROUP);
      try {
        await nameSealed(this.#fs, this.#root, idsOf(group), idsOf(named));
        for (const { resolve } of named) resolve();
        named = group;
      } catch (error) {
        for (const { reject } of [...named, ...group]) reject(error);
        named = [];
      }
    }
    this.#running = false;
  }
}

function idsOf(group: readonly Waiting[]): FilesetId[] {
  return group.map(({ id }) => id);
}
