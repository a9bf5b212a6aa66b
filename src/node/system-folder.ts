import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import { writePassfileEntry } from '../postgres/passfile.ts';
import type { NodeKind, NodeLayout, SystemLayout } from './layout.ts';

/** Superuser of the servers that nodes make, and the database on access nodes. */
/** Not `varve`: a role of that name would get its tables into the catalog's schema, by `search_path`. */
export const SUPERUSER = 'postgres';
export const DATABASE = 'varve';

/** How programs reach a system: `DIR/connections.json`. */
export interface Connections {
  readonly access: readonly {
    readonly name: string;
    readonly pid: number;
    readonly host: string;
    readonly port: number;
    readonly database: string;
    readonly user: string;
    readonly passwordFile: string;
  }[];
  readonly data: readonly {
    readonly name: string;
    readonly pid: number;
    readonly pgPort: number;
    readonly http: string;
  }[];
  readonly coordinator: { readonly kind: string; readonly url: string };
  readonly dashboard: string;
}

/** The files of a system folder; see `layout.ts`. */
export class SystemFolder {
  readonly path: string;
  readonly passwordFile: string;
  /** The same password in libpq's form, for `PGPASSFILE`. */
  readonly passfile: string;
  /** The secret that the members of the group of access nodes share. */
  readonly groupPasswordFile: string;
  readonly caFolder: string;
  readonly coordinatorFolder: string;

  constructor(path: string) {
    this.path = path;
    this.passwordFile = join(path, 'varve.password');
    this.passfile = join(path, 'pgpass');
    this.groupPasswordFile = join(path, 'group.password');
    this.caFolder = join(path, 'ca');
    this.coordinatorFolder = join(path, 'coordinator');
  }

  nodeFolder(name: string): string {
    return join(this.path, 'nodes', name);
  }

  configFile(name: string): string {
    return join(this.nodeFolder(name), 'node.json');
  }

  logFile(name: string): string {
    return join(this.nodeFolder(name), 'log', 'daemon.log');
  }

  /**
   * Undefined when the folder holds no system.
   * @throws SYSTEM_DAMAGED
   */
  readLayout(): Promise<SystemLayout | undefined> {
    return readJson<SystemLayout>(join(this.path, 'system.json'), (value) => value.version === 1);
  }

  writeLayout(layout: SystemLayout): Promise<void> {
    return writeJson(join(this.path, 'system.json'), layout);
  }

  /** Undefined when no system of this folder has become ready yet. */
  readConnections(): Promise<Connections | undefined> {
    return readJson<Connections>(join(this.path, 'connections.json'), (value) => Array.isArray(value.access));
  }

  writeConnections(connections: Connections): Promise<void> {
    return writeJson(join(this.path, 'connections.json'), connections);
  }

  /** What it says is of processes that are gone. */
  removeConnections(): Promise<void> {
    return rm(join(this.path, 'connections.json'), { force: true });
  }

  async writeNodeConfig(name: string, config: object): Promise<void> {
    await mkdir(join(this.nodeFolder(name), 'log'), { recursive: true, mode: 0o700 });
    await writeJson(this.configFile(name), config);
  }

  /** The superuser's password, shared by all nodes. */
  async password(): Promise<string> {
    return (await readFile(this.passwordFile, 'utf8')).trim();
  }

  /** Makes sure that there is a password. Made once: servers were initialised with it. */
  async ensurePassword(nodes: readonly NodeLayout[]): Promise<void> {
    if ((await readText(this.passwordFile)).trim() === '') await this.#makePassword(nodes);
    const key = { host: '127.0.0.1', port: '*', database: '*', user: SUPERUSER } as const;
    await writePassfileEntry(this.passfile, key, await this.password());
  }

  /** Made once: it is the password of the roles that replicate. */
  async ensureGroupPassword(): Promise<void> {
    if ((await readText(this.groupPasswordFile)).trim() !== '') return;
    await writeFileAtomic(this.groupPasswordFile, `${randomBytes(24).toString('base64url')}\n`);
  }

  async #makePassword(nodes: readonly NodeLayout[]): Promise<void> {
    // The file was lost: the servers still know the password.
    const kept = await Promise.all(
      nodes.map(({ name }) => readText(join(this.nodeFolder(name), 'pg', 'password'))),
    );
    const password = kept.map((text) => text.trim()).find((text) => text !== '');
    await writeFileAtomic(this.passwordFile, `${password ?? randomBytes(24).toString('base64url')}\n`);
  }
}

/** The connections document of a running system. */
export function connectionsOf(
  folder: SystemFolder,
  layout: SystemLayout,
  facts: { readonly pidOf: (name: string) => number; readonly coordinatorUrl: string },
): Connections {
  const of = (kind: NodeKind): NodeLayout[] => layout.nodes.filter((node) => node.kind === kind);
  const access = of('access').map(({ name, pgPort }) => ({
    name,
    pid: facts.pidOf(name),
    host: '127.0.0.1',
    port: pgPort,
    database: DATABASE,
    user: SUPERUSER,
    passwordFile: folder.passwordFile,
  }));
  const data = of('data').map(({ name, pgPort, httpPort }) => ({
    name,
    pid: facts.pidOf(name),
    pgPort,
    http: `http://127.0.0.1:${httpPort}`,
  }));
  return {
    access,
    data,
    coordinator: { kind: 'embedded', url: facts.coordinatorUrl },
    dashboard: `http://127.0.0.1:${of('access')[0]?.httpPort ?? 0}/`,
  };
}

async function readJson<T>(path: string, isWhole: (value: T) => boolean): Promise<T | undefined> {
  const text = await readText(path);
  if (text === '') return undefined;
  try {
    const value = JSON.parse(text) as T;
    if (isWhole(value)) return value;
  } catch {
    // Reported below.
  }
  throw new VarveError('SYSTEM_DAMAGED', `${path} is not what varve up writes`, {
    hint: 'Restore it from a copy. The data of the nodes is in nodes/ and not affected.',
  });
}

function writeJson(path: string, value: object): Promise<void> {
  return writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** '' when there is no such file. */
async function readText(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
}
