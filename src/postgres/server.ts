import { copyFile, mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock, type Clock } from '../core/clock.ts';
import { done, todo, type Check, type Step, type StepWork } from '../run/step.ts';
import { findBinaries, type Binaries } from './binaries.ts';
import { usableBinaries } from './binaries-copy.ts';
import { defaultCacheFolder } from './cache-folder.ts';
import { Connection } from './connection.ts';
import type { Endpoint } from './endpoint.ts';
import { initDatabase } from './init-database.ts';
import { OwnServer } from './own-server.ts';
import { checkPortFree, freePort } from './port.ts';
import { isAlive, signalProcess, type PidFile } from './postmaster.ts';
import { blockedAt, peerNames, resolveRunAsFor } from './run-as.ts';
import {
  configChange,
  configuredPort,
  DEFAULT_HBA,
  writeConfig,
  type ServerConfig,
} from './server-config.ts';
import { ServerFolder } from './server-folder.ts';
import type { ServerOptions } from './server-options.ts';
import { quoteIdent } from './sql.ts';
import { livePostmaster, spawnPostmaster, stopAdopted, untilReady } from './start-server.ts';

export { OwnServer, type ServerExit } from './own-server.ts';
export type { ServerOptions } from './server-options.ts';

const DEFAULT_START_TIMEOUT_MS = 120_000;
const DEFAULT_STOP_TIMEOUT_MS = 30_000;

/** What the steps of one server share; `server` is there after the last of them. */
export class ServerContext {
  readonly clock: Clock;
  readonly options: ServerOptions;
  server: OwnServer | undefined;
  #folder: Promise<ServerFolder> | undefined;
  #found: Promise<Binaries> | undefined;
  #port: number | undefined;

  constructor(deps: { readonly clock: Clock }, options: ServerOptions) {
    this.clock = deps.clock;
    this.options = options;
  }

  get superuser(): string {
    return this.options.superuser ?? 'postgres';
  }

  get startTimeoutMs(): number {
    return this.options.startTimeoutMs ?? DEFAULT_START_TIMEOUT_MS;
  }

  get stopTimeoutMs(): number {
    return this.options.stopTimeoutMs ?? DEFAULT_STOP_TIMEOUT_MS;
  }

  get durable(): boolean {
    return this.options.durable ?? true;
  }

  get cacheFolder(): string {
    return this.options.cacheFolder ?? defaultCacheFolder();
  }

  folder(): Promise<ServerFolder> {
    this.#folder ??= openFolder(this.options);
    return this.#folder;
  }

  /** Programs of the data folder's major, where there is one. */
  binaries(): Promise<Binaries> {
    this.#found ??= this.#find();
    return this.#found;
  }

  /** The programs, in a place from which the server's user can start them. */
  async programs(): Promise<Binaries> {
    const { runAs } = await this.folder();
    return usableBinaries(await this.binaries(), runAs, this.cacheFolder);
  }

  async admin(): Promise<Endpoint> {
    const password = await (await this.folder()).password();
    return {
      host: '127.0.0.1',
      port: await this.port(),
      database: 'postgres',
      user: this.superuser,
      password,
    };
  }

  /** Decided once: the given one, the one it had, or a free one. */
  async port(): Promise<number> {
    this.#port ??= this.options.port === 0 ? await this.#ownOrFreePort() : this.options.port;
    return this.#port;
  }

  async live(): Promise<PidFile | undefined> {
    const folder = await this.folder();
    if ((await folder.dataMajor()) === undefined) return undefined;
    // Its port is in its own file; the one that is wanted is decided when we know that it runs.
    const password = await folder.password();
    const admin = { host: '127.0.0.1', port: 1, database: 'postgres', user: this.superuser, password };
    return livePostmaster(this.clock, folder, admin);
  }

  async #find(): Promise<Binaries> {
    const wanted = this.options.binaries;
    const major = (await (await this.folder()).dataMajor()) ?? wanted?.major;
    return findBinaries({ kind: 'auto', ...wanted, major });
  }

  async #ownOrFreePort(): Promise<number> {
    const { dataDir } = await this.folder();
    const before = await configuredPort(dataDir);
    if (before === undefined) return freePort();
    if ((await this.live())?.port === before) return before;
    return checkPortFree(before).then(
      () => before,
      () => freePort(),
    );
  }
}

async function openFolder({ folder, runAs }: ServerOptions): Promise<ServerFolder> {
  return ServerFolder.at(folder, await resolveRunAsFor(join(folder, 'data'), runAs));
}

