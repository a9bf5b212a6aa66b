import { VarveError } from '../core/errors.ts';
import type { Connection, Endpoint, Notice, TextResult } from '../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import { openWritable } from './open-writable.ts';
import { textTable } from './text-table.ts';

const CONNECT_TIMEOUT_MS = 10_000;

/** A person's session: no time limits but that of connecting, results as text. */
export class SqlClient implements AsyncDisposable {
  readonly #connection: Connection;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Of several servers, to the one that takes writes. */
  static async open(endpoints: readonly Endpoint[], onNotice: (lines: string[]) => void): Promise<SqlClient> {
    const connection = await openWritable(endpoints, {
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      statementTimeoutMs: 0,
      applicationName: 'varve sql',
      onNotice: (notice) => onNotice(noticeLines(notice)),
    });
    return new SqlClient(connection);
  }

  get inTransaction(): boolean {
    return this.#connection.inTransaction;
  }

  get closed(): boolean {
    return this.#connection.closed;
  }

  /** Runs what was typed; the lines to show. The signal cancels it on the server. */
  async run(sql: string, signal?: AbortSignal): Promise<string[]> {
    try {
      const results = await this.#connection.queryText(sql, signal ? { signal } : {});
      return results.flatMap(resultLines);
    } catch (error) {
      throw await this.#withWriteMaster(error);
    }
  }

  /** PostgreSQL itself does not know who takes writes when it refuses them; its database does. */
  async #withWriteMaster(error: unknown): Promise<unknown> {
    if (sqlStateOf(error) !== SqlState.readOnlySqlTransaction || !(error instanceof VarveError)) return error;
    if (error.hint !== undefined || this.closed || this.inTransaction) return error;
    const master = await this.#writeMaster();
    if (master === undefined) return error;
    const hint = `The write master is "${master}": connect there, or through the group's write port.`;
    return new VarveError(error.code, error.message, { sqlstate: error.sqlstate, hint, cause: error });
  }

  async #writeMaster(): Promise<string | undefined> {
    try {
      const { master } = await this.#connection.one<{ master: string | null }>(
        'select varve_group.write_master() as master',
      );
      return master ?? undefined;
    } catch {
      return undefined; // In no group.
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connection.close();
  }
}

/** As psql shows a result: rows as a table with their count, otherwise the command with its count. */
export function resultLines({ columns, rows, rowCount, command }: TextResult): string[] {
  if (columns.length > 0) {
    const cells = rows.map((row) => row.map((value) => (value ?? '').replaceAll('\n', '↵')));
    return [...textTable(columns, cells), `(${rows.length} row${rows.length === 1 ? '' : 's'})`, ''];
  }
  if (command === '') return [];
  const counted = ['INSERT', 'UPDATE', 'DELETE', 'MERGE', 'COPY', 'SELECT', 'MOVE', 'FETCH'].includes(
    command,
  );
  return [counted ? `${command} ${rowCount}` : command];
}

export function noticeLines({ severity, message, detail, hint }: Notice): string[] {
  return labelled(severity, message, detail, hint);
}

/** `ERROR 42P01: …` with DETAIL and HINT below. */
export function sqlErrorLines(error: unknown): string[] {
  if (!(error instanceof VarveError))
    return [`ERROR: ${error instanceof Error ? error.message : String(error)}`];
  return labelled(`ERROR ${error.sqlstate}`, error.message, error.detail, error.hint);
}

function labelled(label: string, message: string, detail?: string, hint?: string): string[] {
  return [
    `${label}: ${message}`,
    ...(detail === undefined ? [] : [`DETAIL: ${detail}`]),
    ...(hint === undefined ? [] : [`HINT: ${hint}`]),
  ];
}
