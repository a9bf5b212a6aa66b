import { randomInt } from 'node:crypto';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { platform } from 'node:process';
import { VarveError } from '../core/errors.ts';

/**
 * Below the ranges from which systems take the ports of outgoing connections (32768 on Linux, 49152 elsewhere):
 * there a port that a server is to have again after a restart could be taken by any client meanwhile.
 */
const PORTS = { first: 20_000, count: 12_000 };
const TRIES = 200;

/** A port that nothing listens on now, drawn at random so that several who look at once differ. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (let i = 0; i < TRIES; i += 1) {
    const port = await listenOnce(PORTS.first + randomInt(PORTS.count), host);
    if (port !== undefined) return port;
  }
  throw new VarveError('PORT_IN_USE', `no port is free on ${host}`);
}

/** @throws PORT_IN_USE naming the port and, where the system tells, who listens on it */
export async function checkPortFree(port: number, host = '127.0.0.1'): Promise<void> {
  if ((await listenOnce(port, host)) !== undefined) return;
  const holder = await portHolder(port);
  throw new VarveError('PORT_IN_USE', `port ${port} on ${host} is in use${holder ? ` by ${holder}` : ''}`, {
    hint: 'Stop what uses it, or choose another port.',
  });
}

/** The port it could listen on, or undefined when that is taken. */
function listenOnce(port: number, host: string): Promise<number | undefined> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(undefined);
      else reject(new VarveError('INVALID_ARGUMENT', `cannot listen on ${host}: ${error.message}`));
    });
    server.listen(port, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : undefined));
    });
  });
}

/** `process 123 (postgres -D …)`, from /proc. */
async function portHolder(port: number): Promise<string | undefined> {
  if (platform !== 'linux') return undefined;
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const tables = await Promise.all(
    ['/proc/net/tcp', '/proc/net/tcp6'].map((path) => readFile(path, 'utf8').catch(() => '')),
  );
  const listening = tables
    .flatMap((table) => table.split('\n').map((line) => line.trim().split(/\s+/)))
    .find((fields) => fields[1]?.endsWith(`:${hex}`) && fields[3] === '0A');
  const inode = listening?.[9];
  if (inode === undefined) return undefined;
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const descriptors: string[] = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const fd of descriptors) {
      if ((await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')) !== `socket:[${inode}]`) continue;
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      return `process ${pid} (${command.replaceAll('\0', ' ').trim().slice(0, 80)})`;
    }
  }
  return undefined;
}
