import type { FileSystem } from '../../core/file-system.ts';
import { placeOf } from '../engine/fileset-summary.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import type { FilesetReceiver } from '../fileset/receive-fileset.ts';
import { sealFilesets } from '../fileset/seal-filesets.ts';

/** A fileset whose files are all written. */
export interface WrittenRestore {
  readonly namespace: Namespace;
  readonly receiver: FilesetReceiver;
  readonly info: FilesetInfo;
  /** Whether it is to count, asked while nothing else works on files. @throws why it must not be there */
  readonly isWanted: () => boolean;
}

interface Waiting extends WrittenRestore {
  readonly resolve: (isTaken: boolean) => void;
  readonly reject: (error: unknown) => void;
}

/** What comes while others become durable is the next to be, all in one step: each by itself would wait for the disk. */
export class RestoreSeal {
  #waiting: Waiting[] = [];

  /**
   * True when the fileset is durable and counts, false when it is not wanted; then it is the caller's to take back.
   * @param serially while nothing else works on files
   * @throws what `isWanted` throws, and the disk
   */
  take(
    fs: FileSystem,
    serially: (work: () => Promise<void>) => Promise<void>,
    written: WrittenRestore,
  ): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ ...written, resolve, reject });
      // Who is first takes along all who come before it has its turn.
      if (this.#waiting.length > 1) return;
      serially(() => sealAll(fs, this.#waiting.splice(0))).catch((error: unknown) => {
        for (const one of this.#waiting.splice(0)) one.reject(error);
      });
    });
  }
}

/** Each is settled when it resolves. */
async function sealAll(fs: FileSystem, group: readonly Waiting[]): Promise<void> {
  const wanted = group.filter(isWanted);
  try {
    const [first] = wanted;
    if (!first) return;
    for (const { namespace } of wanted) await namespace.filesets.beginChange();
    // One for all namespaces of an engine.
    const { root } = first.namespace.filesets;
    await sealFilesets(
      fs,
      root,
      wanted.map(({ info }) => info),
    );
    for (const { namespace, receiver, info, resolve } of wanted) {
      receiver.sealed();
      namespace.filesets.put(placeOf(info));
      namespace.movedBlocks++;
      resolve(true);
    }
  } catch (error) {
    for (const { reject } of wanted) reject(error);
  }
}

/** Settles it when it is not. */
function isWanted({ isWanted: ask, resolve, reject }: Waiting): boolean {
  try {
    if (ask()) return true;
    resolve(false);
  } catch (error) {
    reject(error);
  }
  return false;
}
