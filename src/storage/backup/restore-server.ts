import { dirname } from 'node:path';
import { messageOf, VarveError } from '../../core/errors.ts';
import { isOutOfSpace, makeFolders } from '../../core/file-system.ts';
import { decodeAnnotation, encodeAnnotation } from '../engine/block-annotation.ts';
import { DATA_FOLDER } from '../engine/fileset-store.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { rebuildIndex, uncovered } from '../engine/rebuild-index.ts';
import { nextVolume } from '../fileset/fileset-folder.ts';
import { COPIED_KINDS, FilesetReceiver } from '../fileset/receive-fileset.ts';
import type { RestoreMarks } from './restore-mark.ts';
import type { RestoreSeal } from './restore-seal.ts';
import {
  blockKey,
  readRestoredHead,
  type BodyParts,
  type RestoreBegin,
  type RestoredFileset,
  type RestoreLook,
} from './restore-messages.ts';

/** What a restore sees of an engine. */
export interface RestoreView extends PeerView {
  readonly folder: string;
  /** While nothing else works on files. */
  readonly serially: <T>(work: () => Promise<T>) => Promise<T>;
}

export interface RestoreServerDeps {
  readonly view: RestoreView;
  readonly marks: RestoreMarks;
  /** One for all requests to an engine. */
  readonly seal: RestoreSeal;
}

/** As for writes that another node took. */
const MAX_AHEAD_NS = 300_000_000_000n;

/** Takes filesets of a backup into namespaces of this node that have nothing else. Keeps nothing between requests. */
export class RestoreServer {
  readonly #view: RestoreView;
  readonly #marks: RestoreMarks;
  readonly #seal: RestoreSeal;

  constructor({ view, marks, seal }: RestoreServerDeps) {
    this.#view = view;
    this.#marks = marks;
    this.#seal = seal;
  }

  /** How a namespace stands; changes nothing. @throws NAMESPACE_UNKNOWN, STORAGE_NOT_READY */
  look(name: string): RestoreLook {
    const namespace = this.#namespace(name);
    const { filesets, ownership } = namespace;
    return {
      namespaceId: namespace.id,
      isEmpty: isEmpty(namespace),
      backup: this.#marks.backupOf(namespace) ?? null,
      unready: ownership.owned.filter((shard) => !namespace.isWhole(shard)),
      filesets: Object.fromEntries(
        [...filesets.places()].map((place) => [blockKey(place), place.info().digest.toString('hex')]),
      ),
    };
  }

  /**
   * From now on filesets of this backup are taken, also after a restart.
   * @throws RESTORE_TARGET_NOT_EMPTY, CLOCK_AHEAD for a backup of nodes whose clocks were ahead
   */
  async begin({ namespace: name, backup, version }: RestoreBegin): Promise<RestoreLook> {
    const { clock, serially } = this.#view;
    if (version > clock.nowNs() + MAX_AHEAD_NS) {
      throw new VarveError('CLOCK_AHEAD', 'the backup has versions of more than five minutes from now');
    }
    await serially(async () => {
      const namespace = this.#namespace(name);
      const before = this.#marks.backupOf(namespace);
      if (before === backup) return;
      if (before !== undefined || !isEmpty(namespace)) throw notEmpty(name, before);
      await this.#marks.set(namespace, backup);
    });
    // What is written from now on is newer than what comes.
    clock.observe(version);
    return this.look(name);
  }

