/** What can be called, in the order of `--help`. Of a name of two words the first is a group of `GROUPS`. */
export const COMMANDS = {
  up: 'Run a whole system on this machine: a coordinator, access nodes and data nodes. Resumes what it finds in its folder.',
  node: 'Run one node. `varve up` writes the configuration file and starts each node so.',
  status: 'Show the nodes of a system and what each of them is doing.',
  plan: 'Say what a start would do, without doing it.',
  sql: 'Run SQL on a node: one command, a script from standard input, or interactively.',
  'data-node': 'List, add and remove data nodes: the SQL functions for those who are at a shell.',
  cluster:
    'Look at the group of access nodes and act on it: who is write master, who waits for whom; switch over, pause, take members out and in, change settings, back up and restore.',
  'storage serve': 'Run a storage engine for metrics without PostgreSQL until it is told to stop.',
  'storage inspect':
    'List the filesets of storage engines: of which shard and block, how large, whether they are usable. Reads small files only.',
  'storage verify': 'Read every byte of the files of storage engines and tell what is not as it was written.',
  'storage export': 'Take samples out of a storage node that runs, as lines of JSON.',
  namespace: 'List, create, change and delete the namespaces that metrics are kept in.',
  placement:
    'Which storage node has which shards: show it, make it, add, remove and replace nodes, and see beforehand what would move.',
  bootstrap:
    'For the night when nothing else helps: let a bootstrap try again at once, go on without a peer, or give up what nobody has any more. Each is shown first, asked about, and kept in the history.',
  backup:
    'Backups of namespaces in a folder of this machine: take one from the storage nodes that run, list, verify and prune them. Databases are backed up by varve cluster backup.',
  restore: 'Put namespaces of a backup into the storage nodes that run, on every replica.',
  explain: 'Tell of a shard where its data came from on each storage node, when, and why not from elsewhere.',
  doctor: 'Check whether this machine, or an existing server, is fit for a node.',
} as const;

export type Command = keyof typeof COMMANDS;

/** Commands that belong together. */
export const GROUPS = {
  storage: 'The storage engine for metrics, and its files.',
} as const;

/** What stands behind a command without a flag. */
export const ARGUMENTS: Partial<Readonly<Record<Command, readonly string[]>>> = {
  'data-node': ['<list|plan|add|remove>', '[name]', '[host]'],
  namespace: ['<list|create|change|delete>', '[name]'],
  placement: ['<show|init|add|remove|replace|plan>', '[name]', '[name]', '[name]'],
  bootstrap: ['<retry|skip-peer|accept-loss>', '[peer or shard]'],
  backup: ['<create|list|verify|prune>', '[folder]', '[backup]'],
  restore: ['<folder>', '[backup]'],
  explain: ['<shard>', '[number]'],
  cluster: [
    '<plan|status|requests|cancel|switchover|pause|resume|leave|replace|reinit|config|backup|restore>',
    '[name]',
    '[value]',
    '[into]',
  ],
};

/** Those that ask storage nodes for something and print it. */
export const STORAGE_QUESTIONS = [
  'namespace',
  'placement',
  'bootstrap',
  'backup',
  'restore',
  'explain',
] as const satisfies readonly Command[];

/** Those that look at the files of storage engines, and print what they find. */
export const STORAGE_FILES = ['storage inspect', 'storage verify'] as const satisfies readonly Command[];
