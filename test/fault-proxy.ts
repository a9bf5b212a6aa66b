import { connect, createServer, type Server, type Socket } from 'node:net';

/**
 * A TCP link whose traffic can be stopped at an exact point. Each chunk that a client sends counts; when the
 * count reaches `at`, `onFault` is told before the chunk is passed on, or after the server has acted on it and
 * before the client hears of that.
 */
export interface Fault {
  /** Counted from 1 over all connections since the fault was set. */
  readonly at: number;
  readonly when: 'before' | 'after';
  /** Resolves when the link may go on. */
  readonly onFault: (link: FaultProxy) => Promise<void> | void;
}

export class FaultProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #fault: Fault | undefined;
  #count = 0;
  #closed = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(target: { readonly host: string; readonly port: number }): Promise<FaultProxy> {
    const server = createServer();
    const proxy = new FaultProxy(server);
    server.on('connection', (client) => proxy.#accept(client, connect(target)));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Chunks since the last `setFault`. */
  get count(): number {
    return this.#count;
  }

  setFault(fault: Fault | undefined): void {
    this.#fault = fault;
    this.#count = 0;
  }

  /** Breaks every open connection; new ones are taken unless `closed`. */
  breakAll(closed = false): void {
    this.#closed = closed;
    for (const socket of this.#sockets) socket.destroy();
  }

  reopen(): void {
    this.#closed = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.breakAll(true);
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(client: Socket, server: Socket): void {
    if (this.#closed) {
      client.destroy();
      server.destroy();
      return;
    }
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
      socket.on('error', () => socket.destroy());
    }
    server.pipe(client);
    let tail = Promise.resolve();
    client.on('data', (chunk) => {
      tail = tail.then(() => this.#pass(server, chunk));
    });
  }

  async #pass(server: Socket, chunk: Buffer): Promise<void> {
    this.#count += 1;
    const fault = this.#fault?.at === this.#count ? this.#fault : undefined;
    if (fault?.when === 'before') await fault.onFault(this);
    if (fault?.when === 'after') server.pause();
    if (server.writable) server.write(chunk);
    if (fault?.when === 'after') {
      // The server gets the time to act on what it was sent.
      await new Promise((resolve) => setTimeout(resolve, 30));
      await fault.onFault(this);
      server.resume();
    }
  }
}
