import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** A link that a test can cut, hold up and slow down. */
export class TcpProxy implements AsyncDisposable {
  /** Where new connections go. */
  target: { readonly host: string; readonly port: number };
  /** Held back in each direction. */
  latencyMs = 0;
  /** Connections are taken and stay open, but nothing passes; or requests do, and their answers do not. */
  silent: boolean | 'answers' = false;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(target: { readonly host: string; readonly port: number }) {
    this.target = target;
    this.#server = createServer((client) => this.#join(client));
  }

  static async start(url: string): Promise<TcpProxy> {
    const proxy = new TcpProxy(targetOf(url));
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  pointTo(url: string): void {
    this.target = targetOf(url);
  }

  /** Breaks all open connections; new ones work. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, 'close');
  }

  #join(client: Socket): void {
    const server = connect(this.target);
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(from);
      from.on('data', (chunk: Buffer) => {
        const pass = (): void => {
          const swallowed = this.silent === true || (this.silent === 'answers' && from === server);
          if (!swallowed && !to.destroyed) to.write(chunk);
        };
        if (this.latencyMs === 0) pass();
        else setTimeout(pass, this.latencyMs);
      });
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
  }
}

function targetOf(url: string): { host: string; port: number } {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port) };
}
