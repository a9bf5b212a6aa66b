import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readFile, realpath, stat, symlink } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { platform } from 'node:process';
import { VarveError } from '../core/errors.ts';
import { syncFolder, writeFileAtomic } from './atomic-file.ts';
import { closedFolder, makePassable, type RunAs } from './run-as.ts';

/** The descriptor under which each program of PostgreSQL gets its data folder. */
export const DATA_FD = 3;

/** A unix socket's path, terminating zero included, is at most 108 bytes on Linux and 104 elsewhere. */
const SOCKET_PATH_MAX_BYTES = 103;
const LINK_TO_FOLDER = 'varve-node';
const SOCKET_NAME_BYTES = '/.s.PGSQL.65535'.length;

/**
 * The folder of one server of ours:
 *
 *     data/          the data folder
 *     data.initdb-*  a data folder in the making
 *     socket/        the server's unix socket, and room for others that its backends are to reach
 *     password       of the superuser, 0600
 *     postgres.log   and postgres.log.1
 *
 * **Paths as the server sees them.** When we are root, the server runs as another user, who may be unable to
 * pass one of the folders above (a checkout below /root). Then the server is given its data folder as an open
 * descriptor, and as `-D /proc/self/fd/3`: the kernel follows such a link without asking for rights on the
 * folders above. Postmaster and backends then enter the data folder and never leave it, so that everything else
 * has a name that starts with `/proc/self/cwd/`. What lies beside the data folder is reached by a link in it to
 * `..`, because PostgreSQL itself shortens `cwd/../x` to `x`; our own folder lets others pass. (Starting it in
 * the data folder, with `-D /proc/self/cwd`, would do from 16 on; 15 leaves its working directory and returns
 * to it by name.) This is the one place that decides it; the rest of the room asks.
 */
export class ServerFolder {
  readonly path: string;
  readonly dataDir: string;
  readonly socketDir: string;
  readonly passwordFile: string;
  readonly logFile: string;
  readonly runAs: RunAs | undefined;
  readonly #byDescriptor: boolean;

  private constructor(path: string, runAs: RunAs | undefined, byDescriptor: boolean) {
    this.path = path;
    this.dataDir = join(path, 'data');
    this.socketDir = join(path, 'socket');
    this.passwordFile = join(path, 'password');
    this.logFile = join(path, 'postgres.log');
    this.runAs = runAs;
    this.#byDescriptor = byDescriptor;
  }

  /**
   * Looks, and changes nothing.
   * @throws POSTGRES_FOLDER when the server's user cannot reach it and this system has no way around
   */
  static async at(path: string, runAs: RunAs | undefined): Promise<ServerFolder> {
    const whole = await realPathOfNew(path);
    // The folder itself is opened by `make`; what lies above it is not ours to open.
    const closed = runAs && (await closedAbove(dirname(whole), runAs));
    if (closed !== undefined && platform !== 'linux') {
      throw new VarveError(
        'POSTGRES_FOLDER',
        `user ${runAs?.user} cannot reach ${whole}: ${closed} is closed`,
        {
          hint: `Choose another folder, open ${closed} for that user, or start as an ordinary user.`,
        },
      );
    }
    return new ServerFolder(whole, runAs, closed !== undefined);
  }

  /** Makes what is missing, but for the data folder. */
  async make(): Promise<void> {
    if (this.runAs) {
      await makePassable(this.path);
      // The server's user passes through, and sees nothing: what is inside has modes of its own.
      await chmod(this.path, ((await stat(this.path)).mode & 0o777) | 0o711);
    } else await mkdir(this.path, { recursive: true, mode: 0o700 });
    await this.own(this.socketDir);
  }

  /** Makes a folder that only the server's user may enter. */
  async own(path: string): Promise<void> {
    await mkdir(path, { mode: 0o700, recursive: true });
    await this.give(path);
  }

  /** Makes a file the server's user's. */
  async give(path: string): Promise<void> {
    if (this.runAs) await chown(path, this.runAs.uid, this.runAs.gid);
  }

