import { VarveError } from '../core/errors.ts';

/**
 * What a system folder consists of, and what a start may make of it. Pure: what is there and what is wanted
 * in, what to have out. Ports are kept once chosen, because data nodes are registered under theirs.
 *
 *     DIR/system.json            this layout
 *     DIR/varve.password         password of the superuser `postgres`, for all nodes
 *     DIR/connections.json       how to reach everything, for programs
 *     DIR/ca/                    certificate authority between the nodes
 *     DIR/coordinator/           data of the embedded coordinator
 *     DIR/nodes/NAME/node.json   configuration of one node; beside it pg/, certs/, log/, …
 */
export interface SystemLayout {
  readonly version: 1;
  /** Where PostgreSQL comes from. A folder made by one is not handed to another. */
  readonly postgres: string;
  readonly portBase?: number | undefined;
  readonly coordinatorPort: number;
  /** With how many members the group of access nodes begins; undefined where the one access node stands alone. */
  readonly groupSize?: number | undefined;
  /** Of the storage engines that were made here, and of those that come later; undefined in older folders. */
  readonly shardCount?: number | undefined;
  readonly nodes: readonly NodeLayout[];
}

/** `storage` is a storage engine without PostgreSQL; `varve up` makes none. */
export type NodeKind = 'access' | 'data' | 'storage';

export interface NodeLayout {
  readonly name: string;
  readonly kind: Exclude<NodeKind, 'storage'>;
  readonly pgPort: number;
  readonly httpPort: number;
  /** Where an access node's SQL functions reach its daemon; reserved on data nodes. */
  readonly rpcPort: number;
  /** Of an access node that is a member of a group. */
  readonly proxies?: ProxyPorts;
  /** It has been added as a data node once. Whoever deletes it after that does not get it back by a restart. */
  readonly added?: boolean;
}

/** Where clients reach a group through this node: HAProxy's two ways in, and PgBouncer behind them. */
export interface ProxyPorts {
  readonly write: number;
  readonly read: number;
  readonly pooler: number;
}

export interface WantedLayout {
  /** Undefined: as many as there are, or the default. */
  readonly access: number | undefined;
  /** Undefined: as many as there are, or three. */
  readonly data: number | undefined;
  readonly portBase: number | undefined;
  readonly postgres: string | undefined;
  /** Counts for a new folder only. */
  readonly shardCount?: number | undefined;
}

/** Gives `count` ports that nobody listens on, none of them in `taken`. */
export type ChoosePorts = (count: number, taken: readonly number[]) => Promise<number[]>;

const DEFAULT_ACCESS_NODES = 3;
const DEFAULT_DATA_NODES = 3;
/** A group of fewer could not tell who of two is cut off. */
const SMALLEST_GROUP = 3;
const PORTS_PER_NODE = 3;
const PORTS_OF_PROXIES = 3;

/**
 * The layout to run: the existing one, with the nodes that are wanted in addition.
 * @throws INVALID_ARGUMENT for what an existing folder cannot become
 */
