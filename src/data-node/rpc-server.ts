import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { createSecureContext, TLSSocket } from 'node:tls';
import { messageOf, VarveError } from '../core/errors.ts';
import { ScramServer } from './scram.ts';

/**
 * The daemon's private endpoint: as much of PostgreSQL's protocol (version 3) as `dblink` needs to send one
 * query text and fetch one value. What goes over it is JSON. Whoever knows the secret may speak for any role
 * of the access node, so it listens on a socket in the server's own data folder or on loopback, and beyond
 * that only with TLS.
 */
export interface RpcServerOptions {
  /** Path of a unix socket, or host and port (0 = a free one). */
  readonly listen: { readonly path: string } | { readonly host: string; readonly port: number };
  readonly secret: string;
  readonly tls?: { readonly certPem: string; readonly keyPem: string } | undefined;
  /** The longest request that is read. */
  readonly maxRequestBytes?: number;
}

/** Answers one request. The signal fires when the caller is gone: cancelled, timed out or disconnected. */
export type RpcHandler = (request: string, signal: AbortSignal) => Promise<string>;

const LOGIN_TIMEOUT_MS = 10_000;
const SSL_REQUEST = 80_877_103;
const GSS_REQUEST = 80_877_104;
const PROTOCOL_3 = 196_608;

