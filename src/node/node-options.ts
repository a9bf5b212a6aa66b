import { isAbsolute, resolve } from 'node:path';
import type { Options } from '../config/options.ts';
import { VarveError } from '../core/errors.ts';
import type { CredentialOptions } from '../data-node/credentials.ts';
import type { VersionPolicy } from '../data-node/version-rule.ts';
import type { CoordinatorOptions } from '../coordination/open-coordinator.ts';
import { coordinatorOptions } from './coordinator-options.ts';
import { groupSettings, type GroupSettings } from './group-settings.ts';
import type { NodeKind } from './layout.ts';
import { isLoopback } from '../core/loopback.ts';
import type { StorageAdmissionOptions } from './storage-admission.ts';
import {
  checkHttpHost,
  storageFolderOf,
  storageSettings,
  tokenOf,
  type StorageSettings,
} from './storage-settings.ts';

/** Settings of one node, complete. */
export interface NodeOptions {
  readonly name: string;
  readonly kind: NodeKind;
  readonly folder: string;
  readonly httpPort: number;
  /** 0: a free one. */
  readonly rpcPort: number;
  readonly database: string;
  readonly postgres: OwnPostgres | RemotePostgres;
  readonly caFolder: string | undefined;
  /** Beyond those of this machine and of the group's members. */
  readonly tlsNames: readonly string[];
  readonly coordinator: CoordinatorOptions | undefined;
  readonly dataNodes: DataNodeSettings;
  /** Undefined for a node without a storage engine. */
  readonly storage: StorageSettings | undefined;
  /** How an access node deals with the storage engines of its data nodes; undefined where they have none. */
  readonly admission: Omit<StorageAdmissionOptions, 'node'> | undefined;
  readonly httpHost: string;
  /** Undefined for a node that stands alone. */
  readonly group: GroupSettings | undefined;
  readonly startTimeoutMs: number;
  readonly stopTimeoutMs: number;
}

/** How an access node deals with its data nodes. */
export interface DataNodeSettings {
  readonly rpcHost: string;
  readonly rpcFiles: { readonly certFile: string; readonly keyFile: string } | undefined;
  readonly credentials: Pick<CredentialOptions, 'passfile' | 'certificatesFolder' | 'caFile' | 'tls'>;
  readonly versionPolicy: VersionPolicy;
  readonly connectTimeoutMs: number;
  readonly callTimeoutMs: number;
}

/** A server that the node makes and runs. */
export interface OwnPostgres {
  readonly own: true;
  /** As `findBinaries` takes it. */
  readonly programs: string;
  /** 0: a free one. */
  readonly port: number;
  /** File with the superuser's password; the server's own when left out. */
  readonly passwordFile: string | undefined;
}

/** A server that somebody else runs. */
export interface RemotePostgres {
  readonly own: false;
  readonly url: string;
}

/**
 * Completes and joins what the sources gave.
 * @throws CONFIG_INVALID for what is missing or does not go together
 */
export function nodeOptions(given: Options<'node'>): NodeOptions {
  const need = <T>(value: T | undefined, key: string): T => {
    if (value !== undefined) return value;
    throw new VarveError('CONFIG_INVALID', `"${key}" is missing: a node cannot do without it`, {
      hint: 'docs/configuration.md, varve node, lists every setting.',
    });
  };
  if (given.kind === 'storage') {
    throw new VarveError('CONFIG_INVALID', 'a storage node has no PostgreSQL: there is nothing to prepare');
  }
  const folder = resolve(need(given.folder, 'folder'));
  const hasStorage = given.kind === 'data' && given.storage;
  const storage = hasStorage ? storageSettings(given, storageFolderOf(folder)) : undefined;
  checkHttpHost(given.httpHost, storage?.token);
  return {
    name: need(given.name, 'name'),
    kind: need(given.kind, 'kind'),
    folder,
    storage,
    admission: admissionOf(given),
    httpHost: given.httpHost,
    httpPort: need(given.httpPort, 'httpPort'),
    rpcPort: given.rpcPort ?? 0,
    database: given.database,
    postgres: postgresOf(given),
    caFolder: given.caFolder,
    tlsNames: (given.tlsNames ?? '').split(',').flatMap((name) => name.trim() || []),
    coordinator: coordinatorOptions(given),
    dataNodes: dataNodesOf(given),
    group: groupSettings(given),
    startTimeoutMs: given.startTimeout,
    stopTimeoutMs: given.stopTimeout,
  };
}

/** How long the first placement waits for storage engines that do not answer yet. */
const FIRST_PLACEMENT_WAIT_MS = 30_000;
const REPLICAS = 3;
/** Two rounds in which the registry is read, and a write master that has just lost its lease has noticed. */
const ROW_GONE_MS = 12_000;

function admissionOf(given: Options<'node'>): NodeOptions['admission'] {
  const { kind, storage, storageNodes: expected, storageTokenFile } = given;
  if (kind !== 'access' || !storage) return undefined;
  const waitMs = FIRST_PLACEMENT_WAIT_MS;
  return {
    rules: { expected, waitMs, replicas: REPLICAS, goneMs: ROW_GONE_MS },
    token: tokenOf(storageTokenFile),
  };
}

function dataNodesOf(given: Options<'node'>): DataNodeSettings {
  const { rpcHost, rpcCertFile: certFile, rpcKeyFile: keyFile, caFolder, certificatesFolder, caFile } = given;
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new VarveError('CONFIG_INVALID', '"rpcCertFile" and "rpcKeyFile" go together: one is missing');
  }
  const local = isLoopback(rpcHost);
  if (!local && certFile === undefined) {
    throw new VarveError(
      'CONFIG_INVALID',
      `"rpcHost" is ${rpcHost}, which others can reach, without a certificate`,
      {
        hint: 'Set "rpcCertFile" and "rpcKeyFile": calls carry what lets their sender act as any role.',
      },
    );
  }
  if (caFolder !== undefined && (certificatesFolder !== undefined || caFile !== undefined)) {
    throw new VarveError('CONFIG_INVALID', '"caFolder" makes "certificatesFolder" and "caFile" by itself', {
      hint: 'Give either the authority or the files.',
    });
  }
  return {
    rpcHost,
    rpcFiles: certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile },
    credentials: {
      tls: given.dataNodeTls,
      ...(given.passfile === undefined ? {} : { passfile: given.passfile }),
      ...(certificatesFolder === undefined ? {} : { certificatesFolder }),
      ...(caFile === undefined ? {} : { caFile }),
    },
    versionPolicy: given.versionPolicy,
    connectTimeoutMs: given.connectTimeout,
    callTimeoutMs: given.callTimeout,
  };
}

function postgresOf(given: Options<'node'>): OwnPostgres | RemotePostgres {
  const source = given.postgres ?? 'auto';
  if (isAbsolute(source) || !source.includes('://')) {
    return { own: true, programs: source, port: given.pgPort ?? 0, passwordFile: given.passwordFile };
  }
  return { own: false, url: source };
}
