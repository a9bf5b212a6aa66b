import { createHash } from 'node:crypto';
import { mkdir, realpath, unlink } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { VarveError } from '../core/errors.ts';

/**
 * Claims a folder for this process until disposed of or until the process ends, in whatever way: the claim is
 * a listening unix socket named after the folder, so there is nothing stale to clean up after `kill -9`. On
 * Linux the socket is in the abstract namespace, elsewhere a file in the temporary folder.
 * @throws COORDINATOR_FOLDER_IN_USE
 */
export async function claimFolder(folder: string): Promise<AsyncDisposable> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const digest = createHash('sha256')
    .update(await realpath(folder))
    .digest('hex')
    .slice(0, 32);
  const name = `varve-coordinator-${digest}`;
  const path = process.platform === 'linux' ? `\0${name}` : join(tmpdir(), name);
  const server = createServer((socket) => socket.destroy());
  try {
    await listen(server, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    if (process.platform === 'linux' || (await isAlive(path))) {
      throw new VarveError(
        'COORDINATOR_FOLDER_IN_USE',
        `another process serves a coordinator from ${folder}`,
        {
          hint: 'Stop it, or choose another folder.',
        },
      );
    }
    await unlink(path);
    await listen(server, path);
  }
  server.unref();
  return {
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, 'close');
    },
  };
}

async function listen(server: Server, path: string): Promise<void> {
  server.listen(path);
  await once(server, 'listening');
}

async function isAlive(path: string): Promise<boolean> {
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
