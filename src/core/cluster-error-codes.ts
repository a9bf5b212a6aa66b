import type { ErrorEntry } from './error-codes.ts';

/** The part of the registry that groups of access nodes need. */
export const CLUSTER_ERROR_CODES = {
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
  GROUP_FORGOTTEN: {
    sqlstate: '55000',
    http: 503,
    manual:
      'The coordinator knows nothing of a group of which this server’s databases are a part: it came back without its data, or it is another one than before. No second group is made. Bring the coordinator’s data back or correct its URL. When they are lost for good, write the group’s UUID, as the detail has it, into the coordinator’s key `varve/cluster/<cluster>/recover`: then the members record the group anew, and themselves as its members.',
  },
  GROUP_NAME_TAKEN: {
    sqlstate: '42710',
    http: 409,
    manual:
      'Another node is a member under this name, or a copied folder is started as another node. Nothing was changed. Give this node a name and a folder of its own; or, when the other is gone for good, have it leave (`varve cluster leave NODE`) or be replaced (`varve cluster replace OLD NEW`).',
  },
  GROUP_SHAPE: {
    sqlstate: 'F0000',
    http: 409,
    manual:
      'This node is configured for another kind of group, or another access database, than the group was made with; the detail has both. Nothing was changed. Correct the node’s configuration.',
  },
  GROUP_CLOCKS_APART: {
    sqlstate: '55000',
    http: 409,
    manual:
      'The clock of this machine differs from that of a server of the group by more than is allowed. Leases, schedules and the order of changes need clocks that agree. Nothing was changed. Have both synchronised (NTP), then start the node again.',
  },
  GROUP_NOT_EMPTY: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A database that a joining node would fill with the group’s content has tables of its own; the detail names some. They are not wiped without being asked. Move them elsewhere, or have the node reinitialised (`varve cluster reinit NODE`), which drops them.',
  },
  GROUP_MEMBER_AWAY: {
    sqlstate: '57P03',
    http: 503,
    manual:
      'Members of a group have to be reachable for what was asked, and one is not; the message names it. What had been begun is taken back. Start that member, or have it leave when it is gone for good (`varve cluster leave NODE`), then repeat.',
  },
  GROUP_OWNER_LOST: {
    sqlstate: '55000',
    http: 409,
    manual:
      'This node was creating a group and was silent for so long that another node took over from it: nothing had been committed by then. Start the node again: it becomes an ordinary member.',
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
  // src/cluster/master
  NOT_WRITE_MASTER: {
    sqlstate: '25006',
    http: 409,
    manual:
      'What was asked for is done on the group’s write master, and this member is not it, or is it no more. Nothing was changed. The hint names who is; while none is elected, repeat a little later.',
  },
  QUORUM_NOT_REACHED: {
    sqlstate: '57014',
    http: 503,
    manual:
      'A commit is on the write master, but not enough other members confirmed it in time. It may still reach them, or be lost with a fail-over. Look at which members the detail names: are they there, do they follow? In a group with the policy `safety` nobody can commit without them.',
  },
  SWITCHOVER_REFUSED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A planned change of the write master did not take place; the former one goes on. The message says why: the target is no member, has the tag `nofailover`, does not follow, is too far behind, or did not take over in time.',
  },
  GAP_NOT_COVERED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'A member lacks changes of a former write master that the member it asked does not keep any more, or never had. Nothing was applied from there. Others are asked; when nobody has them the member is told to join anew (`varve cluster reinit`), because going on would leave it different from the others for ever.',
  },
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
  GROUP_REQUEST_CANCELLED: {
    sqlstate: '57014',
    http: 409,
    manual:
      'What was asked of the group (a member that leaves, is replaced or made anew, a switch-over) was given up because somebody said `varve cluster cancel`. Nothing of it is left.',
  },
  GROUP_REQUEST_TOO_LATE: {
    sqlstate: '55000',
    http: 409,
    manual:
      'What was asked of the group cannot be cancelled any more: it is over, or it has come to a point from which it can only go on, as when content has been dropped. Nothing was changed. `varve cluster requests` shows how it goes.',
  },
  BACKUP_NOT_FOUND: {
    sqlstate: '58P01',
    http: 404,
    manual:
      'There is no file of that backup. A backup lies on the member that took it, and one that is older than its retention rule is removed. `varve cluster backup list` shows those of all members that answer, each with its member. Of namespaces: the folder is none of backups, or has no backup of that name; `varve backup list FOLDER` shows those that it has.',
  },
  // src/node: a group, from outside
  NOT_IN_GROUP: {
    sqlstate: '55000',
    http: 409,
    manual:
      'The node that was asked is in no group, or its bring-up has not come to that yet. Ask a node that was started with `cluster`; `varve status` shows what this one is doing.',
  },
  GROUP_UNREACHABLE: {
    sqlstate: '08001',
    http: 503,
    manual:
      'No member of the group answered at its HTTP address. The detail has the reason of each. `varve status` shows which nodes run.',
  },
  GROUP_REQUEST_FAILED: {
    sqlstate: '55000',
    http: 409,
    manual:
      'What was asked of the group (a switch-over, a member that leaves, a backup, …) was begun and has failed; the message has the reason. The group is as it was before, or carries on where it stopped when it is asked again.',
  },
} as const satisfies Record<string, ErrorEntry>;
