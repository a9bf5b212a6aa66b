import { join } from 'node:path';
import { hasCode, readWholeFile, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { decodeAt, FileDamageError } from '../fileset/fileset-damage.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { TimeRanges } from './time-ranges.ts';

export const INTERVENTIONS_FILE = 'interventions.db';

/** What an operator has told a bootstrap to do. */
export type InterventionAction =
  /** Another attempt at once. */
  | { readonly action: 'retry' }
  /** Until then the peer is neither asked nor waited for. */
  | { readonly action: 'skipPeer'; readonly peer: string; readonly untilNs: bigint }
  /** What no source has of the range is lost: it counts as empty. */
  | {
      readonly action: 'acceptLoss';
      readonly namespace: string;
      /** Of this creation of the namespace on this node. */
      readonly namespaceId: number;
      readonly shard: number;
      readonly startNs: bigint;
      readonly endNs: bigint;
      /** Why nobody could give it. */
      readonly reason: string;
    };

export type Intervention = InterventionAction & {
  readonly atNs: bigint;
  /** Who said so. */
  readonly by: string;
  /** It has no effect any more: the shard was given to others since. */
  readonly isVoid?: boolean;
};

/** So many stay in the history, and all that have an effect. */
const KEPT = 500;

/** What operators have told this node's bootstrap: in force over restarts, and kept as history. */
export class Interventions {
  readonly #fs: FileSystem;
  readonly #path: string;
  #all: readonly Intervention[] = [];

  private constructor(fs: FileSystem, path: string) {
    this.#fs = fs;
    this.#path = path;
  }

  /** A damaged file is put aside: what was accepted as lost is missing again then, and said to be. */
  static async open(
    fs: FileSystem,
    folder: string,
    onDamage: (error: FileDamageError) => void,
  ): Promise<Interventions> {
    const path = join(folder, INTERVENTIONS_FILE);
    const interventions = new Interventions(fs, path);
    try {
      const content = await readWholeFile(fs, path);
      interventions.#all = decodeAt(path, 0, () => decode(path, content));
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return interventions;
      if (!(error instanceof FileDamageError)) throw error;
      await fs.rename(path, `${path}.damaged`);
      onDamage(error);
    }
    return interventions;
  }

  /** The newest last. */
  get all(): readonly Intervention[] {
    return this.#all;
  }

  skippedPeers(nowNs: bigint): ReadonlySet<string> {
    return new Set(
      this.#all.flatMap((one) => (one.action === 'skipPeer' && one.untilNs > nowNs ? [one.peer] : [])),
    );
  }

  /** What of a namespace was given up. */
  acceptedLoss(namespaceId: number): ShardTimeRanges {
    return ShardTimeRanges.of(
      this.#all.flatMap((one) =>
        one.action === 'acceptLoss' && one.namespaceId === namespaceId && !one.isVoid
          ? [[one.shard, TimeRanges.of({ startNs: one.startNs, endNs: one.endNs })] as const]
          : [],
      ),
    );
  }

  /** Durable and in force when it resolves. Calls must not overlap. */
  async add(more: readonly Intervention[]): Promise<void> {
    await this.#set([...this.#all, ...more]);
  }

  /** These shards are others' now: when they come back, there may be somebody who has what is lost here. */
  async voidLoss(shards: readonly number[]): Promise<void> {
    const concerned = (one: Intervention): boolean =>
      one.action === 'acceptLoss' && !one.isVoid && shards.includes(one.shard);
    if (!this.#all.some(concerned)) return;
    await this.#set(this.#all.map((one) => (concerned(one) ? { ...one, isVoid: true } : one)));
  }

  async #set(all: readonly Intervention[]): Promise<void> {
    const old = all.length - KEPT;
    const kept = all.filter((one, place) => place >= old || (one.action === 'acceptLoss' && !one.isVoid));
    await writeFileAtomically(this.#fs, this.#path, encode(kept));
    this.#all = kept;
  }
}

const TIMES = new Set(['atNs', 'untilNs', 'startNs', 'endNs']);

function encode(all: readonly Intervention[]): Buffer {
  const text = JSON.stringify(all, (_, value: unknown) =>
    typeof value === 'bigint' ? String(value) : value,
  );
  return encodeCheckedFile('VRVINTER', 0, Buffer.from(text));
}

/** @throws FormatFault */
function decode(path: string, content: Buffer): Intervention[] {
  const { bodyEnd } = decodeCheckedFile(path, 'VRVINTER', content);
  // The checksum matches: what is in it is what `encode` wrote.
  return JSON.parse(content.toString('utf8', FILE_HEADER_BYTES, bodyEnd), (key, value: unknown) =>
    TIMES.has(key) && typeof value === 'string' ? BigInt(value) : value,
  ) as Intervention[];
}
