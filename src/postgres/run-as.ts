import { execFile } from 'node:child_process';
import { chmod, mkdir, readFile, realpath, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { VarveError } from '../core/errors.ts';

/** The operating system user under which PostgreSQL runs when we are root. */
export interface RunAs {
  readonly user: string;
  readonly uid: number;
  readonly gid: number;
}

/**
 * PostgreSQL refuses to run as root: as root, the user to become, which is `wanted`, else `postgres` where
 * that exists, else `nobody`. Undefined when we are an ordinary user and stay it.
 * @throws POSTGRES_USER when there is no such user, or another one is wanted and we are not root
 */
export async function resolveRunAs(wanted?: string): Promise<RunAs | undefined> {
  const own = process.getuid?.();
  if (own !== 0) {
    const user = wanted === undefined ? undefined : await lookUpUser(wanted);
    if (wanted === undefined || user?.uid === own) return undefined;
    throw new VarveError('POSTGRES_USER', `PostgreSQL cannot run as ${wanted}`, {
      detail: `This process runs as user id ${own}.`,
      hint: 'Only root can start it as another user: leave the user out, or start as that user.',
    });
  }
  for (const name of wanted === undefined ? ['postgres', 'nobody'] : [wanted]) {
    const user = await lookUpUser(name);
    if (user && user.uid !== 0) return user;
    if (user) {
      throw new VarveError('POSTGRES_USER', `PostgreSQL cannot run as ${name}, who is root`, {
        hint: 'Name an ordinary user.',
      });
    }
  }
  throw new VarveError(
    'POSTGRES_USER',
    `there is no user ${wanted ?? 'postgres nor nobody'} on this machine`,
    {
      detail: 'PostgreSQL refuses to run as root.',
      hint: 'Create a user for it and name it, or start as an ordinary user.',
    },
  );
}

/**
 * The same for a data folder that may exist: as root, who says nothing else, its owner goes on with it.
 * @throws POSTGRES_USER as `resolveRunAs`
 */
export async function resolveRunAsFor(dataDir: string, wanted?: string): Promise<RunAs | undefined> {
  const owner = await stat(dataDir).catch(() => undefined);
  if (wanted !== undefined || process.getuid?.() !== 0 || !owner || owner.uid === 0) {
    return resolveRunAs(wanted);
  }
  return { user: `with id ${owner.uid}`, uid: owner.uid, gid: owner.gid };
}

/**
 * Names of the users of the operating system as whom this process and a server of ours run: those that
 * `peer` authentication sees. Empty where they have none.
 */
export async function peerNames(runAs: RunAs | undefined): Promise<string[]> {
  const ids = new Set([process.getuid?.(), runAs?.uid].filter((id) => id !== undefined));
  const names = [...ids].map(async (id) => {
    const [name] = (await passwdLines()).find(([, , uid]) => uid === String(id)) ?? [];
    return name ?? (await ask('-un', String(id)).catch(() => undefined));
  });
  return (await Promise.all(names)).filter((name) => name !== undefined);
}

/** Name services that are not in the file (LDAP, macOS) are asked through `id`. */
async function lookUpUser(name: string): Promise<RunAs | undefined> {
  if (!/^[\w.][\w.-]*\$?$/.test(name)) return undefined;
  const fields = (await passwdLines()).find(([user]) => user === name);
  if (fields) return { user: name, uid: Number(fields[2]), gid: Number(fields[3]) };
  return ask('-u', name).then(
    async (uid) => ({ user: name, uid: Number(uid), gid: Number(await ask('-g', name)) }),
    () => undefined,
  );
}

/** Name, password, user id, group id, … of the users that the machine itself knows. */
async function passwdLines(): Promise<string[][]> {
  const text = await readFile('/etc/passwd', 'utf8').catch(() => '');
  return text.split('\n').map((line) => line.split(':'));
}

/** @throws when there is no such user */
async function ask(flag: string, user: string): Promise<string> {
  const { stdout } = await promisify(execFile)('id', [flag, user]);
  return stdout.trim();
}

/**
 * The first part of `path` that `user` may not use: a folder above it that is closed, or `path` itself when
 * `user` may not read it (a folder: and enter it). Undefined when all is open. Judged by permission bits: extra
 * groups are given up when root becomes that user, access lists are not looked at.
 */
export async function blockedAt(path: string, user: RunAs): Promise<string | undefined> {
  const whole = await realpath(path);
  const blocked = await closedFolder(dirname(whole), user);
  if (blocked !== undefined) return blocked;
  const isFolder = (await stat(whole)).isDirectory();
  return (await permits(whole, user, isFolder ? 0o5 : 0o4)) ? undefined : whole;
}

/** The first of `folder` and those above it through which `user` may not pass. `folder` is a real path. */
export async function closedFolder(folder: string, user: RunAs): Promise<string | undefined> {
  if (folder !== dirname(folder)) {
    const above = await closedFolder(dirname(folder), user);
    if (above !== undefined) return above;
  }
  return (await permits(folder, user, 0o1)) ? undefined : folder;
}

async function permits(path: string, user: RunAs, bits: number): Promise<boolean> {
  const { mode, uid, gid } = await stat(path);
  const shift = uid === user.uid ? 6 : gid === user.gid ? 3 : 0;
  return ((mode >> shift) & bits) === bits;
}

/** Makes a folder and those above it that are missing, each passable by every user whatever the umask. */
export async function makePassable(folder: string): Promise<void> {
  if (await stat(folder).catch(() => undefined)) return;
  await makePassable(dirname(folder));
  await mkdir(folder, { recursive: true });
  await chmod(folder, 0o711);
}