/** The bring-up of one server, as the steps of a node's run. */
export function serverSteps(): Step<ServerContext>[] {
  return [
    { name: 'init-database-folder', check: checkInit, apply: applyInit },
    { name: 'configure-database', check: checkConfig, apply: applyConfig },
    { name: 'start-database', check: checkStart, apply: applyStart },
  ];
}

/**
 * Brings a server up from whatever is in its folder: nothing, the leavings of a killed attempt, a stopped or
 * crashed server, or a running one, which is adopted.
 * @throws POSTGRES_NOT_FOUND, POSTGRES_USER, POSTGRES_FOLDER, POSTGRES_START, PORT_IN_USE, LOGIN_FAILED
 */
export async function startServer(
  options: ServerOptions,
  deps: { readonly clock?: Clock; readonly signal?: AbortSignal; readonly report?: StepWork['report'] } = {},
): Promise<OwnServer> {
  const context = new ServerContext({ clock: deps.clock ?? systemClock }, options);
  const work: StepWork = {
    signal: deps.signal ?? new AbortController().signal,
    report: deps.report ?? (() => {}),
  };
  for (const step of serverSteps()) {
    if ((await step.check(context, work)).state === 'todo') await step.apply(context, work);
  }
  if (!context.server) throw new Error('assertion failed: the last step leaves a server');
  return context.server;
}

async function checkInit(context: ServerContext): Promise<Check> {
  const folder = await context.folder();
  const major = await folder.dataMajor();
  const { version } = await context.binaries();
  return major === undefined ? todo(`no data folder in ${folder.path}: PostgreSQL ${version}`) : done;
}

async function applyInit(context: ServerContext, work: StepWork): Promise<void> {
  const { encoding, locale, localeProvider } = context.options;
  const folder = await context.folder();
  await folder.make();
  await initDatabase({ clock: context.clock, work }, folder, await context.programs(), {
    encoding,
    locale,
    localeProvider,
    superuser: context.superuser,
    durable: context.durable,
    timeoutMs: context.startTimeoutMs,
    cacheFolder: context.cacheFolder,
  });
}

async function checkConfig(context: ServerContext): Promise<Check> {
  const folder = await context.folder();
  if ((await folder.dataMajor()) === undefined) return todo('no data folder yet');
  const change = await configChange(folder.dataDir, await wantedConfig(context));
  const names = [...change.settings, ...(change.access ? ['pg_hba.conf'] : [])];
  return names.length === 0 ? done : todo(`to be set: ${names.join(', ')}`);
}

async function applyConfig(context: ServerContext): Promise<void> {
  const folder = await context.folder();
  await writeConfig(folder.dataDir, await wantedConfig(context), folder.runAs);
}

async function checkStart(context: ServerContext): Promise<Check> {
  const live = await context.live();
  return todo(live ? `process ${live.pid} runs and is adopted` : `to listen on port ${await context.port()}`);
}

async function applyStart(context: ServerContext, work: StepWork): Promise<void> {
  const folder = await context.folder();
  await folder.make();
  await folder.link();
  await refreshExtensionCopies(context);
  const live = await context.live();
  if (live?.status === 'stopping') await stopAdopted(context.clock, live.pid, context.stopTimeoutMs);
  else if (live && (await adopt(context, work, live))) return;
  const admin = await context.admin();
  const binaries = await context.programs();
  const deps = { clock: context.clock, work };
  const child = await spawnPostmaster(deps, { folder, binaries, admin, timeoutMs: context.startTimeoutMs });
  if (child.pid === undefined)
    throw new Error('assertion failed: a postmaster that is ready has a process id');
  context.server = ownServer(context, folder, { ...binaries, ...admin, pid: child.pid, child });
}

/** False when it has to be started anew: another port, version, or a setting that only a start changes. */
async function adopt(context: ServerContext, work: StepWork, live: PidFile): Promise<boolean> {
  const { clock } = context;
  const folder = await context.folder();
  const admin = await context.admin();
  const failure = (): string | undefined => (isAlive(live.pid) ? undefined : 'ended while it was adopted');
  const present = { ...admin, port: live.port === 0 ? admin.port : live.port };
  const parts = { folder, admin: present, timeoutMs: context.startTimeoutMs };
  await untilReady({ clock, work }, parts, { pid: live.pid, failure });
  const { version } = await context.binaries();
  const why = await restartReason(present, { port: admin.port, version });
  if (why === undefined) {
    signalProcess(live.pid, 'SIGHUP');
    const { major } = await context.binaries();
    context.server = ownServer(context, folder, { ...admin, major, version, pid: live.pid });
    return true;
  }
  work.report({ detail: `restarting process ${live.pid}: ${why}` });
  await stopAdopted(clock, live.pid, context.stopTimeoutMs);
  return false;
}

