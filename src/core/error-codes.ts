import { CLUSTER_ERROR_CODES } from './cluster-error-codes.ts';
import { STORAGE_ERROR_CODES } from './storage-error-codes.ts';

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
  FOLDER_IN_USE: {
    sqlstate: '55006',
    http: 409,
    manual:
      'Another process works in this folder: a system, a node or a coordinator; the message has its process id. Stop it, or choose another folder.',
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
  // src/coordination
  COORDINATOR_UNAVAILABLE: {
    sqlstate: '08006',
    http: 503,
    manual:
      'The coordinator did not answer in time, or has no leader. A read may be repeated; a write may or may not have taken effect. Check that the coordinator at the URL in the message runs and has a quorum.',
  },
  COORDINATOR_REFUSED: {
    sqlstate: '28000',
    http: 502,
    manual:
      'The coordinator answered that it will not do this: the token is missing, wrong or not allowed to, or what answers at that URL is no coordinator. Nothing was changed. Check URL and token.',
  },
  SESSION_LOST: {
    sqlstate: '57P05',
    http: 503,
    manual:
      'The session at the coordinator ended: it could not be renewed within its TTL, or somebody ended it. Its locks are lost with it. The node stops what it did under them and starts again with a new session; if it happens often, look for pauses of the process or raise the TTL.',
  },
  LOCK_TIMEOUT: {
    sqlstate: '55P03',
    http: 409,
    manual:
      'A lock at the coordinator was not granted within the time that the caller would wait. The message names who holds it; after the holder was lost, the lock delay must pass first.',
  },
  VALUE_TOO_LARGE: {
    sqlstate: '54000',
    http: 413,
    manual:
      'A value or transaction is larger than the coordinator takes (512 KiB, 64 operations). Nothing was written. The message has size and limit.',
  },
  // src/postgres: a server of our own
  POSTGRES_NOT_FOUND: {
    sqlstate: '58P01',
    http: 500,
    manual:
      'No PostgreSQL of a supported major version (15 to 18), or of the major that the data folder has, was found, or its programs cannot be used by the user it runs as. The detail lists where it was looked for. Install it, or configure the folder of its programs.',
  },
  POSTGRES_USER: {
    sqlstate: '58000',
    http: 500,
    manual:
      'PostgreSQL refuses to run as root, and the user it should run as does not exist or cannot be become. Name an existing ordinary user, or start as one.',
  },
  POSTGRES_FOLDER: {
    sqlstate: '58P01',
    http: 500,
    manual:
      'The folder of a PostgreSQL server cannot be used: it has another major version’s data, files that no server made, or a folder above it is closed to the user that the server runs as. The message names the folder and what is wrong with it.',
  },
  POSTGRES_START: {
    sqlstate: '57P03',
    http: 500,
    manual:
      'A PostgreSQL server of our own, or initdb, ended or did not become ready in time. The detail is the end of its log, which has the reason.',
  },
  POSTGRES_STOP: {
    sqlstate: '57P03',
    http: 500,
    manual:
      'A PostgreSQL server of our own was still there after a fast stop, an immediate stop and a kill. The message has its process id; look at the process’s state (a hanging disk?).',
  },
  PORT_IN_USE: {
    sqlstate: '58000',
    http: 500,
    manual:
      'The port that a server should listen on is taken. The message names the port and, where the system tells, the process. Stop that process or choose another port.',
  },
  // src/data-node
  INVALID_VERSION: {
    sqlstate: 'XX000',
    http: 500,
    manual:
      'An extension version does not start with three numbers (`1.3.1`), so it cannot be compared. Look at `pg_extension` and `pg_available_extension_versions` on the server that the message names.',
  },
  DATA_NODE_INVALID: {
    sqlstate: 'TS174',
    http: 409,
    manual:
      'A database or its extensions are not fit for a data node: encoding, locale, version, owner or schema differ from what the access node needs, or something is missing. Detail and hint name each difference. Nothing was changed.',
  },
  DATA_NODE_FOREIGN: {
    sqlstate: 'TS171',
    http: 409,
    manual:
      'The database belongs to another distributed database, or is an access node itself. The detail says whose it is. Nothing was changed.',
  },
  DATA_NODE_EXISTS: {
    sqlstate: '42710',
    http: 409,
    manual: 'The name, or the database under another name, is a data node already. Nothing was changed.',
  },
  DATA_NODE_READ_ONLY: {
    sqlstate: '25006',
    http: 409,
    manual: 'The server takes no writes: it is a standby. Give the address of its primary.',
  },
  DATA_NODE_SCHEMA_EXISTS: {
    sqlstate: '42P06',
    http: 409,
    manual:
      'The schema in which an extension has to be created is there already. Varve does not put its objects into a schema that others made. Drop or rename it, or use a database without it.',
  },
  DATA_NODE_BUSY: {
    sqlstate: '55P03',
    http: 409,
    manual:
      'Another call on the same database of that server has not ended: its transaction is open, or what it made is still being taken back. The detail says which. Repeat when it has ended.',
  },
  DATA_NODE_UNREACHABLE: {
    sqlstate: '08001',
    http: 502,
    manual:
      'The data node could not be connected to as the current user. The detail has the server’s or operating system’s words. The user must exist on both sides, and the data node must let it in by certificate or password.',
  },
  PERMISSION_DENIED: {
    sqlstate: '42501',
    http: 403,
    manual: 'A role lacks a right that the operation needs. The hint has the statement that grants it.',
  },
  PREPARED_TRANSACTIONS_DISABLED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A data node has `max_prepared_transactions = 0`, so commands on several nodes cannot be committed together. Set it there (a restart is needed), or pass transactional => false.',
  },
  UNKNOWN_OPERATION: {
    sqlstate: '0A000',
    http: 400,
    manual:
      'The SQL functions of the database asked for something that this daemon does not know: they are of another version. Update the daemon.',
  },
  PASSFILE_INVALID: {
    sqlstate: 'F0000',
    http: 500,
    manual:
      'A password file is open to its group or others, or is not a plain file. PostgreSQL’s own clients ignore such a file without a word, and the login then fails for lack of a password. Give it mode 0600.',
  },
  // src/data-node: shards
  SHARD_IN_PLACE: {
    sqlstate: 'TS170',
    http: 409,
    manual:
      'A shard that would have to be moved or dropped has rows, of which there is no other copy, or no other data node is available to take it. Nothing was changed. The detail says how many shards it is about. Delete the rows, copy them elsewhere first, or attach another data node.',
  },
  // src/node, src/cli
  SYSTEM_NOT_FOUND: {
    sqlstate: '58P01',
    http: 404,
    manual:
      'The folder holds no system that `varve up` has started. Name the right one with --dir, or start one.',
  },
  SYSTEM_DAMAGED: {
    sqlstate: 'F0000',
    http: 500,
    manual:
      'A file in which a system folder describes itself (system.json, connections.json) is not what Varve writes. Restore it; the data of the nodes is not affected.',
  },
  NODE_UNKNOWN: {
    sqlstate: '22023',
    http: 404,
    manual: 'There is no node of that name in this system. `varve status` lists them.',
  },
  NODE_START: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'A node did not become ready. The detail has its last error and where its log is. What has been done is kept: the next start carries on.',
  },
  GROUP_FOREIGN: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A database belongs to another group, or to another member of this one. Nothing was changed. The message names both: look whether this is the right server. A server that is to change its group has to leave the former one first.',
  },
  NOT_FOUND: {
    sqlstate: '22023',
    http: 404,
    manual: 'There is nothing at this address of a node’s HTTP server. The hint lists what there is.',
  },
  INTERNAL: {
    sqlstate: 'XX000',
    http: 500,
    manual:
      'A bug: something happened that Varve does not expect. The log has the stack. What was being done may be repeated.',
  },
  CERTIFICATE_INVALID: {
    sqlstate: 'F0000',
    http: 500,
    manual:
      'The file of the certificate authority is damaged, or its time is over. Restore it from a copy; a new authority is made when the file is moved away, and its certificate must then be given to all who trusted the old one.',
  },
  ...CLUSTER_ERROR_CODES,
  ...STORAGE_ERROR_CODES,
  BACKUP_DAMAGED: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A file of a backup is not what was written; the message has file and byte. Nothing was restored from it. Use another backup of that database or namespace, and look at the disk.',
  },
  BACKUP_FORMAT_UNKNOWN: {
    sqlstate: '0A000',
    http: 409,
    manual:
      'A backup has a format that this program does not know: a newer version of Varve wrote it. Restore it with that version.',
  },
  BACKUP_UNREPLICATED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'The database is not one of the group. A backup has the statements that made the tables, and only databases of a group keep those. Back it up with `pg_dump`, or restore into a database of the group.',
  },
  BACKUP_UNSETTLED: {
    sqlstate: '55006',
    http: 503,
    manual:
      'The structure of the database changed again and again while its backup began. Nothing was written. It is tried again later.',
  },
  RESTORE_TARGET_NOT_EMPTY: {
    sqlstate: '55006',
    http: 409,
    manual:
      'A backup is restored into a database or namespace without content, and this one has some; the message or its detail names a part of it. Nothing was changed. Restore into a new one, or empty this one (of namespaces: `--into NAME`, `--overwrite`).',
  },
  RESTORE_DIFFERS: {
    sqlstate: '55000',
    http: 409,
    manual:
      'What a restore made is not what the backup says: columns differ, or rows did not arrive; the detail names them. All of it was rolled back. The usual reason is an extension of another version than the original’s.',
  },
  DATABASE_UNKNOWN: {
    sqlstate: '3D000',
    http: 404,
    manual: 'The service group has no database of that name in its table `cfsb.instances`.',
  },
  DATABASE_UNAVAILABLE: {
    sqlstate: '55000',
    http: 409,
    manual:
      'The database is not in a state for this: it is not assigned to anybody, or was given back already. Nothing was changed.',
  },
  DATABASE_NOT_DROPPED: {
    sqlstate: '55006',
    http: 503,
    manual:
      'A database could not be taken away from all members; the detail says from which, and why. Nobody can log in to it any more. It is tried again until all members are there.',
  },
  SERVICE_CLUSTER_UNREACHABLE: {
    sqlstate: '08006',
    http: 502,
    manual:
      'A service group did not answer, or answered what a service group does not. The detail says which and what. What its databases are is asked again at the next time; nothing was changed.',
  },
  ADMIN_TOKEN_WRONG: {
    sqlstate: '28000',
    http: 401,
    manual:
      'A request for the administration of a service group’s databases had no token, or a wrong one. Manager and service groups share it in a file of mode 0600: compare the files.',
  },
} as const satisfies Record<string, ErrorEntry>;
