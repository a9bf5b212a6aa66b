/** A row of `backups.retention_rules`; database `*` is for those that have no row of their own. */
export interface RetentionRule {
  readonly database: string;
  readonly hours: number;
  /** So many of the newest stay, however old. */
  readonly keepCount: number;
}

export interface AgedBackup {
  readonly fileName: string;
  /** When it was taken; undefined for a file that cannot be read. */
  readonly createdAtMs: number | undefined;
}

const NO_RULE = { hours: 48, keepCount: 1 };

/**
 * Which of one database's backups are to be removed. The newest that can be read stays always, so that a database
 * whose backups have been failing keeps its last one; what cannot be read counts for nothing and is left for
 * people to look at until it is as old as its name says the rule allows.
 */
export function expiredBackups(
  backups: readonly AgedBackup[],
  database: string,
  rules: readonly RetentionRule[],
  nowMs: number,
): readonly string[] {
  const rule =
    rules.find((one) => one.database === database) ?? rules.find((one) => one.database === '*') ?? NO_RULE;
  const oldestMs = nowMs - rule.hours * 3_600_000;
  const readable = backups
    .flatMap(({ fileName, createdAtMs }) => (createdAtMs === undefined ? [] : [{ fileName, createdAtMs }]))
    .sort((a, b) => b.createdAtMs - a.createdAtMs);
  const unreadable = backups.flatMap(({ fileName, createdAtMs }) => {
    const namedMs = timeOfName(fileName);
    return createdAtMs === undefined && namedMs !== undefined && namedMs < oldestMs ? [fileName] : [];
  });
  return [
    ...readable
      .slice(Math.max(1, rule.keepCount))
      .filter(({ createdAtMs }) => createdAtMs < oldestMs)
      .map(({ fileName }) => fileName),
    ...unreadable,
  ];
}

/** `20260131T235959Z-…` */
function timeOfName(fileName: string): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-/.exec(fileName);
  if (!match) return undefined;
  const [, year, month, day, hour, minute, second] = match.map(Number);
  return Date.UTC(year ?? 0, (month ?? 1) - 1, day, hour, minute, second);
}
