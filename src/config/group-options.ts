import { choice, count, duration, flag, httpUrls, nodeName, path, port, text } from './kinds.ts';
import { option } from './option.ts';

/** Settings of nodes that are members of a group, and of those who talk to one. */
export const GROUP_OPTIONS = {
  cluster: option(nodeName, {
    commands: ['node'],
    help: 'Name of the group that this access node is a member of. Without it the node stands alone.',
  }),
  clusterKind: option(choice('manager', 'service'), {
    commands: ['node'],
    default: 'manager',
    help: 'What the group is for: `manager` has the access database and runs the service broker; `service` has the databases that the broker hands out.',
  }),
  clusterSize: option(count(1, 64), {
    commands: ['node'],
    defaultText: '3 for a manager, 2 for a service group',
    help: 'For how many members the first bootstrap waits. A service group of one is a single PostgreSQL.',
  }),
  durability: option(choice('safety', 'availability'), {
    commands: ['up', 'node'],
    default: 'safety',
    help: 'What a group of two, and the databases of a service group, do when the other member is away: `safety` lets commits wait for it, `availability` goes on without.',
  }),
  host: option(text, {
    commands: ['node'],
    default: '127.0.0.1',
    help: 'Name or address under which the other members and clients reach this node. Beyond this machine the servers have to listen there, and every member needs the same `groupPasswordFile`.',
  }),
  leaseTtl: option(duration, {
    commands: ['up', 'node'],
    defaultText: '3s, or the least that the coordinator allows',
    help: 'How long the write master may be silent before another takes over; at most twice as long passes until the lease is known to be lost.',
  }),
  nofailover: option(flag, {
    commands: ['node'],
    default: false,
    help: 'This member never becomes write master by itself.',
  }),
  groupTimeout: option(duration, {
    commands: ['node'],
    default: 600_000,
    help: 'How long a member waits for the others, each time, before it says for whom it waited in vain and ends.',
  }),
  groupPasswordFile: option(path, {
    commands: ['node'],
    help: 'File, mode 0600, with the secret by which the members of a group know each other: one long random text, the same for all.',
  }),
  writePort: option(port, {
    commands: ['node'],
    help: "HAProxy's port that leads to the write master. Without it there is no HAProxy.",
  }),
  readPort: option(port, { commands: ['node'], help: "HAProxy's port that leads to the other members." }),
  poolerPort: option(port, {
    commands: ['node'],
    help: "Port of PgBouncer in front of this node's PostgreSQL. Without it there is none. Clients that want TLS are shown PostgreSQL's certificate, when it has one.",
  }),
  haproxy: option(path, {
    commands: ['up', 'node'],
    defaultText: 'that of the system, when it is installed',
    help: 'Program of HAProxy 2.4 or newer.',
  }),
  pgbouncer: option(path, {
    commands: ['up', 'node'],
    defaultText: 'that of the system, when it is installed',
    help: 'Program of PgBouncer 1.16 or newer.',
  }),
  brokerUser: option(text, {
    commands: ['node'],
    default: 'broker',
    help: 'User as whom a platform calls the service broker.',
  }),
  brokerPasswordFile: option(path, {
    commands: ['node'],
    defaultText: 'made in the folder of the node, with the same content on each member',
    help: 'File with the password of that user.',
  }),
  backupFolder: option(path, {
    commands: ['node'],
    defaultText: '`backups` in the folder of the node',
    help: 'Where backups of the databases of the group are kept.',
  }),
  coordinatorTokenFile: option(path, {
    commands: ['node', 'doctor'],
    help: "File with Consul's token.",
  }),
  coordinatorUser: option(text, {
    commands: ['node', 'doctor'],
    help: "etcd's user, where its authentication is enabled.",
  }),
  coordinatorPasswordFile: option(path, {
    commands: ['node', 'doctor'],
    help: 'File with the password of that user.',
  }),
  coordinatorCaFile: option(path, {
    commands: ['node', 'doctor'],
    help: "Root certificates that etcd's are checked against, PEM, beyond those that Node.js trusts.",
  }),
  coordinatorCertFile: option(path, {
    commands: ['node', 'doctor'],
    help: 'Certificate by which etcd knows this node, PEM; with `coordinatorKeyFile`.',
  }),
  coordinatorKeyFile: option(path, { commands: ['node', 'doctor'], help: 'Its key, PEM.' }),
  member: option(httpUrls, {
    commands: ['cluster'],
    defaultText: 'an access node of the system in --dir',
    help: 'HTTP address of any member of the group.',
    flagOnly: true,
  }),
  yes: option(flag, {
    commands: ['cluster', 'placement', 'bootstrap', 'restore'],
    default: false,
    help: 'Do what cannot be undone (reinit, leave, restore over what is there, accept-loss), or moves data, without asking.',
    flagOnly: true,
  }),
} as const;