  /**
   * Durable when it resolves, and found once the restore has ended. One that is there already changes nothing.
   * @throws RESTORE_REFUSED, RESTORE_TARGET_NOT_EMPTY, SHARD_NOT_OWNED, SHARD_NOT_READY, PEER_UNAVAILABLE when what came
   *   is not what was sent
   */
  async take(body: BodyParts): Promise<'taken' | 'present'> {
    const head = await readRestoredHead(body);
    const { shard, blockStartNs } = head.info;
    const namespace = this.#admitted(head);
    const present = (): string | undefined =>
      namespace.filesets.info(blockStartNs, shard)?.digest.toString('hex');
    const wanted = head.info.digest.toString('hex');
    if (present() === wanted) return 'present';
    const receiver = await this.#receiver(namespace, head);
    try {
      for (const kind of COPIED_KINDS) {
        for await (const piece of body.take(head.sums[kind].sizeBytes)) await receiver.append(kind, piece);
      }
      const info = await receiver.write();
      if (!info) throw new VarveError('PEER_UNAVAILABLE', 'a fileset is not what its checksums say');
      const isTaken = await this.#seal.take(this.#view.fs, this.#view.serially, {
        namespace,
        receiver,
        info,
        isWanted: () => {
          // Both may have changed while it came.
          this.#admitted(head);
          if (present() === wanted) return false;
          if (present() !== undefined) throw notEmpty(namespace.name, head.backup);
          return true;
        },
      });
      return isTaken ? 'taken' : 'present';
    } catch (error) {
      if (!isOutOfSpace(error)) throw error;
      throw new VarveError('RESTORE_REFUSED', `the disk of this node is full: ${messageOf(error)}`, {
        hint: 'Free space there, and run the restore again: it goes on where it was.',
        cause: error,
      });
    } finally {
      await receiver.abort();
    }
  }

  /** All has come: it can be found, and the namespace is one as any other. */
  async end({ namespace: name, backup }: Pick<RestoreBegin, 'namespace' | 'backup'>): Promise<void> {
    await this.#view.serially(async () => {
      const namespace = this.#namespace(name);
      if (this.#marks.backupOf(namespace) !== backup) throw notBegun(name, backup);
      await rebuildIndex(namespace, uncovered(namespace));
      await this.#marks.remove(namespace);
    });
  }

  #admitted({ backup, info }: RestoredFileset): Namespace {
    const { shard, blockSizeNs } = info;
    const namespace = this.#namespace(info.namespace);
    if (this.#marks.backupOf(namespace) !== backup) throw notBegun(info.namespace, backup);
    if (namespace.options.blockSizeNs !== blockSizeNs) {
      throw new VarveError('RESTORE_REFUSED', `blocks of namespace ${info.namespace} have another size here`);
    }
    if (!namespace.ownership.owns(shard)) {
      throw new VarveError('SHARD_NOT_OWNED', `shard ${shard} is not this node's`);
    }
    if (!namespace.isWhole(shard)) {
      throw new VarveError(
        'SHARD_NOT_READY',
        `shard ${shard} of namespace ${info.namespace} is being filled`,
      );
    }
    return namespace;
  }

  async #receiver(namespace: Namespace, { info, sums }: RestoredFileset): Promise<FilesetReceiver> {
    const { fs, clock } = this.#view;
    const { root } = namespace.filesets;
    const place = { namespace: namespace.name, shard: info.shard, blockStartNs: info.blockStartNs };
    await makeFolders(fs, dirname(root), [DATA_FOLDER]);
    const id = { ...place, volume: await nextVolume(fs, root, place) };
    // What was deleted here before does not concern what comes now.
    const annotation = encodeAnnotation({
      ...decodeAnnotation(info, `the info of ${blockKey(info)}`),
      deletedUpTo: clock.last,
    });
    return new FilesetReceiver(fs, { root, id, info: { ...info, annotation }, sums });
  }

  #namespace(name: string): Namespace {
    if (!this.#view.isOpen()) {
      throw new VarveError('STORAGE_NOT_READY', 'the storage engine reads its log: repeat it in a moment');
    }
    const namespace = this.#view.namespace(name);
    if (namespace) return namespace;
    throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace ${JSON.stringify(name)} here`);
  }
}

function isEmpty({ filesets, buffer }: Namespace): boolean {
  return filesets.count === 0 && buffer.blocks().every(({ samples }) => samples === 0);
}

function notEmpty(name: string, backup: string | undefined): VarveError {
  const what =
    backup === undefined
      ? 'has samples already'
      : `is being filled from backup ${backup}, and has other samples`;
  return new VarveError('RESTORE_TARGET_NOT_EMPTY', `namespace ${name} ${what}`, {
    hint: 'Restore into another namespace with --into NAME, or give up what is there with --overwrite.',
  });
}

function notBegun(name: string, backup: string): VarveError {
  return new VarveError(
    'RESTORE_REFUSED',
    `namespace ${name} is not being filled from backup ${backup} here: it was made anew, or the restore has ended`,
    { hint: 'Run the restore again: it begins where it has to.' },
  );
}
