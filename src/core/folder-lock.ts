import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, realpath, unlink, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Clock } from './clock.ts';
import { VarveError } from './errors.ts';

const PID_FILE = '.pid';
const POLL_MS = 50;

export interface FolderLock extends AsyncDisposable {
  readonly folder: string;
}

/**
 * Holds `folder` for this process until disposed of or until the process ends, in whatever way. The lock is a
 * listening unix socket named after the folder, so that `kill -9` leaves nothing stale; on Linux in the
 * abstract namespace, elsewhere a file in the temporary folder. The holder's process id is in a file beside.
 * Creates the folder (0700) when it is missing.
 * @throws FOLDER_IN_USE naming the holder
 */
export async function lockFolder(folder: string): Promise<FolderLock> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const path = await socketPath(folder);
  const server = createServer((socket) => socket.destroy());
  if (!(await listen(server, path))) {
    const pid = await lockHolder(folder);
    throw new VarveError('FOLDER_IN_USE', `${folder} is in use by process ${pid ?? 'unknown'}`, {
      hint: 'Stop that process first, or choose another folder.',
    });
  }
  server.unref();
  await writeFile(join(folder, PID_FILE), `${process.pid}\n`, { mode: 0o600 }).catch((error: unknown) => {
    server.close();
    throw error;
  });
  return {
    folder,
    async [Symbol.asyncDispose]() {
      await unlink(join(folder, PID_FILE)).catch(() => {});
      server.close();
      await once(server, 'close');
    },
  };
}

/** The process that holds the lock of `folder`; undefined when nobody does. 0 when it cannot be told who. */
export async function lockHolder(folder: string): Promise<number | undefined> {
  const path = await socketPath(folder).catch(() => undefined);
  if (path === undefined || !(await isListening(path))) return undefined;
  const text = await readFile(join(folder, PID_FILE), 'utf8').catch(() => '');
  return /^\d+$/.test(text.trim()) ? Number(text) : 0;
}

/**
 * Waits until nobody holds `folder`. A holder that is still there after `politeMs` is told to end, and after
 * `forceMs` is ended: it belongs to an earlier run, whose supervisor is gone.
 * @returns the process that was waited for, if any
 */
export async function waitForRelease(
  clock: Clock,
  folder: string,
  options: { readonly politeMs: number; readonly forceMs: number; readonly signal: AbortSignal },
): Promise<number | undefined> {
  const first = await lockHolder(folder);
  const startedAtMs = clock.monotonicMs();
  let told: 'SIGTERM' | 'SIGKILL' | undefined;
  for (let holder = first; holder !== undefined; holder = await lockHolder(folder)) {
    const waitedMs = clock.monotonicMs() - startedAtMs;
    const due = waitedMs > options.forceMs ? 'SIGKILL' : waitedMs > options.politeMs ? 'SIGTERM' : undefined;
    if (due !== undefined && due !== told && holder > 0) {
      told = due;
      endProcess(holder, due);
    }
    await clock.sleep(POLL_MS, options.signal);
  }
  return first;
}

function endProcess(pid: number, signal: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone meanwhile.
  }
}

async function socketPath(folder: string): Promise<string> {
  const digest = createHash('sha256').update(await realpath(folder));
  const name = `varve-folder-${digest.digest('hex').slice(0, 32)}`;
  return process.platform === 'linux' ? `\0${name}` : join(tmpdir(), name);
}

async function listen(server: Server, path: string): Promise<boolean> {
  for (let attempt = 1; ; attempt += 1) {
    server.listen(path);
    try {
      await once(server, 'listening');
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
      const stale = process.platform !== 'linux' && attempt === 1 && !(await isListening(path));
      if (!stale) return false;
      await unlink(path).catch(() => {});
    }
  }
}

async function isListening(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
