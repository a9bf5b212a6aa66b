import { VarveError } from '../../core/errors.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import type { NamespaceSettings } from '../protocol/namespace-json.ts';

/** One block of one shard, as a fileset of the backup's folder has it. */
export interface BackedUpFileset {
  readonly shard: number;
  readonly blockStartNs: bigint;
  readonly volume: number;
  /** Canonical, as hexadecimal digits: that of the fileset's info. */
  readonly digest: string;
  readonly series: number;
  readonly samples: number;
  readonly sizeBytes: number;
}

export interface BackedUpNamespace {
  readonly name: string;
  readonly settings: NamespaceSettings;
  /** By block, then by shard. */
  readonly filesets: readonly BackedUpFileset[];
}

/** What a backup is: it exists when there is such a file. `docs/formats/storage-backup.md` draws it. */
export interface BackupManifest {
  readonly id: string;
  /** Everything that was acknowledged before is in it. */
  readonly startedAtNs: bigint;
  /** Nothing that was written later is in it. */
  readonly endedAtNs: bigint;
  readonly shardCount: number;
  /** No sample in it has a newer version. */
  readonly version: bigint;
  readonly namespaces: readonly BackedUpNamespace[];
}

type Row = [
  shard: number,
  blockStartNs: string,
  volume: number,
  digest: string,
  series: number,
  samples: number,
  sizeBytes: number,
];

interface Body {
  readonly id: string;
  readonly startedAt: string;
  readonly endedAt: string;
  readonly shardCount: number;
  readonly version: string;
  readonly namespaces: readonly {
    readonly name: string;
    readonly settings: NamespaceSettings;
    readonly filesets: readonly Row[];
  }[];
}

export function encodeManifest(manifest: BackupManifest): Buffer {
  const body: Body = {
    id: manifest.id,
    startedAt: String(manifest.startedAtNs),
    endedAt: String(manifest.endedAtNs),
    shardCount: manifest.shardCount,
    version: String(manifest.version),
    namespaces: manifest.namespaces.map(({ name, settings, filesets }) => ({
      name,
      settings,
      filesets: filesets.map((one) => [
        one.shard,
        String(one.blockStartNs),
        one.volume,
        one.digest,
        one.series,
        one.samples,
        one.sizeBytes,
      ]),
    })),
  };
  return encodeCheckedFile('VRVBACKP', 0, Buffer.from(JSON.stringify(body)));
}

/** @throws FormatFault, BACKUP_FORMAT_UNKNOWN for one that a newer version wrote */
export function decodeManifest(file: string, bytes: Buffer): BackupManifest {
  const body = bodyOf(file, bytes);
  return {
    id: body.id,
    startedAtNs: BigInt(body.startedAt),
    endedAtNs: BigInt(body.endedAt),
    shardCount: body.shardCount,
    version: BigInt(body.version),
    namespaces: body.namespaces.map(({ name, settings, filesets }) => ({
      name,
      settings,
      filesets: filesets.map(([shard, blockStart, volume, digest, series, samples, sizeBytes]) => ({
        shard,
        blockStartNs: BigInt(blockStart),
        volume,
        digest,
        series,
        samples,
        sizeBytes,
      })),
    })),
  };
}

function bodyOf(file: string, bytes: Buffer): Body {
  try {
    const { bodyEnd } = decodeCheckedFile(file, 'VRVBACKP', bytes);
    // Its checksum matches: what is in it is what this program wrote.
    return JSON.parse(bytes.toString('utf8', FILE_HEADER_BYTES, bodyEnd)) as Body;
  } catch (error) {
    if (error instanceof SyntaxError) throw new FormatFault(FILE_HEADER_BYTES, 'its body is not JSON');
    if (!(error instanceof VarveError) || error.code !== 'STORAGE_FORMAT_UNKNOWN') throw error;
    throw new VarveError('BACKUP_FORMAT_UNKNOWN', error.message, { cause: error });
  }
}

export interface BackupFigures {
  readonly filesets: number;
  readonly samples: number;
  readonly bytes: number;
}

export function figuresOf(namespaces: readonly BackedUpNamespace[]): BackupFigures {
  const all = namespaces.flatMap(({ filesets }) => filesets);
  return {
    filesets: all.length,
    samples: all.reduce((sum, { samples }) => sum + samples, 0),
    bytes: all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  };
}