export async function nextLayout(
  existing: SystemLayout | undefined,
  wanted: WantedLayout,
  choosePorts: ChoosePorts,
): Promise<SystemLayout> {
  refuse(existing, wanted);
  const had = existing?.nodes ?? [];
  const accessCount = wanted.access ?? (existing ? countOf(had, 'access') : DEFAULT_ACCESS_NODES);
  const isGroup = accessCount > 1;
  const dataCount = wanted.data ?? (existing ? countOf(had, 'data') : DEFAULT_DATA_NODES);
  const missing = [
    ...names('an', countOf(had, 'access'), accessCount).map((name) => ({ name, kind: 'access' as const })),
    ...names('dn', countOf(had, 'data'), dataCount).map((name) => ({ name, kind: 'data' as const })),
  ];
  const portBase = existing?.portBase ?? wanted.portBase;
  const grouped = isGroup ? missing.filter(({ kind }) => kind === 'access').length : 0;
  const wantedCount = missing.length * PORTS_PER_NODE + grouped * PORTS_OF_PROXIES + (existing ? 0 : 1);
  const taken = existing ? [existing.coordinatorPort, ...had.flatMap(portsOf)] : [];
  const ports =
    portBase === undefined
      ? await choosePorts(wantedCount, taken)
      : Array.from({ length: wantedCount }, (_, i) => portBase + taken.length + i);
  const next = (): number => {
    const port = ports.shift();
    if (port === undefined || port > 65_535) {
      throw new VarveError('INVALID_ARGUMENT', `there are not enough ports above ${portBase ?? 0}`, {
        hint: 'Choose a smaller --port-base.',
      });
    }
    return port;
  };
  const shardCount = existing ? existing.shardCount : wanted.shardCount;
  return {
    version: 1,
    postgres: existing?.postgres ?? wanted.postgres ?? 'embedded',
    ...(portBase === undefined ? {} : { portBase }),
    coordinatorPort: existing?.coordinatorPort ?? next(),
    ...(isGroup ? { groupSize: existing?.groupSize ?? accessCount } : {}),
    ...(shardCount === undefined ? {} : { shardCount }),
    nodes: [
      ...had,
      ...missing.map((node) => ({
        ...node,
        pgPort: next(),
        httpPort: next(),
        rpcPort: next(),
        ...(isGroup && node.kind === 'access'
          ? { proxies: { write: next(), read: next(), pooler: next() } }
          : {}),
      })),
    ],
  };
}

function refuse(existing: SystemLayout | undefined, wanted: WantedLayout): void {
  const { access } = wanted;
  if (access !== undefined && access > 1 && access < SMALLEST_GROUP) {
    throw new VarveError('INVALID_ARGUMENT', `--access ${access} is too few for a group`, {
      hint: `Take 1, which stands alone, or ${SMALLEST_GROUP} and more: when one of two is silent, the other cannot know which of them is cut off.`,
    });
  }
  if (!existing) return;
  const accessCount = countOf(existing.nodes, 'access');
  if (access !== undefined && access < accessCount) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      `this folder has ${accessCount} access nodes, more than --access ${access}`,
      { hint: 'A member is taken out of its group with varve cluster leave.' },
    );
  }
  if (access !== undefined && access > accessCount && accessCount === 1) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      'this folder was made with one access node, which is in no group',
      { hint: 'Start a group in another folder, and bring the data over.' },
    );
  }
  const dataCount = countOf(existing.nodes, 'data');
  if (wanted.data !== undefined && wanted.data < dataCount) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      `this folder has ${dataCount} data nodes, more than --data ${wanted.data}`,
      {
        hint: "A data node is taken away with SELECT delete_data_node('dnN') on the access node, which moves or refuses what it holds; its server stays until its folder is removed.",
      },
    );
  }
  if (wanted.portBase !== undefined && wanted.portBase !== existing.portBase) {
    const had = existing.portBase === undefined ? 'freely chosen ports' : `--port-base ${existing.portBase}`;
    throw new VarveError(
      'INVALID_ARGUMENT',
      `this folder was made with ${had}, not --port-base ${wanted.portBase}`,
      {
        hint: 'Leave --port-base out: data nodes are registered under the ports that they have.',
      },
    );
  }
  if (wanted.postgres !== undefined && wanted.postgres !== existing.postgres) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      'this folder was made with another PostgreSQL than --postgres names',
      {
        hint: `Leave --postgres out, or say --postgres ${existing.postgres}.`,
      },
    );
  }
}

function countOf(nodes: readonly NodeLayout[], kind: NodeKind): number {
  return nodes.filter((node) => node.kind === kind).length;
}

function names(prefix: string, have: number, want: number): string[] {
  return Array.from({ length: Math.max(0, want - have) }, (_, i) => `${prefix}${have + i + 1}`);
}

function portsOf({ pgPort, httpPort, rpcPort, proxies }: NodeLayout): number[] {
  return [pgPort, httpPort, rpcPort, ...(proxies ? [proxies.write, proxies.read, proxies.pooler] : [])];
}