async function restartReason(
  present: Endpoint,
  wanted: { readonly port: number; readonly version: string },
): Promise<string | undefined> {
  await using connection = await Connection.open(present, { connectTimeoutMs: 10_000 });
  const { version, settings } = await connection.one<{ version: string; settings: string | null }>(
    `select pg_catalog.current_setting('server_version') as version,
            (select pg_catalog.string_agg(name, ', ') from pg_catalog.pg_file_settings
              where not applied and error is not null) as settings`,
  );
  if (present.port !== wanted.port) return `the port is to be ${wanted.port}`;
  // The program says 15.14, the server 15.14 (Debian …).
  if (version.split(' ')[0] !== wanted.version) return `it is ${version}, the programs are ${wanted.version}`;
  return settings === null ? undefined : `${settings} changed`;
}

function ownServer(
  context: ServerContext,
  folder: ServerFolder,
  parts: Pick<ConstructorParameters<typeof OwnServer>[1], 'port' | 'pid' | 'major' | 'version' | 'child'> & {
    readonly password?: string | undefined;
  },
): OwnServer {
  const { port, pid, major, version, child, password = '' } = parts;
  const { superuser, stopTimeoutMs, clock } = context;
  return new OwnServer(
    { clock },
    { folder, port, pid, major, version, child, password, superuser, stopTimeoutMs },
  );
}

async function wantedConfig(context: ServerContext): Promise<ServerConfig> {
  const { options } = context;
  const folder = await context.folder();
  const { major } = await context.binaries();
  const seen = (path: string): string => folder.seenByServer(path);
  const listen = ['127.0.0.1', ...(options.listenAddresses ?? [])];
  const extensions = (await extensionFolders(context)).map(({ used }) => seen(used));
  const peers = options.socketPeers && major >= 16 ? await peerNames(folder.runAs) : [];
  return {
    settings: {
      listen_addresses: listen.includes('*') ? '*' : [...new Set(listen)].join(','),
      port: String(await context.port()),
      unix_socket_directories: folder.socketDirForServer,
      password_encryption: 'scram-sha-256',
      log_line_prefix: '%m [%p] %q%u@%d ',
      ...(options.tls ? { ssl: 'on', ssl_cert_file: seen(options.tls.certFile) } : {}),
      ...(options.tls ? { ssl_key_file: seen(options.tls.keyFile) } : {}),
      ...(options.tls?.caFile === undefined ? {} : { ssl_ca_file: seen(options.tls.caFile) }),
      ...(context.durable ? {} : { fsync: 'off', full_page_writes: 'off' }),
      ...(major >= 18 && extensions.length > 0
        ? { extension_control_path: [...extensions, '$system'].join(':') }
        : {}),
      ...(typeof options.settings === 'function' ? options.settings(major) : options.settings),
    },
    // Whatever else is asked for, we get in.
    hba: [
      ...(peers.length > 0 ? ['local all all peer map=varve'] : []),
      `hostnossl all ${quoteIdent(context.superuser)} 127.0.0.1/32 scram-sha-256`,
      ...(options.hba ?? DEFAULT_HBA),
    ],
    ident: peers.map((user) => `varve ${quoteIdent(user)} all`),
  };
}

/** An extension folder that the server's user cannot read is copied into our own, which that user knows. */
async function extensionFolders(context: ServerContext): Promise<{ given: string; used: string }[]> {
  const folder = await context.folder();
  const given = context.options.extensionFolders ?? [];
  return Promise.all(
    given.map(async (path, i) => {
      const own = path.startsWith(`${folder.path}/`);
      const open = own || !folder.runAs || !(await blockedAt(join(path, 'extension'), folder.runAs));
      return { given: path, used: open ? path : join(folder.path, `extensions-${i}`) };
    }),
  );
}

async function refreshExtensionCopies(context: ServerContext): Promise<void> {
  const folder = await context.folder();
  for (const { given, used } of await extensionFolders(context)) {
    if (given === used) continue;
    await rm(used, { recursive: true, force: true });
    await mkdir(used, { recursive: true });
    await folder.own(used);
    await mkdir(join(used, 'extension'));
    await folder.own(join(used, 'extension'));
    for (const name of await readdir(join(given, 'extension'))) {
      await copyFile(join(given, 'extension', name), join(used, 'extension', name));
      await folder.give(join(used, 'extension', name));
    }
  }
}
