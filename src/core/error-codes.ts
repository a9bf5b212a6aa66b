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
} as const satisfies Record<string, ErrorEntry>;
