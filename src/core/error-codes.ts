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
  // src/cluster
  GROUP_KEY_INVALID: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A key of a group at the coordinator holds something that no Varve of this version writes: it was edited by hand, or a newer version wrote it. The message has the key, the detail what is wrong in it. Nothing is guessed and nothing was changed. Put the former value back, or start the newer version.',
  },
  GROUP_EDGE_LOST: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A member of a group cannot get all of another member’s changes any more: the replication slot that kept them is gone or was given up, because the member was away for too long. It is not let diverge. Have it join anew (`varve cluster reinit NODE`), which drops the content of its replicated databases and copies the group’s.',
  },
  GROUP_LIMITS: {
    sqlstate: '53400',
    http: 409,
    manual:
      'A PostgreSQL server allows too few replication slots, WAL senders, workers or origins for its part in a group, or its wal_level is not logical. PostgreSQL itself would only write a warning into its log and replicate nothing. The detail has each setting with what it is and what it must be. Nothing was created. Set them and restart that server.',
  },
  // src/storage/index
  SELECTOR_INVALID: {
    sqlstate: '22023',
    http: 400,
    manual:
      'A series selector, one of its matchers or its regular expression is not valid. The message has the place in the text and what was wanted there. Selectors are those of PromQL, regular expressions those of RE2.',
  },
  SERIES_INVALID: {
    sqlstate: '22023',
    http: 400,
    manual:
      'The labels of a series are not in the form that the index takes: names that are not in ascending order or stand twice, an empty name or value, text that is not UTF-8, or too many or too long ones. The message has the limit. Nothing was added.',
  },
  INDEX_SEGMENT_DAMAGED: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'An index segment has bytes that nobody wrote there: a checksum does not match, it is cut off, or it is no index segment. The message has file and offset. No result was made from the damaged part; the index of that block is built again from its series or fetched from a peer.',
  },
  // src/storage: files
  COMMIT_LOG_FULL: {
    sqlstate: '53100',
    http: 503,
    manual:
      'The commit log found no room for a write, usually because the disk is full; the message has the system’s words. The write was refused, what was acknowledged is kept, and reads go on. Free space on that disk: writes are taken again by themselves.',
  },
  COMMIT_LOG_BUSY: {
    sqlstate: '53400',
    http: 503,
    manual:
      'More waits to be written to the commit log than it may hold in memory. The write was refused: repeat it in a moment. If it lasts, the disk is too slow for what is written.',
  },
  COMMIT_LOG_POISONED: {
    sqlstate: '58030',
    http: 503,
    manual:
      'A write or sync of the commit log failed, so nobody knows what of the last writes is on the disk; asking the system again would not tell. What was acknowledged in `sync` mode is safe; in `behind` mode the records from the sequence in the message on may be lost. The log takes no more writes. Look at the disk, then restart the node, which reads what is there.',
  },
  COMMIT_LOG_DAMAGED: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A part of the commit log is not what was written: the message has file, offset and size. The records before and after it were read. What was lost comes back from replicas, if there are any. Look at the disk.',
  },
  FILESET_DAMAGED: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A file of a fileset, a snapshot or a manifest is not what was written; the message has file and offset. Nothing is made of the damaged part. The block is put aside (folder `damaged` of its shard) and filled from the next source: an older volume, the commit log, or the replicas. Look at the disk.',
  },
  FILESET_EXISTS: {
    sqlstate: '42710',
    http: 409,
    manual:
      'A fileset of this block and volume is complete already; complete filesets are never written to. Write the next volume.',
  },
  SNAPSHOT_INCOMPLETE: {
    sqlstate: '55000',
    http: 500,
    manual:
      'A manifest of snapshots was not written, because one of its snapshots failed, is not finished, or is gone. The one before stays in force, and with it the commit log that it needs. The next attempt starts anew.',
  },
  STORAGE_FORMAT_UNKNOWN: {
    sqlstate: '0A000',
    http: 500,
    manual:
      'A file of the storage engine has a format version that this program does not know: a newer version wrote it. Nothing was changed. Start that version again.',
  },
  // src/storage: the engine
  NAMESPACE_INVALID: {
    sqlstate: '22023',
    http: 400,
    manual:
      'The options of a namespace contradict each other or are outside of what they may be; the message names the field and the rule. Nothing was changed.',
  },
  NAMESPACE_CHANGE_REFUSED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A namespace that exists cannot be changed this way: where its blocks begin and end, and whether it has index and log, is fixed when it is created. Nothing was changed. Create another namespace, or delete this one with its data first.',
  },
  NAMESPACE_UNKNOWN: {
    sqlstate: '3F000',
    http: 404,
    manual: 'The storage engine has no namespace of this name. Create it, or look at the spelling.',
  },
  WRITE_INVALID: {
    sqlstate: '22P02',
    http: 400,
    manual:
      'The body of a write request is not what its content type says (compression, protobuf, text). Nothing of it was taken; repeating it would not help. The message says what is wrong with it.',
  },
  STORAGE_OVERLOADED: {
    sqlstate: '53200',
    http: 503,
    manual:
      'The storage engine has no memory left for this write. It flushes and takes snapshots to get some: repeat the write in a moment. If it lasts, there are more series or open blocks than its memory allows: raise it, or shorten blocks and buffers.',
  },
  READ_LIMIT_EXCEEDED: {
    sqlstate: '54000',
    http: 422,
    manual:
      'A query selects more series or samples than its limits allow. Nothing is wrong with the data: narrow the selectors or the time range, or raise the limit.',
  },
  SHARD_NOT_READY: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'Data that the query needs is in shards that are not bootstrapped yet. Writes are taken meanwhile. Repeat it in a moment; the status tells how far the bootstrap is.',
  },
  STORAGE_BUSY: {
    sqlstate: '55006',
    http: 409,
    manual:
      'The storage engine cannot do this while it is bootstrapping or being closed: no flush, snapshot or clean-up happens then. Repeat it when it is ready.',
  },
  STORAGE_FOLDER_MISMATCH: {
    sqlstate: '55000',
    http: 409,
    manual:
      'The data in this folder was written with another number of shards than the configuration says; series would not be found where they are. Nothing was changed. Configure the number in the message, or use another folder.',
  },
  // src/cluster: proxies
  PROXY_CONFIG: {
    sqlstate: '58000',
    http: 500,
    manual:
      'HAProxy refuses the configuration that Varve made for it; the detail has its words, the hint the file. It goes on with the configuration before, so clients may still be led to a former write master, which refuses their writes. The usual reason is an HAProxy that is older than 2.4, or a port that another program has.',
  },
  PROXY_UNREACHABLE: {
    sqlstate: '08001',
    http: 503,
    manual:
      'HAProxy or PgBouncer of this node does not answer, or has not taken over its new configuration in time. It is started again and again meanwhile. Clients reach the group through the other nodes. Look at its output; the usual reason is a port that another program has.',
  },
  // src/cluster: control schema, tasks, backups, broker
  SCHEMA_NEWER: {
    sqlstate: '0A000',
    http: 409,
    manual:
      'The control schema of the group was made by a newer version of Varve than this one. Nothing was changed. Start the version that the other members run.',
  },
  SCHEMA_DIFFERS: {
    sqlstate: '55000',
    http: 409,
    manual:
      'An applied migration of the control schema is not what this program would have applied: somebody edited `rdpg.schema_version`, or the programs of the members differ. Nothing was changed. Start the version that the other members run.',
  },
  SECRET_KEY_INVALID: {
    sqlstate: 'F0000',
    http: 500,
    manual:
      'The file with the key that passwords are sealed with is missing, open to others, or holds no key. It has 64 hexadecimal digits and mode 0600, and is the same on all members: copy it from another one.',
  },
  SECRET_KEY_DIFFERS: {
    sqlstate: 'F0000',
    http: 500,
    manual:
      'This node has another key file than the group whose control database it opened. With it, no password of the group could be read. Copy the key file from another member, and start again.',
  },
  SECRET_UNREADABLE: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A sealed password does not open: it was sealed with another key, or its row was changed by hand. Unbind and bind again to get a new one.',
  },
  // src/storage: HTTP
  READ_INVALID: {
    sqlstate: '22023',
    http: 400,
    manual:
      'The body of a remote read request is not what it should be: no snappy block, no prometheus.ReadRequest, or it asks for a form of answer that is not known here. The message has the place. Senders of a released Prometheus do not get this; look at what is between.',
  },
  MEDIA_TYPE_UNSUPPORTED: {
    sqlstate: '22023',
    http: 415,
    manual:
      'The Content-Type or Content-Encoding of a request is not one that this address takes. The hint says which ones are.',
  },
  METHOD_NOT_ALLOWED: {
    sqlstate: '22023',
    http: 405,
    manual: 'The address is right and the method is not; the header Allow lists those that are.',
  },
  BODY_TOO_LARGE: {
    sqlstate: '54000',
    http: 413,
    manual:
      'The body of a request is larger than this node takes; the message has the limit. Nothing of it was read. Send smaller batches, or raise `maxBodyBytes`.',
  },
  TOKEN_REFUSED: {
    sqlstate: '28000',
    http: 401,
    manual:
      'The node asks for a bearer token (`Authorization: Bearer …`), which is missing or wrong. It is in the file that `storageTokenFile` names.',
  },
  STORAGE_NOT_READY: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'The storage engine of this node is not open: it is starting, or it could not be opened and is tried again. `/api/status` has the reason. Repeat the request later; senders of remote write do so by themselves.',
  },
  // src/cluster/master
  GAP_UNREADABLE: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'A change in the slot that a member keeps for filling gaps is not one that this version can read. Nothing of its transaction was applied. The detail has the place and the first bytes; report it. The member takes no part until its content is made anew.',
  },
  WRITE_MASTER_UNKNOWN: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'The group has no write master at the moment, so its control database cannot be written. It elects one by itself when enough members are alive. Repeat it then; `varve cluster status` says what the group waits for.',
  },
} as const satisfies Record<string, ErrorEntry>;
