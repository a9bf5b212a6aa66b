import { connect } from 'node:net';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import type { LocalServer } from './local-server.ts';
import { NO_LSN, parseLsn, type Lsn } from './lsn.ts';
import type { LocalView } from './plan.ts';
import { subscriptionsFrom } from './progress.ts';
import type { QuorumRule } from '../group-keys.ts';

/** What a member's own server is like. `rule`: by which it should acknowledge; undefined: not at all. */
export async function observeLocal(
  { servers, local }: { readonly servers: GroupServers; readonly local: LocalServer },
  wanted: {
    readonly rule: QuorumRule | undefined;
    readonly databases: readonly string[];
    readonly peers: readonly string[];
  },
): Promise<LocalView> {
  const { databases, peers, rule } = wanted;
  const { node } = local.address;
  const enabledFrom = new Set<string>();
  const disabledFrom = new Set<string>();
  const progress = new Map<string, Map<string, Lsn>>();
  const [isSet] = await Promise.all([
    local.isSet(rule),
    ...databases.map((database) =>
      servers.withConnection(local.address, database, async (connection) => {
        for (const [from, found] of await subscriptionsFrom(connection, { node, database }, peers)) {
          if (found.enabled || found.workers > 0) enabledFrom.add(from);
          if (!found.enabled) disabledFrom.add(from);
          const ofPeer = progress.get(from) ?? new Map<string, Lsn>();
          ofPeer.set(database, found.progress === null ? NO_LSN : parseLsn(found.progress));
          progress.set(from, ofPeer);
        }
      }),
    ),
  ]);
  // What is half one and half the other counts as what has to be changed.
  const clients = (rule === undefined) === isSet ? 'kept-out' : 'let-in';
  return { answers: true, clients, enabledFrom, disabledFrom, progress };
}

/** Of a server that does not answer. */
export const SILENT: LocalView = {
  answers: false,
  clients: 'kept-out',
  enabledFrom: new Set(),
  disabledFrom: new Set(),
  progress: new Map(),
};

/** PostgreSQL's request for encryption: any server that is alive answers with one byte, and logs nothing. */
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);

/** Whether a PostgreSQL server speaks there: not one that hangs, nor something else that accepts for it. */
export function serverSpeaks({ host, port }: ServerAddress, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const end = (answer: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => end(false), timeoutMs);
    socket.once('connect', () => socket.write(SSL_REQUEST));
    socket.once('data', () => end(true));
    socket.once('close', () => end(false));
    socket.once('error', () => end(false));
  });
}
