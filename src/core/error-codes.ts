/**
 * The registry of operating errors: one entry is one page of the manual. `docs/errors.md` is made from it.
 * The same code goes to the log, to HTTP, to the command line and, as SQLSTATE, to SQL clients.
 *
 * SQLSTATEs starting with `TS` are those of TimescaleDB 2.13, kept so that clients written for it still
 * recognise them; `VA` is Varve's own class.
 */
export interface ErrorEntry {
  /** Five characters, as PostgreSQL reports them. */
  readonly sqlstate: string;
  /** HTTP status of a response that carries this error. */
  readonly http: number;
  /** What happened, and what to do. */
  readonly manual: string;
}

export const ERROR_CODES = {
  INVALID_ARGUMENT: {
    sqlstate: '22023',
    http: 400,
    manual:
      'An argument or option is missing or outside of what it may be. The message names it and the rule. Nothing was changed: correct it and repeat.',
  },
  CONFIG_INVALID: {
    sqlstate: 'F0000',
    http: 400,
    manual:
      'A flag, environment variable or line of the configuration file is unknown or has a wrong value. The message names where it came from. See docs/configuration.md.',
  },
  DEADLINE_EXCEEDED: {
    sqlstate: '57014',
    http: 504,
    manual:
      'A wait reached its deadline. The message says what was waited for. Look at that first; raise the deadline only when it is merely slow.',
  },
  CANCELLED: {
    sqlstate: '57014',
    http: 499,
    manual:
      'The caller gave up (cancel, statement timeout, closed connection). What had been begun is taken back.',
  },
  JOURNAL_DAMAGED: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A journal of this node has a damaged record that is not its torn last one. The message has file and offset. Keep a copy of the file; the records before it are intact.',
  },
  JOURNAL_UNWRITABLE: {
    sqlstate: '58030',
    http: 500,
    manual:
      'A journal of this node cannot be written (full or failing disk). What was not acknowledged may be lost, nothing else. Free space or repair the disk, then restart the node.',
  },
  // src/postgres: connections
  CONNECTION_FAILED: {
    sqlstate: '08001',
    http: 502,
    manual:
      'A PostgreSQL server could not be reached, did not answer in time, or refused the connection before the login was decided. The message names host, port, database and user; the detail has the text of the server or the operating system. SQLSTATE is the server’s own where it gave one (3D000: the database does not exist). Check that the server runs, listens there and knows that database.',
  },
  CONNECTION_LOST: {
    sqlstate: '08006',
    http: 502,
    manual:
      'An open connection to PostgreSQL ended before its work was done: the server stopped, the backend was terminated, or the network broke. Whether a COMMIT under way took effect is unknown until it is looked up; everything else was rolled back by the server.',
  },
  LOGIN_FAILED: {
    sqlstate: '28000',
    http: 502,
    manual:
      'A PostgreSQL server refused the login, or asks for a password or certificate that was not given. SQLSTATE is the server’s (28P01: wrong password; 28000: no pg_hba.conf entry, unknown role, refused certificate). The server’s log says more than it tells the client.',
  },
  QUERY_FAILED: {
    sqlstate: 'XX000',
    http: 500,
    manual:
      'A PostgreSQL server answered a statement with an error. Message, detail, hint and SQLSTATE are the server’s.',
  },
} as const satisfies Record<string, ErrorEntry>;