  /** A path by the name under which the running server knows it. */
  seenByServer(path: string): string {
    return this.#byDescriptor ? this.#fromWorkingDirectory(path) : path;
  }

  /** For `-D`, of a program that has `dataDir` open as `DATA_FD`. */
  dataArgument(dataDir: string = this.dataDir): string {
    return this.#byDescriptor ? `/proc/self/fd/${DATA_FD}` : dataDir;
  }

  /** The socket folder as the server names it: also short enough for a socket's path, where Linux has a way. */
  get socketDirForServer(): string {
    const seen = this.seenByServer(this.socketDir);
    if (Buffer.byteLength(seen) + SOCKET_NAME_BYTES <= SOCKET_PATH_MAX_BYTES) return seen;
    if (platform === 'linux') return this.#fromWorkingDirectory(this.socketDir);
    throw new VarveError('POSTGRES_FOLDER', `the path ${this.socketDir} is too long for a unix socket`, {
      hint: 'Choose a folder with a shorter path.',
    });
  }

  /** Options of `spawn` for a program of PostgreSQL that works on `dataDir`. */
  spawnOptions(dataDir: string = this.dataDir): {
    cwd: string;
    env: Record<string, string>;
    uid?: number;
    gid?: number;
  } {
    return {
      cwd: this.#byDescriptor ? '/' : dataDir,
      // Nothing of our own environment: PG* variables would reach the server, a locale its messages.
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
      ...(this.runAs ? { uid: this.runAs.uid, gid: this.runAs.gid } : {}),
    };
  }

  /** The superuser's password: what the file has, or a new one, durable before it is returned. */
  async password(): Promise<string> {
    const kept = await readFile(this.passwordFile, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    });
    if (kept.trim() !== '') return kept.trim();
    const made = randomBytes(32).toString('base64url');
    // The server's user reads it during initdb; it is the password of its own superuser.
    await writeFileAtomic(this.passwordFile, `${made}\n`, { owner: this.runAs });
    return made;
  }

  /** Major version of the data folder; undefined when there is none yet. */
  async dataMajor(): Promise<number | undefined> {
    const found = await stat(this.dataDir).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (!found) return undefined;
    const own = process.getuid?.();
    if (own !== 0 && own !== undefined && found.uid !== own) {
      throw new VarveError('POSTGRES_FOLDER', `${this.dataDir} belongs to another user (id ${found.uid})`, {
        hint: 'Start as that user or as root, or choose another folder.',
      });
    }
    const text = await readFile(join(this.dataDir, 'PG_VERSION'), 'utf8').catch(() => undefined);
    if (text !== undefined && /^\d+\s*$/.test(text)) return Number(text);
    throw new VarveError('POSTGRES_FOLDER', `${this.dataDir} exists but is not a PostgreSQL data folder`, {
      detail: 'It has no readable file PG_VERSION.',
      hint: 'Move it away, or choose another folder.',
    });
  }

  /** Completes a data folder with the link to our own. */
  async link(): Promise<void> {
    await symlink('..', join(this.dataDir, LINK_TO_FOLDER)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }

  sync(): Promise<void> {
    return syncFolder(this.path);
  }

  #fromWorkingDirectory(path: string): string {
    const inside = (folder: string): boolean => path === folder || path.startsWith(`${folder}/`);
    if (inside(this.dataDir)) return join('/proc/self/cwd', relative(this.dataDir, path));
    if (inside(this.path)) return join('/proc/self/cwd', LINK_TO_FOLDER, relative(this.path, path));
    return path;
  }
}

async function closedAbove(folder: string, runAs: RunAs): Promise<string | undefined> {
  // Folders that do not exist are made by us, passable by everyone whom the mode allows.
  const existing = await realpath(folder).catch(() => undefined);
  return existing === undefined ? closedAbove(dirname(folder), runAs) : closedFolder(existing, runAs);
}

/** The real path of what need not exist yet. */
async function realPathOfNew(path: string): Promise<string> {
  const absolute = resolve(path);
  return realpath(absolute).catch(async () =>
    join(await realPathOfNew(dirname(absolute)), basename(absolute)),
  );
}
