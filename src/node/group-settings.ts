import { join, resolve } from 'node:path';
import type { Options } from '../config/options.ts';
import { VarveError } from '../core/errors.ts';

/** How an access node is a member of its group. */
export interface GroupSettings {
  readonly cluster: string;
  readonly kind: 'manager' | 'service';
  /** For how many members the first bootstrap waits. */
  readonly size: number;
  readonly durability: 'safety' | 'availability';
  /** Under which the other members and clients reach this node. */
  readonly host: string;
  /** Undefined: the least that the coordinator allows, but not under three seconds. */
  readonly leaseTtlMs: number | undefined;
  readonly nofailover: boolean;
  readonly timeoutMs: number;
  /** Holds the secret that all members share. */
  readonly passwordFile: string;
  readonly proxies: ProxySettings;
  readonly broker: { readonly user: string; readonly passwordFile: string };
  readonly backupFolder: string;
}

/** Where there is no port there is no proxy. */
export interface ProxySettings {
  readonly writePort: number | undefined;
  readonly readPort: number | undefined;
  readonly poolerPort: number | undefined;
  readonly haproxy: string | undefined;
  readonly pgbouncer: string | undefined;
}

const SIZES = { manager: { least: 3, usual: 3 }, service: { least: 1, usual: 2 } } as const;

/** @throws CONFIG_INVALID for what does not go together */
export function groupSettings(given: Options<'node'>): GroupSettings | undefined {
  const { cluster, clusterKind: kind } = given;
  if (cluster === undefined) return undefined;
  const { least, usual } = SIZES[kind];
  const size = given.clusterSize ?? usual;
  const folder = resolve(given.folder ?? '.');
  need(given.kind === 'access', '"cluster" is for access nodes: data nodes are added over SQL');
  need(given.coordinator !== undefined, 'a member of a group needs a "coordinator"');
  need(size >= least, `a ${kind} group has ${least} members or more, not "clusterSize" ${size}`);
  need(
    (given.writePort === undefined) === (given.readPort === undefined),
    '"writePort" and "readPort" are both of the same HAProxy: give both or none',
  );
  need(
    size === 1 || given.groupPasswordFile !== undefined,
    'a group needs a "groupPasswordFile": a file, mode 0600, with the same secret for each member',
  );
  return {
    cluster,
    kind,
    size,
    durability: given.durability,
    host: given.host,
    leaseTtlMs: given.leaseTtl,
    nofailover: given.nofailover,
    timeoutMs: given.groupTimeout,
    passwordFile: given.groupPasswordFile ?? join(folder, 'group.password'),
    proxies: {
      writePort: given.writePort,
      readPort: given.readPort,
      poolerPort: given.poolerPort,
      haproxy: given.haproxy,
      pgbouncer: given.pgbouncer,
    },
    broker: {
      user: given.brokerUser,
      passwordFile: given.brokerPasswordFile ?? join(folder, 'broker.password'),
    },
    backupFolder: given.backupFolder ?? join(folder, 'backups'),
  };
}

function need(condition: boolean, message: string): void {
  if (!condition) {
    throw new VarveError('CONFIG_INVALID', message, {
      hint: 'docs/configuration.md, varve node, lists every setting.',
    });
  }
}
