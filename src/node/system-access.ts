import { open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { messageOf, VarveError } from '../core/errors.ts';
import type { Endpoint } from '../postgres/connection.ts';
import { lockHolder } from '../core/folder-lock.ts';
import type { NodeLayout, SystemLayout } from './layout.ts';
import { systemStatus, type AskedNode, type NodeStatus, type SystemStatus } from './node-status.ts';
import { DATABASE, SUPERUSER, SystemFolder } from './system-folder.ts';

const ANSWER_TIMEOUT_MS = 3000;
const LOG_TAIL_BYTES = 16 * 1024;

/** A system as seen from outside: by its folder and the HTTP and SQL ports of its nodes. */
export class SystemAccess {
  readonly #folder: SystemFolder;
  readonly #layout: SystemLayout;

  private constructor(folder: SystemFolder, layout: SystemLayout) {
    this.#folder = folder;
    this.#layout = layout;
  }

  /** @throws SYSTEM_NOT_FOUND, SYSTEM_DAMAGED */
  static async find(dir: string): Promise<SystemAccess> {
    const folder = new SystemFolder(resolve(dir));
    const layout = await folder.readLayout();
    if (layout) return new SystemAccess(folder, layout);
    throw new VarveError('SYSTEM_NOT_FOUND', `${folder.path} holds no system`, {
      hint: 'Name its folder with --dir, or start one with varve up.',
    });
  }

  /**
   * How to log in to a node; without a name, to the access nodes, of which one takes writes.
   * @throws NODE_UNKNOWN
   */
  async endpoints(name?: string, database = DATABASE): Promise<Endpoint[]> {
    const { nodes } = this.#layout;
    const wanted = nodes.filter((each) => (name === undefined ? each.kind === 'access' : each.name === name));
    if (wanted.length === 0) {
      throw new VarveError('NODE_UNKNOWN', `there is no node "${name ?? 'an1'}" in ${this.#folder.path}`, {
        hint: `There are ${nodes.map((each) => each.name).join(', ')}.`,
      });
    }
    const password = await this.#folder.password();
    return wanted.map(({ pgPort: port }) => ({
      host: '127.0.0.1',
      port,
      database,
      user: SUPERUSER,
      password,
    }));
  }

  /** HTTP addresses of the access nodes. */
  accessUrls(): string[] {
    const access = this.#layout.nodes.filter(({ kind }) => kind === 'access');
    return access.map(({ httpPort }) => `http://127.0.0.1:${httpPort}`);
  }

  /** Asks every node. */
  async status(): Promise<SystemStatus> {
    return systemStatus(await Promise.all(this.#layout.nodes.map((node) => this.#ask(node))));
  }

  async #ask(node: NodeLayout): Promise<AskedNode> {
    const { name, kind, httpPort } = node;
    const http = `http://127.0.0.1:${httpPort}`;
    try {
      const response = await fetch(`${http}/api/status`, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
      const status = (await response.json()) as NodeStatus;
      // Another system may have taken the port.
      if (status.name !== name) throw new Error(`port ${httpPort} is answered by "${status.name}"`);
      return { name, kind, http, pid: status.pid, answer: { status } };
    } catch (error) {
      const pid = (await lockHolder(this.#folder.nodeFolder(name))) ?? null;
      return { name, kind, http, pid, answer: { unreachable: await this.#whyNot(name, pid, error) } };
    }
  }

  async #whyNot(name: string, pid: number | null, error: unknown): Promise<string> {
    if ((await lockHolder(this.#folder.path)) === undefined && pid === null)
      return 'the system is not running';
    if (pid !== null) return `process ${pid} does not answer: ${messageOf(error)}`;
    const last = await lastTrouble(this.#folder.logFile(name));
    return `its process is not running${last === '' ? '' : `; its log: ${last}`}`;
  }
}

/** The last warning or error of a node's log. */
async function lastTrouble(path: string): Promise<string> {
  for (const line of (await tail(path)).split('\n').toReversed()) {
    try {
      const { level, msg, error } = JSON.parse(line) as {
        level: number;
        msg: string;
        error?: { message?: string };
      };
      if (level >= 40) return error?.message === undefined ? msg : `${msg}: ${error.message}`;
    } catch {
      // Not one of ours: what Node itself prints when it crashes.
      if (/^\w*Error\b/.test(line)) return line;
    }
  }
  return '';
}

async function tail(path: string): Promise<string> {
  const file = await open(path, 'r').catch(() => undefined);
  if (!file) return '';
  try {
    const { size } = await file.stat();
    const from = Math.max(0, size - LOG_TAIL_BYTES);
    const buffer = Buffer.alloc(size - from);
    await file.read(buffer, 0, buffer.length, from);
    return buffer.toString();
  } finally {
    await file.close();
  }
}

/** The configuration files of a system's nodes; none where there is no system. */
export async function nodeConfigFiles(dir: string): Promise<string[]> {
  const folder = new SystemFolder(resolve(dir));
  const layout = await folder.readLayout();
  return layout?.nodes.map(({ name }) => folder.configFile(name)) ?? [];
}
