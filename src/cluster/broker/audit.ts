import type { Connection } from '../../postgres/connection.ts';

export interface AuditEntry {
  readonly cluster: string;
  readonly node: string;
  /** Who did it: `broker`, `task`, `cli`. */
  readonly actor: string;
  readonly action: string;
  /** What it was done to. */
  readonly target: string;
  readonly outcome: 'ok' | 'refused' | 'error';
  /** On whose behalf: the user of the platform, as the platform says. */
  readonly origin?: Readonly<Record<string, unknown>> | undefined;
  readonly requestId?: string | undefined;
  readonly detail?: Readonly<Record<string, unknown>> | undefined;
}

/** In the caller's transaction where there is one: what was done and that it was done stand or fall together. */
export async function writeAudit(connection: Connection, entry: AuditEntry): Promise<void> {
  await connection.query(
    `insert into audit.log (cluster_id, node, actor, origin, request_id, action, target, outcome, detail)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      entry.cluster,
      entry.node,
      entry.actor,
      entry.origin === undefined ? null : JSON.stringify(entry.origin),
      entry.requestId ?? null,
      entry.action,
      entry.target,
      entry.outcome,
      JSON.stringify(entry.detail ?? {}),
    ],
  );
}
