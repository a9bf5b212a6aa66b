import { VarveError } from '../core/errors.ts';
import type { Connection, Endpoint, Notice, TextResult } from '../postgres/connection.ts';
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
    const results = await this.#connection.queryText(sql, signal ? { signal } : {});
    return results.flatMap(resultLines);
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
