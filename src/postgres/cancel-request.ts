import { isIP, Socket } from 'node:net';
import { Connection } from 'pg';
import { isSocketFolder, tlsSettings, type Endpoint } from './endpoint.ts';

/** What a backend has to be told to accept a cancel request. */
export interface BackendKey {
  readonly processID: number;
  readonly secretKey: number;
}

/** The parts of node-postgres' protocol class that its type declarations leave out. */
interface ProtocolConnection {
  connect(portOrPath: number | string, host?: string): void;
  requestSsl(): void;
  cancel(processId: number, secretKey: number): void;
  on(event: 'connect' | 'sslconnect' | 'error' | 'end', listener: () => void): void;
}

/**
 * Asks a server to cancel what a backend is doing, over a second connection to the very address (`peer`) of
 * the first, encrypted when that was. Resolves when the server has taken the request or after `limitMs`,
 * and never rejects: the protocol has no answer to a cancel request, the cancelled query is the answer.
 */
export async function sendCancelRequest(
  endpoint: Endpoint,
  peer: { readonly address?: string | undefined; readonly encrypted: boolean },
  key: BackendKey,
  limitMs: number,
): Promise<void> {
  const socket = new Socket();
  const tls = peer.encrypted && tlsSettings(endpoint);
  // The certificate is for the name, and we connect by the address behind it.
  const name = { host: endpoint.host, ...(isIP(endpoint.host) === 0 ? { servername: endpoint.host } : {}) };
  const protocol = new Connection({
    stream: () => socket,
    ssl: tls ? { ...tls, ...name } : false,
  }) as unknown as ProtocolConnection;
  const cancel = (): void => protocol.cancel(key.processID, key.secretKey);
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
    protocol.on('error', resolve);
    protocol.on('end', resolve);
    protocol.on('connect', () => (tls ? protocol.requestSsl() : cancel()));
    protocol.on('sslconnect', cancel);
    if (isSocketFolder(endpoint.host)) protocol.connect(`${endpoint.host}/.s.PGSQL.${endpoint.port}`);
    else protocol.connect(endpoint.port, peer.address ?? endpoint.host);
  });
  clearTimeout(timer);
  socket.destroy();
}
