import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Options } from '../config/options.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import type { CoordinatorOptions } from '../coordination/open-coordinator.ts';
import type { EngineOptions } from '../storage/engine/storage-engine.ts';
import type { PeersSourceOptions } from '../storage/peers/peers-source.ts';
import type { ReplicationOptions } from '../storage/replication/replication.ts';
import { coordinatorOptions } from './coordinator-options.ts';
import { isLoopback } from '../core/loopback.ts';

/** How a node runs its storage engine. */
export interface StorageSettings {
  readonly engine: EngineOptions;
  readonly maxBodyBytes: number;
  readonly maxReadSamples: number;
  readonly maxReads: number;
  readonly readTimeoutMs: number;
  readonly peers: PeersSourceOptions;
  readonly replication: Omit<ReplicationOptions, 'node' | 'folder'>;
  /** What requests have to carry; undefined: nothing. */
  readonly token: string | undefined;
}

/** A node that is nothing but a storage engine. */
export interface StorageNodeOptions {
  readonly name: string;
  readonly folder: string;
  readonly httpHost: string;
  readonly httpPort: number;
  readonly coordinator: CoordinatorOptions | undefined;
  readonly storage: StorageSettings;
}

type Given = Pick<
  Options<'storage serve'>,
  | 'storageTokenFile'
  | 'logMode'
  | 'shardCount'
  | 'memoryMb'
  | 'snapshotInterval'
  | 'maxLogMb'
  | 'maxBodyMb'
  | 'maxReadSamples'
  | 'maxReads'
  | 'readTimeout'
  | 'bootstrapOrder'
  | 'bootstrapConsistency'
  | 'peerTimeout'
  | 'writeConsistency'
  | 'readConsistency'
  | 'replicaTimeout'
  | 'hintMaxMb'
  | 'hintMaxAge'
  | 'repairInterval'
>;

const MIB = 1024 * 1024;
/** Of `varve storage serve` when no port is given. */
const DEFAULT_PORT = 9201;

/** @throws CONFIG_INVALID for a token file that cannot be read */
export function storageSettings(given: Given, folder: string): StorageSettings {
  return {
    engine: {
      folder,
      logMode: given.logMode,
      shardCount: given.shardCount,
      memoryMb: given.memoryMb,
      snapshotIntervalMs: given.snapshotInterval,
      maxLogBytes: given.maxLogMb * MIB,
      bootstrapOrder: given.bootstrapOrder,
    },
    peers: { level: given.bootstrapConsistency, timeoutMs: given.peerTimeout },
    maxBodyBytes: given.maxBodyMb * MIB,
    maxReadSamples: given.maxReadSamples,
    maxReads: given.maxReads,
    readTimeoutMs: given.readTimeout,
    replication: {
      writeLevel: given.writeConsistency,
      readLevel: given.readConsistency,
      replicaTimeoutMs: given.replicaTimeout,
      hintMaxBytes: given.hintMaxMb * MIB,
      hintMaxAgeMs: given.hintMaxAge,
      synced: given.logMode === 'sync',
      repairIntervalMs: given.repairInterval,
    },
    token: tokenOf(given.storageTokenFile),
  };
}

/** The folder of the engine within that of a node. */
export function storageFolderOf(nodeFolder: string): string {
  return join(nodeFolder, 'storage');
}

/** A bearer token from its file. @throws CONFIG_INVALID */
export function tokenOf(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new VarveError(
      'CONFIG_INVALID',
      `the file of "storageTokenFile" cannot be read: ${messageOf(error)}`,
    );
  }
  if (/^\S{8,}$/.test(text)) return text;
  throw new VarveError('CONFIG_INVALID', 'the file of "storageTokenFile" does not hold a token', {
    hint: 'A token is one word of 8 or more characters: openssl rand -hex 32 makes one.',
  });
}

/** @throws CONFIG_INVALID for an address that others can reach, without a token */
export function checkHttpHost(host: string, token: string | undefined): void {
  if (isLoopback(host) || token !== undefined) return;
  throw new VarveError('CONFIG_INVALID', `"httpHost" is ${host}, which others can reach, without a token`, {
    hint: 'Set "storageTokenFile".',
  });
}

/** Of `varve node` with kind `storage`. @throws CONFIG_INVALID */
export function storageNodeOptions(given: Options<'node'>): StorageNodeOptions {
  const { name, folder, httpPort } = given;
  if (name === undefined || folder === undefined || httpPort === undefined) {
    throw new VarveError(
      'CONFIG_INVALID',
      'a storage node cannot do without "name", "folder" and "httpPort"',
    );
  }
  const storage = storageSettings(given, storageFolderOf(resolve(folder)));
  checkHttpHost(given.httpHost, storage.token);
  return {
    name,
    folder: resolve(folder),
    httpHost: given.httpHost,
    httpPort,
    coordinator: coordinatorOptions(given),
    storage,
  };
}

/** Whether a folder is that of a whole system, in which an engine of its own has no place. */
export function isSystemFolder(dir: string): boolean {
  return existsSync(join(resolve(dir), 'system.json'));
}

/** Of `varve storage serve`: a node that stands alone; its folder is that of the engine. @throws CONFIG_INVALID */
export function serveOptions(given: Options<'storage serve'>): StorageNodeOptions {
  const folder = resolve(given.dir);
  const storage = storageSettings(given, folder);
  checkHttpHost(given.httpHost, storage.token);
  return {
    name: 'storage',
    folder,
    httpHost: given.httpHost,
    httpPort: given.port ?? DEFAULT_PORT,
    coordinator: undefined,
    storage,
  };
}
