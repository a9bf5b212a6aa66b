import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { freePorts } from '../../test/free-ports.ts';
import type { Placement } from '../../src/placement/placement.ts';

export interface PeerNodeOptions {
  readonly name: string;
  readonly folder: string;
  readonly port: number;
  readonly shardCount: number;
  /** What it takes for now, milliseconds since the Unix epoch. */
  readonly nowMs: number;
  /** Of the history: how long retention is. */
  readonly blocks: number;
  /** Figures tell how long it takes to read all info files. */
  readonly readsInfos?: boolean;
}

export type PeerCommand =
  | { readonly kind: 'place'; readonly placement: Placement }
  /** The same, and waits until so many shards are whole and durable. */
  | { readonly kind: 'fill'; readonly placement: Placement; readonly shards: number }
  | { readonly kind: 'figures' };

export interface PeerFigures {
  /** From the engine's opening until it served everything. */
  readonly readyMs: number;
  readonly infosMs: number;
  readonly peakBytes: number;
  /** To other nodes that bootstrap. */
  readonly sentBytes: number;
  readonly filesetBytes: number;
  readonly filesets: number;
  /** What the sources of the last run said. */
  readonly detail: string;
  /** Of `fill`: until all were durable, until the first was, and processor time. */
  readonly ms: number;
  readonly firstMs: number;
  readonly cpuMs: number;
}

interface Answer {
  readonly id: number;
  readonly result?: PeerFigures;
  readonly error?: string;
}

/** `peer-node.ts` as a child. */
export class PeerProcess implements AsyncDisposable {
  readonly name: string;
  readonly url: string;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #lastId = 0;

  private constructor(name: string, port: number, child: ChildProcess) {
    this.name = name;
    this.url = `http://127.0.0.1:${port}`;
    this.#child = child;
    child.on('message', (answer: Answer) => {
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
    child.on('exit', (code) => {
      for (const [id, settle] of this.#waiting) settle({ id, error: `${name} has ended with ${code}` });
    });
  }

  /** Resolves when it serves what is in its folder. */
  static async start(options: Omit<PeerNodeOptions, 'port'>): Promise<PeerProcess> {
    const [port = 0] = await freePorts(1);
    const script = fileURLToPath(new URL('peer-node.ts', import.meta.url));
    const child = fork(script, [JSON.stringify({ ...options, port })], { execArgv: ['--import', 'tsx'] });
    const node = new PeerProcess(options.name, port, child);
    const answer = await new Promise<Answer>((resolve) => node.#waiting.set(0, resolve));
    if (answer.error !== undefined) throw new Error(answer.error);
    return node;
  }

  async place(placement: Placement): Promise<void> {
    await this.#ask({ kind: 'place', placement });
  }

  async fill(placement: Placement, shards: number): Promise<PeerFigures> {
    return await this.#figures({ kind: 'fill', placement, shards });
  }

  async figures(): Promise<PeerFigures> {
    return await this.#figures({ kind: 'figures' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  async #figures(command: PeerCommand): Promise<PeerFigures> {
    const { result } = await this.#ask(command);
    if (!result) throw new Error(`${this.name} says nothing`);
    return result;
  }

  async #ask(command: PeerCommand): Promise<Answer> {
    const id = ++this.#lastId;
    const answer = await new Promise<Answer>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.send({ id, command });
    });
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }
}
