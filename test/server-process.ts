import { startServer, type ServerOptions } from '../src/postgres/server.ts';

/**
 * A process of its own that brings a server up and stays, so that tests can kill it at any point:
 * `tsx server-process.ts '{"folder": …, "setUid": …}'`. Prints one line of JSON when the server is ready.
 */
export interface ServerProcessOptions extends ServerOptions {
  /** Becomes this user before it starts anything; for root. */
  readonly user?: { readonly uid: number; readonly gid: number };
}

const { user, ...options } = JSON.parse(process.argv[2] ?? '{}') as ServerProcessOptions;
if (user) {
  process.setgroups?.([]);
  process.setgid?.(user.gid);
  process.setuid?.(user.uid);
}
const server = await startServer(options);
console.log(JSON.stringify({ pid: server.pid, port: server.port, adopted: server.adopted }));
setInterval(() => {}, 1_000_000);
