import type { ErrorEntry } from './error-codes.ts';

/** The part of the registry that the storage engine needs. */
export const STORAGE_ERROR_CODES = {
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
  SHARD_NOT_OWNED: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'A request is about a shard that the placement gives to other nodes, or no longer to this one. Nothing of it was done. Nodes that pass requests on find the right ones themselves: repeat it in a moment, or send it to another node; `varve placement show` tells which has what.',
  },
  PEER_UNAVAILABLE: {
    sqlstate: '08006',
    http: 503,
    manual:
      'A node that has replicas of the same shards could not be reached, answered too late, or answered something that is no answer. Data was not taken from it; the bootstrap asks others, and comes back to it later. Look at that node, and at the network between.',
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
  BOOTSTRAP_INTERVENTION_REFUSED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'What an operator wanted the bootstrap of a node to do makes no sense there: no shard waits for that peer, or nothing of that range is without a source. Nothing was changed. `varve explain shard N` shows what is waited for, and `varve bootstrap` takes what that says.',
  },
  // src/storage/backup
  BACKUP_INCOMPLETE: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'A backup of namespaces was not made, because fewer replicas of a shard than wanted could give what they have; the message names the shard, its nodes and what each said. What had been written by then is used by the next backup into the same folder. Bring the nodes back and repeat it; with `--consistency one` a single replica of each shard is enough, and the backup may lack what that one has missed.',
  },
  RESTORE_REFUSED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A backup of namespaces cannot be restored here as things are: blocks of another size, shards that are on their way between nodes, or a namespace that was made anew since the restore began. The message says which. Nothing was changed by this request; the hint says what to do.',
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
  // src/placement
  PLACEMENT_MISSING: {
    sqlstate: '42704',
    http: 404,
    manual:
      'There is no placement yet: no storage node has been given shards, and each node that is asked stands alone. `varve placement init` makes one; under `varve up` it is made when the data nodes are added.',
  },
  PLACEMENT_REFUSED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'The placement cannot be changed so: the message has the rule. Most often too few isolation groups would be left for the replica factor, or the name belongs to the registry of data nodes, which looks after it. Nothing was changed.',
  },
  PLACEMENT_CONFLICT: {
    sqlstate: '40001',
    http: 409,
    manual:
      'Others changed the placement each time between reading and writing it. Nothing was changed by this request. Repeat it.',
  },
  PLACEMENT_TOO_LARGE: {
    sqlstate: '54000',
    http: 422,
    manual:
      'The placement, compressed, is larger than a value of the coordinator may be; the message has both sizes. Nothing was changed. Fewer shards take less room.',
  },
  PLACEMENT_UNREADABLE: {
    sqlstate: 'XX001',
    http: 500,
    manual:
      'What the coordinator holds as the placement is not one: it was written by a newer version or edited by hand. Nodes go on with the last placement that they knew, and nothing is changed. Put the value back that the key had, from a backup of the coordinator.',
  },
  // src/storage/replication
  WRITE_LEVEL_NOT_REACHED: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'Fewer replicas than `writeConsistency` wants took a write in time; the message says which did not and why. The write is not acknowledged, although some replicas may have it: repeat it, which does no harm. Senders of remote write do so by themselves.',
  },
  READ_LEVEL_NOT_REACHED: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'For some shards fewer replicas than `readConsistency` wants could be read; the hint says which did not answer and why. Repeat it in a moment, look at the nodes that are named, or read with a lower level.',
  },
  PLACEMENT_STALE: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'A node passed a write on by a placement that is older than the newest replica of the shards: that one would have missed it. Nothing of it was taken. The node reads the placement and sends it again by itself; clients see this only as the reason of WRITE_LEVEL_NOT_REACHED, when that node does not reach the coordinator.',
  },
  REPLICA_UNREACHABLE: {
    sqlstate: '08006',
    http: 503,
    manual:
      'Another storage node did not answer, or broke off in the middle of its answer; the message has the system’s words. What it missed is kept for it as hints, and reads ask other replicas. Look whether that node runs and can be reached at the endpoint that the placement has.',
  },
  CLOCK_AHEAD: {
    sqlstate: '22008',
    http: 503,
    manual:
      'The node that passed a write on has a clock that is more than five minutes ahead of this one’s. Versions of samples come from these clocks, so it was not taken. Set the clocks of all nodes by the same source; the write is repeated by itself.',
  },
} as const satisfies Record<string, ErrorEntry>;
