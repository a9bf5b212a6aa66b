import { createHash } from 'node:crypto';

/**
 * One direction of replication of one database: a subscription on `to` that takes the changes made on `from`
 * (`origin = none`: only those made there, not those that it received itself).
 */
export interface Edge {
  readonly from: string;
  readonly to: string;
  readonly database: string;
}

export interface EdgeNames {
  /** On `to`, in the database. */
  readonly subscription: string;
  /**
   * On `from`. The walsender that serves it shows the same as its application name, so that it can stand in
   * `synchronous_standby_names`: no other walsender of that server has it.
   */
  readonly slot: string;
}

/** Of every replicated database. */
export const PUBLICATION = 'varve';
/** Schema of what Varve keeps in every replicated database. */
export const GROUP_SCHEMA = 'varve_group';

/** PostgreSQL's limit for names. */
const NAME_BYTES = 63;
const HASH_CHARS = 10;

export function edgeNames({ from, to, database }: Edge): EdgeNames {
  return {
    subscription: safeName(from, database),
    slot: slotName(to, database),
  };
}

/** Of the slot that `to` consumes on any other member. */
export function slotName(to: string, database: string): string {
  return safeName(to, database);
}

/** All edges among `nodes` for `databases`: n × (n − 1) each. */
export function allEdges(nodes: readonly string[], databases: readonly string[]): Edge[] {
  return databases.flatMap((database) =>
    nodes.flatMap((to) => nodes.filter((from) => from !== to).map((from) => ({ from, to, database }))),
  );
}

export function describeEdge({ from, to, database }: Edge): string {
  return `${from} → ${to} (${database})`;
}

/**
 * `varve_<node>_<database>` in letters that a slot's name may have, and short enough. Where the plain name could
 * be that of another pair, or has to be changed, a hash of the pair tells them apart.
 */
function safeName(node: string, database: string): string {
  const plain = `varve_${node}_${database}`;
  // Without an underscore in the node's name the place where it ends is certain.
  const certain = /^[a-z0-9]+$/.test(node) && /^[a-z0-9_]+$/.test(database);
  if (certain && plain.length <= NAME_BYTES && !HASHED.test(plain)) return plain;
  const hash = createHash('sha256').update(`${node}\0${database}`).digest('hex').slice(0, HASH_CHARS);
  const head = plain.replaceAll(/[^a-z0-9_]/g, '_').slice(0, NAME_BYTES - HASH_CHARS - 2);
  return `${head}_h${hash}`;
}

const HASHED = new RegExp(`_h[0-9a-f]{${HASH_CHARS}}$`);