export class RpcServer implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(server: Server, sockets: Set<Socket>) {
    this.#server = server;
    this.#sockets = sockets;
  }

  static async listen(options: RpcServerOptions, handler: RpcHandler): Promise<RpcServer> {
    const sockets = new Set<Socket>();
    const accept = (socket: Socket): void => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      new RpcSession(socket, options, handler).start();
    };
    const server = createServer(accept);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      // Who may pass its folder may use the socket; one that a killed daemon left is in the way.
      if ('path' in options.listen) rmSync(options.listen.path, { force: true });
      server.listen({ ...options.listen, readableAll: true, writableAll: true }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    return new RpcServer(server, sockets);
  }

  /** The port of a server on TCP; 0 on a unix socket. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address ? address.port : 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

class RpcSession {
  #socket: Socket;
  readonly #options: RpcServerOptions;
  readonly #handler: RpcHandler;
  readonly #scram: ScramServer;
  readonly #gone = new AbortController();
  #buffer: Buffer = Buffer.alloc(0);
  #encrypted = false;
  #afterChunk = (): void => {};
  #state: 'startup' | 'scram-first' | 'scram-final' | 'ready' | 'busy' = 'startup';

  constructor(socket: Socket, options: RpcServerOptions, handler: RpcHandler) {
    this.#socket = socket;
    this.#options = options;
    this.#handler = handler;
    this.#scram = new ScramServer(options.secret);
  }

  start(): void {
    // An answer is several messages; without this each pair waits for a delayed acknowledgement.
    this.#socket.setNoDelay(true);
    const late = setTimeout(() => this.#socket.destroy(), LOGIN_TIMEOUT_MS);
    this.#listen(() => {
      if (this.#state === 'ready' || this.#state === 'busy') clearTimeout(late);
    });
    this.#socket.on('close', () => {
      clearTimeout(late);
      this.#gone.abort(new VarveError('CANCELLED', 'the caller gave up'));
    });
  }

  #listen(afterChunk: () => void): void {
    this.#socket.on('error', () => this.#socket.destroy());
    this.#socket.on('data', (chunk: Buffer) => {
      this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
      this.#readMessages();
      afterChunk();
    });
    this.#afterChunk = afterChunk;
  }

  /** From here on the client speaks TLS on the same connection. */
  #encrypt(tls: NonNullable<RpcServerOptions['tls']>): void {
    const plain = this.#socket;
    plain.removeAllListeners('data');
    // What came before the handshake in the clear could have been slipped in by somebody else.
    this.#buffer = Buffer.alloc(0);
    plain.write('S');
    const secureContext = createSecureContext({ cert: tls.certPem, key: tls.keyPem });
    this.#socket = new TLSSocket(plain, { isServer: true, secureContext });
    this.#encrypted = true;
    this.#listen(this.#afterChunk);
  }

  #readMessages(): void {
    const limitBytes = this.#state === 'ready' ? (this.#options.maxRequestBytes ?? 1 << 20) : 10_000;
    while (!this.#socket.destroyed) {
      const headBytes = this.#state === 'startup' ? 4 : 5;
      if (this.#buffer.length < headBytes) return;
      const lengthBytes = this.#buffer.readUInt32BE(headBytes - 4);
      if (lengthBytes < 4 || lengthBytes > limitBytes) {
        this.#fail('54000', `a message of ${lengthBytes} bytes is not taken; the limit is ${limitBytes}`);
        return;
      }
      const endBytes = headBytes - 4 + lengthBytes;
      if (this.#buffer.length < endBytes) return;
      const kind = headBytes === 5 ? String.fromCharCode(this.#buffer[0] ?? 0) : '';
      const body = this.#buffer.subarray(headBytes, endBytes);
      this.#buffer = this.#buffer.subarray(endBytes);
      this.#take(kind, body);
    }
  }

  #take(kind: string, body: Buffer): void {
    if (this.#state === 'startup') this.#takeStartup(body);
    else if (kind === 'X') this.#socket.end();
    else if (kind === 'p' && this.#state === 'scram-first') this.#takeScramFirst(body);
    else if (kind === 'p' && this.#state === 'scram-final') this.#takeScramFinal(body);
    else if (kind === 'Q' && this.#state === 'ready') this.#takeQuery(body);
    else this.#fail('08P01', `message ${JSON.stringify(kind)} is not expected now`);
  }

  #takeStartup(body: Buffer): void {
    const version = body.length >= 4 ? body.readUInt32BE(0) : 0;
    if (version === SSL_REQUEST && this.#options.tls && !this.#encrypted) {
      this.#encrypt(this.#options.tls);
    } else if (version === SSL_REQUEST || version === GSS_REQUEST) {
      this.#socket.write('N');
    } else if (this.#options.tls && !this.#encrypted) {
      this.#fail('28000', 'this daemon speaks over TLS only');
    } else if (version === PROTOCOL_3) {
      this.#state = 'scram-first';
      this.#send('R', int32(10), cstring('SCRAM-SHA-256'), Buffer.from([0]));
    } else {
      this.#fail('0A000', `protocol version ${version} is not spoken here`);
    }
  }

  #takeScramFirst(body: Buffer): void {
    const end = body.indexOf(0);
    const mechanism = body.toString('utf8', 0, end);
    const reply =
      mechanism === 'SCRAM-SHA-256' ? this.#scram.first(body.toString('utf8', end + 5)) : undefined;
    if (reply === undefined) return this.#fail('28000', 'malformed SCRAM message');
    this.#state = 'scram-final';
    this.#send('R', int32(11), Buffer.from(reply));
  }

  #takeScramFinal(body: Buffer): void {
    const proof = this.#scram.final(body.toString('utf8'));
    if (proof === undefined) return this.#fail('28P01', 'the secret of the daemon is wrong');
    this.#state = 'ready';
    this.#send('R', int32(12), Buffer.from(proof));
    this.#send('R', int32(0));
    this.#parameter('server_version', '16.0');
    this.#parameter('client_encoding', 'UTF8');
    this.#parameter('standard_conforming_strings', 'on');
    this.#sendReady();
  }

  #takeQuery(body: Buffer): void {
    this.#state = 'busy';
    const request = body.toString('utf8', 0, Math.max(0, body.length - 1));
    this.#handler(request, this.#gone.signal)
      .then(
        (reply) => {
          const value = Buffer.from(reply);
          this.#send(
            'T',
            int16(1),
            cstring('r'),
            int32(0),
            int16(0),
            int32(25),
            int16(-1),
            int32(-1),
            int16(0),
          );
          this.#send('D', int16(1), int32(value.length), value);
          this.#send('C', cstring('SELECT 1'));
          this.#sendReady();
        },
        (error: unknown) => this.#fail('XX000', messageOf(error)),
      )
      .catch(() => this.#socket.destroy());
  }

  #parameter(name: string, value: string): void {
    this.#send('S', cstring(name), cstring(value));
  }

  #sendReady(): void {
    this.#state = 'ready';
    this.#send('Z', Buffer.from('I'));
  }

  #fail(sqlstate: string, message: string): void {
    const field = (kind: string, value: string): Buffer => Buffer.concat([Buffer.from(kind), cstring(value)]);
    this.#send(
      'E',
      field('S', 'FATAL'),
      field('V', 'FATAL'),
      field('C', sqlstate),
      field('M', message),
      Buffer.from([0]),
    );
    this.#socket.end();
  }

  #send(kind: string, ...parts: Buffer[]): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return;
    const body = Buffer.concat(parts);
    this.#socket.write(Buffer.concat([Buffer.from(kind), int32(body.length + 4), body]));
  }
}

function int32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeInt32BE(value);
  return buffer;
}

function int16(value: number): Buffer {
  const buffer = Buffer.alloc(2);
  buffer.writeInt16BE(value);
  return buffer;
}

function cstring(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}
