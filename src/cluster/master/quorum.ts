import type { QuorumRule } from '../group-keys.ts';
import { slotName } from '../mesh/edge.ts';

/**
 * Who has to confirm a commit, and who therefore has to be fenced before another may be master.
 *
 * A commit of the access database is acknowledged when `count` of the `others` have it. So when all but
 * `count − 1` of them take nothing of a master any more, it can acknowledge nothing, whether it knows that or
 * not; and among these there is one who has any commit that it did acknowledge.
 */

/** What a group does when too few members are left: no commits, or commits that only one server may have. */
export type QuorumPolicy = 'safety' | 'availability';

export interface QuorumOptions {
  readonly policy: QuorumPolicy;
  /** `majority`: half of the others, rounded up in a group of two. `all`: every other member. */
  readonly confirm: 'majority' | 'all';
}

/** Never asks for more members than there are; a server that is alone asks for none. */
export function ruleFor(master: string, members: readonly string[], options: QuorumOptions): QuorumRule {
  const others = members.filter((node) => node !== master).toSorted();
  if (options.policy === 'availability') return { others, count: 0 };
  const majority = Math.floor(members.length / 2);
  return { others, count: options.confirm === 'all' ? others.length : Math.min(majority, others.length) };
}

/** How many of the others have to be fenced. */
export function fencesNeeded({ others, count }: QuorumRule): number {
  return count === 0 ? 0 : others.length - count + 1;
}

/** Whether a master under any of these rules can acknowledge nothing any more. */
export function isFenced(rules: readonly QuorumRule[], fenced: ReadonlySet<string>): boolean {
  return rules.every((rule) => rule.others.filter((node) => fenced.has(node)).length >= fencesNeeded(rule));
}

/** For whom it is waited, where it is not fenced. */
export function notFenced(rules: readonly QuorumRule[], fenced: ReadonlySet<string>): string[] {
  const missing = rules.filter((rule) => !isFenced([rule], fenced)).flatMap(({ others }) => others);
  return [...new Set(missing)].filter((node) => !fenced.has(node)).toSorted();
}

export function sameRule(a: QuorumRule, b: QuorumRule): boolean {
  return a.count === b.count && a.others.join() === b.others.join();
}

/**
 * Nobody has this name. A member that is not master stands under it, so that no commit of a client is
 * acknowledged there, and so that there is no moment in which a new master waits for nobody: PostgreSQL lets
 * all who wait go when the setting becomes empty, and takes a while to notice that it is not empty any more.
 */
export const NOBODY = 'varve_nobody';

/** The value of `synchronous_standby_names` for a rule; of several databases when `all` have to confirm. */
export function standbyNames(rule: QuorumRule | undefined, databases: readonly string[]): string {
  if (!rule) return `ANY 1 ("${NOBODY}")`;
  if (rule.count === 0 || rule.others.length === 0 || databases.length === 0) return '';
  const names = databases.flatMap((database) => rule.others.map((node) => `"${slotName(node, database)}"`));
  if (databases.length === 1) return `ANY ${rule.count} (${names.join(', ')})`;
  // A quorum among walsenders of several databases says nothing about any one of them.
  return `FIRST ${names.length} (${names.join(', ')})`;
}
