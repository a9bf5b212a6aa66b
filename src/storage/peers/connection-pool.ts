import { Turns } from '../../core/turns.ts';
import { KeptConnection, type BodyRoom, type HttpAnswer } from './kept-connection.ts';

export interface PoolLimits {
  /** To one node. */
  readonly connections: number;
  readonly maxBodyBytes: number;
}

/** Connections to one node, which are kept open. */
export class ConnectionPool {
  readonly #endpoint: { readonly host: string; readonly port: number };
  readonly #limits: PoolLimits;
  readonly #turns: Turns;
  readonly #all = new Set<KeptConnection>();
  /** The one that was used last is the next. */
  #idle: KeptConnection[] = [];

  constructor(endpoint: { readonly host: string; readonly port: number }, limits: PoolLimits) {
    this.#endpoint = endpoint;
    this.#limits = limits;
    this.#turns = new Turns(limits.connections);
  }

  /**
   * Sent once more when the other side has closed a connection that was kept open: to ask twice does no harm.
   * @throws what ended the connection, and the signal's reason; nothing is written to the room from then on
   */
  async ask(request: Uint8Array, room: BodyRoom, signal: AbortSignal): Promise<HttpAnswer> {
    return await this.#turns.run(async () => {
      for (;;) {
        signal.throwIfAborted();
        const connection = this.#take();
        const abort = (): void => connection.destroy(signal.reason as Error);
        signal.addEventListener('abort', abort, { once: true });
        try {
          return await connection.ask(request, room);
        } catch (error) {
          if (signal.aborted || !connection.isStale) throw error;
        } finally {
          signal.removeEventListener('abort', abort);
          this.#giveBack(connection);
        }
      }
    });
  }

  /** Ends all, and what is under way. */
  destroy(): void {
    for (const connection of this.#all) connection.destroy(new Error('nobody waits for it any more'));
    this.#all.clear();
    this.#idle = [];
  }

  #take(): KeptConnection {
    for (let kept = this.#idle.pop(); kept; kept = this.#idle.pop()) {
      if (kept.isOpen) return kept;
      this.#all.delete(kept);
    }
    const made = new KeptConnection(this.#endpoint, this.#limits.maxBodyBytes);
    this.#all.add(made);
    return made;
  }

  #giveBack(connection: KeptConnection): void {
    if (connection.isOpen) this.#idle.push(connection);
    else this.#all.delete(connection);
  }
}
