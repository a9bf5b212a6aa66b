import { isAbsolute, resolve } from 'node:path';
import type { Options } from '../config/options.ts';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorOptions } from '../coordination/open-coordinator.ts';
import type { NodeKind } from './layout.ts';

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
  readonly coordinator: CoordinatorOptions | undefined;
  readonly startTimeoutMs: number;
  readonly stopTimeoutMs: number;
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
  return {
    name: need(given.name, 'name'),
    kind: need(given.kind, 'kind'),
    folder: resolve(need(given.folder, 'folder')),
    httpPort: need(given.httpPort, 'httpPort'),
    rpcPort: given.rpcPort ?? 0,
    database: given.database,
    postgres: postgresOf(given),
    caFolder: given.caFolder,
    coordinator:
      given.coordinator === undefined ? undefined : { kind: given.coordinatorKind, url: given.coordinator },
    startTimeoutMs: given.startTimeout,
    stopTimeoutMs: given.stopTimeout,
  };
}

function postgresOf(given: Options<'node'>): OwnPostgres | RemotePostgres {
  const source = given.postgres ?? 'auto';
  if (isAbsolute(source) || !source.includes('://')) {
    return { own: true, programs: source, port: given.pgPort ?? 0, passwordFile: given.passwordFile };
  }
  return { own: false, url: source };
}
