/**
 * What of the queue of DDL nobody needs any more. The queue is what joiners replay and what backups carry, so it is
 * the history of the structure; only what leaves no trace in it may go:
 *
 * - the *life* of a table, view or sequence that was made and dropped by statements of the queue, with all statements
 *   that concern nothing else;
 * - refreshes of a materialized view between its first and its last.
 *
 * It errs on the side of keeping: a life stays when any statement that stays, up to its end, so much as mentions its
 * name.
 */
export interface QueuedStatement {
  readonly id: string;
  readonly role: string;
  readonly tag: string;
  readonly statement: string;
  /** What it made or changed, as PostgreSQL identifies it (`public."T"`); without schemas. */
  readonly touched: readonly string[];
  /** What it dropped, but for parts; undefined where that was not recorded. */
  readonly dropped: readonly DroppedObject[] | undefined;
}

export interface DroppedObject {
  readonly type: string;
  readonly identity: string;
}

const RELATIONS: ReadonlySet<string> = new Set(['table', 'view', 'materialized view', 'sequence']);
const DROPS: ReadonlySet<string> = new Set([
  'DROP TABLE',
  'DROP VIEW',
  'DROP MATERIALIZED VIEW',
  'DROP SEQUENCE',
]);
const CREATIONS: ReadonlySet<string> = new Set([
  'CREATE TABLE',
  'CREATE TABLE AS',
  'SELECT INTO',
  'CREATE VIEW',
  'CREATE MATERIALIZED VIEW',
  'CREATE SEQUENCE',
]);
/** Identities before and behind it are not the same. */
const RENAMES = /\b(?:rename|set\s+schema)\b/i;
const PRIVILEGE = /^\s*(?:grant|revoke)\b.*?\bon\s+(?:table\s+|sequence\s+)?([^\s,()]+)\s+(?:to|from)\b/is;
const PARTITION =
  /^\s*alter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?\S+\s+(?:attach|detach)\s+partition\s+([^\s;()]+)/i;

/** From the statement that made it to the one that dropped it: positions in the queue, both inclusive. */
interface Life {
  readonly identity: string;
  readonly from: number;
  readonly to: number;
}

/** Pure: the statements that can go, of a queue in its order. The last one always stays. */
export function compactable(queue: readonly QueuedStatement[]): string[] {
  const removed = new Set([...overLives(queue), ...repeatedRefreshes(queue)]);
  removed.delete(queue.length - 1);
  return [...removed].sort((a, b) => a - b).flatMap((at) => queue[at]?.id ?? []);
}

/** Gives lives up until those that are left can go without a trace. */
function overLives(queue: readonly QueuedStatement[]): Set<number> {
  let lives = livesOf(queue);
  for (;;) {
    const gone = removable(queue, lives);
    const kept = lives.filter((life) => canGo(queue, life, gone));
    if (kept.length === lives.length) return gone;
    lives = kept;
  }
}

function livesOf(queue: readonly QueuedStatement[]): Life[] {
  const born = new Map<string, number>();
  const lives: Life[] = [];
  for (const [at, { tag, touched, dropped }] of queue.entries()) {
    if (CREATIONS.has(tag)) {
      for (const identity of touched) if (!born.has(identity)) born.set(identity, at);
    }
    for (const { type, identity } of dropped ?? []) {
      const from = born.get(identity);
      born.delete(identity);
      if (from !== undefined && RELATIONS.has(type) && DROPS.has(tag)) lives.push({ identity, from, to: at });
    }
  }
  return lives;
}

/** The statements that concern nothing but these lives, each within its time. */
function removable(queue: readonly QueuedStatement[], lives: readonly Life[]): Set<number> {
  const at = (position: number, identity: string): boolean =>
    lives.some((life) => life.identity === identity && life.from <= position && position <= life.to);
  const gone = new Set<number>();
  const last = queue.length - 1;
  for (const [position, entry] of queue.entries()) {
    // With the last one stays what it is about.
    if (position === last || RENAMES.test(entry.statement)) continue;
    const concerned = [
      ...concernedBy(entry, queue),
      ...(entry.dropped ?? []).map(({ identity }) => identity),
    ];
    if (concerned.length > 0 && concerned.every((identity) => at(position, identity))) gone.add(position);
  }
  return gone;
}

/** A grant tells PostgreSQL's event triggers nothing, and a partition's comings and goings concern its table. */
function concernedBy(
  { tag, statement, touched }: QueuedStatement,
  queue: readonly QueuedStatement[],
): readonly string[] {
  const [, name] =
    (tag === 'GRANT' || tag === 'REVOKE' ? PRIVILEGE : tag === 'ALTER TABLE' ? PARTITION : /$^/).exec(
      statement,
    ) ?? [];
  if (name === undefined) return touched;
  // As it was typed; only where it can mean one thing.
  const all = new Set(queue.flatMap((entry) => entry.touched));
  const meant = [...all].filter((identity) => identity === name || identity.endsWith(`.${name}`));
  return meant.length === 1 ? meant : touched;
}

function canGo(
  queue: readonly QueuedStatement[],
  { identity, from, to }: Life,
  gone: ReadonlySet<number>,
): boolean {
  if (!gone.has(from) || !gone.has(to)) return false;
  const mention = mentionOf(nameIn(identity));
  return !queue.slice(0, to).some(({ tag, statement }, at) => {
    if (gone.has(at)) return false;
    // Behind it the same identity is another object.
    if (at > from && tag === 'ALTER SCHEMA' && RENAMES.test(statement)) return true;
    return mention.test(statement);
  });
}

/** Without its schema and quotes. */
function nameIn(identity: string): string {
  const [, quoted, plain] = /(?:"((?:[^"]|"")*)"|([^".]+))$/.exec(identity) ?? [];
  return quoted?.replaceAll('""', '"') ?? plain ?? identity;
}

function mentionOf(name: string): RegExp {
  const escaped = name.replaceAll('"', '""').replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
  return new RegExp(`(?<![\\p{L}\\p{N}_$])${escaped}(?![\\p{L}\\p{N}_$])`, 'iu');
}

/**
 * Of refreshes that follow each other, with nothing else about the view in between, the first makes it readable for
 * views that are built on it, and the last counts.
 */
function repeatedRefreshes(queue: readonly QueuedStatement[]): number[] {
  const runs = new Map<string, { readonly what: string; readonly first: number; latest: number }>();
  const repeated: number[] = [];
  for (const [at, { tag, statement, role, touched, dropped }] of queue.entries()) {
    const what = tag === 'REFRESH MATERIALIZED VIEW' ? JSON.stringify([role, statement]) : '';
    for (const identity of [...touched, ...(dropped ?? []).map((object) => object.identity)]) {
      const run = runs.get(identity);
      if (what === '') runs.delete(identity);
      else if (run?.what !== what) runs.set(identity, { what, first: at, latest: at });
      else {
        if (run.latest > run.first) repeated.push(run.latest);
        run.latest = at;
      }
    }
  }
  return repeated;
}
