import {
  choice,
  count,
  duration,
  flag,
  httpUrls,
  nodeName,
  path,
  port,
  postgresSource,
  text,
  type Kind,
} from './kinds.ts';
import { STORAGE_FILES, STORAGE_QUESTIONS, type Command } from './commands.ts';
import { GROUP_OPTIONS } from './group-options.ts';
import { option, type OptionSpec } from './option.ts';
import { STORAGE_OPTIONS } from './storage-options.ts';

const SYSTEM = [
  'up',
  'status',
  'plan',
  'sql',
  'data-node',
  'cluster',
  'storage serve',
  'storage export',
  ...STORAGE_FILES,
  ...STORAGE_QUESTIONS,
  'doctor',
] as const;
const ALL = ['node', ...SYSTEM] as const;

/**
 * Every setting of Varve, once. Flags, environment names, keys of the configuration file, `--help` and
 * docs/configuration.md are all made from this table.
 */
export const OPTIONS = {
  config: option(path, {
    commands: ALL,
    help: 'Configuration file (JSON). Its keys are listed in docs/configuration.md.',
    flagOnly: true,
  }),
  dir: option(path, {
    commands: SYSTEM,
    default: 'varve-data',
    help: 'Folder that holds all of a system started by `varve up`; with storage serve, inspect and verify also that of one engine.',
  }),
  access: option(count(1, 64), {
    commands: ['up'],
    defaultText: '3, or as many as the folder already has',
    help: 'Number of access nodes: 1, which stands alone, or 3 and more, which are one replicated group. A group may grow from one start to the next; a member is taken out with varve cluster leave.',
  }),
  data: option(count(0, 256), {
    commands: ['up'],
    defaultText: '3, or as many as the folder already has',
    help: 'Number of data nodes. May grow from one start to the next; data nodes are taken away with delete_data_node.',
  }),
  portBase: option(count(1024, 65_000), {
    commands: ['up'],
    help: 'First of the ports in use, counted upwards. Without it free ports are chosen once and kept.',
    defaultText: 'free ports, kept from then on',
  }),
  postgres: option(postgresSource, {
    commands: ['up', 'node', 'doctor'],
    defaultText: 'auto; with `up`: embedded, or what the folder was made with',
    secret: true,
    help: 'Where PostgreSQL comes from: `embedded` (from the npm package), `system` (installed on this machine), `auto` (system if there is one, else embedded), the folder of its programs, or, for a single node, the URL of a server that is already running.',
  }),
  metrics: option(flag, {
    commands: ['up'],
    default: true,
    help: "Write this machine's metrics to the distributed table public.host_metrics.",
  }),
  json: option(flag, {
    commands: ['up', 'status', 'plan', 'cluster', ...STORAGE_FILES, ...STORAGE_QUESTIONS, 'doctor'],
    default: false,
    help: 'Print JSON instead of text.',
    flagOnly: true,
  }),
  removeLeftovers: option(flag, {
    commands: ['doctor'],
    default: false,
    help: "Delete what TimescaleDB's old multi-node has left in the database that --postgres names, where nothing uses it.",
    flagOnly: true,
  }),
  watch: option(flag, {
    commands: ['status', 'cluster'],
    default: false,
    help: 'Repeat every second until stopped.',
    flagOnly: true,
  }),
  command: option(text, { commands: ['sql'], short: 'c', help: 'Run this SQL and end.', flagOnly: true }),
  node: option(nodeName, {
    commands: ['sql', 'data-node', 'storage export', ...STORAGE_FILES, ...STORAGE_QUESTIONS],
    help: 'Node to connect to.',
    defaultText:
      'the access node that takes writes; with storage export and namespace the first data node, with placement, backup and restore any, with storage inspect and verify, bootstrap and explain all',
    flagOnly: true,
  }),
  port: option(port, {
    commands: ['data-node', 'storage serve'],
    defaultText: 'that of the access node; with storage serve 9201',
    help: 'With data-node: port of the PostgreSQL server to add. With storage serve: port for HTTP.',
    flagOnly: true,
  }),
  nodeDatabase: option(text, {
    commands: ['data-node'],
    defaultText: 'the name of --database',
    help: 'Name of the database on the data node.',
    flagOnly: true,
  }),
  bootstrap: option(flag, {
    commands: ['data-node'],
    default: true,
    help: 'Make database and extension on the data node; without, they are only checked.',
    flagOnly: true,
  }),
  ifNotExists: option(flag, {
    commands: ['data-node'],
    default: false,
    help: 'With add: a data node of that name that is there already is no error.',
    flagOnly: true,
  }),
  ifExists: option(flag, {
    commands: ['data-node'],
    default: false,
    help: 'With remove: a data node that is not there is no error.',
    flagOnly: true,
  }),
  force: option(flag, {
    commands: ['data-node'],
    default: false,
    help: 'With remove: also when copies of data are lost, but never the last one.',
    flagOnly: true,
  }),
  dropDatabase: option(flag, {
    commands: ['data-node'],
    default: false,
    help: 'With remove: drop the database on the data node, too.',
    flagOnly: true,
  }),
  name: option(nodeName, { commands: ['node'], help: 'Name of the node, unique within its system.' }),
  kind: option(choice('access', 'data', 'storage'), { commands: ['node'], help: 'What the node is for.' }),
  folder: option(path, { commands: ['node'], help: "The node's own folder." }),
  pgPort: option(port, { commands: ['node'], help: 'Port of the PostgreSQL server that the node runs.' }),
  httpPort: option(port, { commands: ['node'], help: 'Port for HTTP on 127.0.0.1.' }),
  rpcPort: option(port, {
    commands: ['node'],
    help: 'Port on 127.0.0.1 where the SQL functions of an access node reach its daemon.',
  }),
  rpcHost: option(text, {
    commands: ['node'],
    default: '127.0.0.1',
    help: "Address on which an access node's daemon takes the calls of the SQL functions when the PostgreSQL server is not its own. Beyond this machine it needs `rpcCertFile` and `rpcKeyFile`.",
  }),
  rpcCertFile: option(path, { commands: ['node'], help: 'TLS certificate for `rpcHost`, PEM.' }),
  rpcKeyFile: option(path, { commands: ['node'], help: 'Its key, PEM.' }),
  passfile: option(path, {
    commands: ['up', 'node'],
    help: "libpq password file by which roles log in to data nodes. The access node's PostgreSQL has to be able to read it, too.",
  }),
  certificatesFolder: option(path, {
    commands: ['node'],
    help: 'Folder with `<md5 of the role>.crt` and `.key` by which roles log in to data nodes, for a node without an authority of its own.',
  }),
  caFile: option(path, {
    commands: ['node'],
    help: 'Root certificates that data nodes are checked against, for a node without an authority of its own.',
  }),
  dataNodeTls: option(choice('auto', 'disable', 'prefer', 'require', 'verify-full'), {
    commands: ['up', 'node'],
    default: 'auto',
    help: 'TLS to data nodes, as libpq names it. `auto`: verify-full where there are root certificates and the host is another machine, else prefer.',
  }),
  versionPolicy: option(choice('document', 'reversed'), {
    commands: ['up', 'node'],
    default: 'document',
    help: "Which extension versions fit: `document`: same major, and a data node's minor not newer than the access node's; `reversed`: as in TimescaleDB 2.8 to 2.13.",
  }),
  connectTimeout: option(duration, {
    commands: ['up', 'node'],
    default: 5_000,
    help: 'How long a connection to a data node may take to open.',
  }),
  callTimeout: option(duration, {
    commands: ['up', 'node'],
    default: 120_000,
    help: 'How long a whole call such as add_data_node may take.',
  }),
  database: option(text, {
    commands: ['node', 'sql', 'data-node'],
    default: 'varve',
    help: 'Name of the database.',
  }),
  passwordFile: option(path, {
    commands: ['node'],
    help: 'File with the password of the superuser `postgres` of a server that the node runs.',
  }),
  caFolder: option(path, {
    commands: ['node'],
    help: 'Folder of the certificate authority that issues the certificates of the nodes. Members of a group on several machines need the same: copy its `ca.pem`.',
  }),
  tlsNames: option(text, {
    commands: ['node'],
    help: "Further names and addresses, separated by commas, that the certificate of the node's own PostgreSQL is good for: those of a load balancer, say. It is for this machine's and those of the group's members anyway.",
  }),
  coordinatorKind: option(choice('embedded', 'consul', 'etcd'), {
    commands: ['node', 'doctor'],
    default: 'embedded',
    help: 'What answers at the URL of the coordinator: that of `varve up`, Consul 1.10 or newer, or etcd 3.4 or newer.',
  }),
  coordinator: option(httpUrls, {
    commands: ['node', 'doctor'],
    help: 'URL of the coordinator; of etcd those of its members, separated by commas.',
  }),
  ...GROUP_OPTIONS,
  ...STORAGE_OPTIONS,
  startTimeout: option(duration, {
    commands: ['up', 'node'],
    default: 120_000,
    help: 'How long a node may take to become ready before the start counts as failed.',
  }),
  stopTimeout: option(duration, {
    commands: ['up', 'node'],
    default: 30_000,
    help: 'How long a node may take to stop before it is ended by force.',
  }),
  logLevel: option(choice('debug', 'info', 'warn', 'error'), {
    commands: ['up', 'node', 'storage serve'],
    default: 'info',
    help: 'How much the nodes write to their logs.',
  }),
} as const;

export type OptionName = keyof typeof OPTIONS;
type Table = typeof OPTIONS;

type NamesOf<C extends Command> = {
  [K in OptionName]: C extends Table[K]['commands'][number] ? K : never;
}[OptionName];

type ValueOf<S> = S extends { readonly kind: Kind<infer T> }
  ? S extends { readonly default: infer _ }
    ? T
    : T | undefined
  : never;

/** The settings of a command after all sources were read. */
export type Options<C extends Command> = { readonly [K in NamesOf<C>]: ValueOf<Table[K]> };

/** `portBase` → `--port-base`. */
export function flagOf(name: OptionName): string {
  return `--${kebab(name)}`;
}

/** `portBase` → `VARVE_PORT_BASE`. */
export function environmentNameOf(name: OptionName): string {
  return `VARVE_${kebab(name).replaceAll('-', '_').toUpperCase()}`;
}

/** In the order of the table. */
export function optionsOf(command: Command): (readonly [OptionName, OptionSpec<unknown>])[] {
  return (Object.entries(OPTIONS) as [OptionName, OptionSpec<unknown>][]).filter(([, spec]) =>
    spec.commands.includes(command),
  );
}

/** As it is shown to people; `undefined` when there is none. */
export function defaultTextOf(spec: OptionSpec<unknown>): string | undefined {
  const value = spec.default;
  if (spec.defaultText !== undefined || value === undefined) return spec.defaultText;
  return spec.kind.show?.(value) ?? (typeof value === 'string' ? value : JSON.stringify(value));
}

function kebab(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
