import type { Clock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { RunEvent } from '../run/step.ts';
import type { NoteLevel } from '../run/renderer.ts';
import { waitForRelease } from '../core/folder-lock.ts';
import { stopLeftServer } from './leftover-server.ts';
import type { NodeLayout } from './layout.ts';
import { spawnNode, type NodeProgram } from './node-process.ts';
import { nodeMessage, type NodeMessage } from './supervision.ts';
import { SupervisedProcess, type Crash } from '../core/supervised-process.ts';
import type { SystemFolder } from './system-folder.ts';

export interface SystemDeps {
  readonly clock: Clock;
  readonly program: NodeProgram;
  readonly onEvent: (event: RunEvent) => void;
  readonly note: (level: NoteLevel, source: string, text: string) => void;
  /** A node has another process, or is ready anew. */
  readonly onChange: () => void;
}

export interface SystemOptions {
  readonly startTimeoutMs: number;
  readonly stopTimeoutMs: number;
}

const RESTART = { firstDelayMs: 250, maxDelayMs: 10_000, stableMs: 20_000 } as const;
/** A node that has never been up and ends so often in a row will not come up by trying again. */
const HOPELESS_CRASHES = 3;
/** How long a daemon of an earlier run, whose supervisor is gone, may take to end by itself. */
const LEFTOVER_POLITE_MS = 5000;

type LastError = Extract<NodeMessage, { type: 'failed' }>['error'];

/** The processes of all nodes of one system. */
export class System {
  readonly #deps: SystemDeps;
  readonly #options: SystemOptions;
  readonly #folder: SystemFolder;
  readonly #nodes = new Map<string, RunningNode>();
  readonly #stop = new AbortController();
  #killed = false;

  constructor(deps: SystemDeps, options: SystemOptions, folder: SystemFolder) {
    this.#deps = deps;
    this.#options = options;
    this.#folder = folder;
  }

  /**
   * Starts the processes and waits until every node is ready.
   * @throws NODE_START with the last error of the node that does not come up
   */
  async start(nodes: readonly NodeLayout[], signal: AbortSignal): Promise<void> {
    await Promise.all(nodes.map((node) => this.#startNode(node, signal)));
  }

  /** 0 while a node is between two processes. */
  pidOf(name: string): number {
    return this.#nodes.get(name)?.process.pid ?? 0;
  }

  /** Ends all nodes and resolves when they are gone, with the servers of daemons that were killed. */
  async stop(): Promise<void> {
    this.#stop.abort();
    const { clock } = this.#deps;
    await Promise.all(
      [...this.#nodes].map(async ([name, { done }]) => {
        await done;
        const patienceMs = this.#killed ? 0 : this.#options.stopTimeoutMs;
        await stopLeftServer(clock, this.#folder.nodeFolder(name), patienceMs);
      }),
    );
  }

  /** Ends all processes by force. */
  kill(): void {
    this.#killed = true;
    for (const { process } of this.#nodes.values()) process.kill();
  }

  async #startNode(node: NodeLayout, signal: AbortSignal): Promise<void> {
    const { clock, note } = this.#deps;
    const { startTimeoutMs, stopTimeoutMs } = this.#options;
    const either = AbortSignal.any([signal, this.#stop.signal]);
    const left = await waitForRelease(clock, this.#folder.nodeFolder(node.name), {
      politeMs: LEFTOVER_POLITE_MS,
      forceMs: LEFTOVER_POLITE_MS + stopTimeoutMs,
      signal: either,
    });
    if (left !== undefined) note('info', node.name, `process ${left} of an earlier run has ended`);
    const running = new RunningNode(node, this.#deps, this.#folder, stopTimeoutMs);
    this.#nodes.set(node.name, running);
    running.done = running.process.run(this.#stop.signal);
    await running.becomesReady(startTimeoutMs, either);
  }
}

class RunningNode {
  readonly process: SupervisedProcess;
  done: Promise<void> = Promise.resolve();
  readonly #node: NodeLayout;
  readonly #deps: SystemDeps;
  readonly #folder: SystemFolder;
  #wasReady = false;
  #lastError: LastError | undefined;
  #settle: { ready: () => void; hopeless: () => void } = { ready: () => {}, hopeless: () => {} };

  constructor(node: NodeLayout, deps: SystemDeps, folder: SystemFolder, stopTimeoutMs: number) {
    this.#node = node;
    this.#deps = deps;
    this.#folder = folder;
    const files = { config: folder.configFile(node.name), log: folder.logFile(node.name) };
    this.process = new SupervisedProcess(
      {
        clock: deps.clock,
        start: () => spawnNode(deps.program, files, (message) => this.#take(message)),
        onStart: () => deps.onChange(),
        onCrash: (crash) => this.#crashed(crash),
      },
      { ...RESTART, stopTimeoutMs },
    );
  }

  /** @throws NODE_START when it takes too long or cannot succeed; the signal's reason */
  async becomesReady(timeoutMs: number, signal: AbortSignal): Promise<void> {
    const waited = new AbortController();
    const late = this.#deps.clock.sleep(timeoutMs, AbortSignal.any([signal, waited.signal]));
    const settled = new Promise<void>((resolve, reject) => {
      this.#settle = { ready: resolve, hopeless: () => reject(this.#failure('ends again and again')) };
      if (this.#wasReady) resolve();
    });
    const timedOut = late.then(() => {
      throw this.#failure(`is not ready after ${timeoutMs} ms`);
    });
    try {
      await Promise.race([settled, timedOut]);
    } finally {
      waited.abort();
      await timedOut.catch(() => {});
    }
  }

  #failure(what: string): VarveError {
    const { name } = this.#node;
    const error = this.#lastError;
    const reasons = [error?.message, error?.detail].filter((text) => text !== undefined);
    return new VarveError('NODE_START', `node ${name} ${what}`, {
      detail: [...reasons, `Its log is ${this.#folder.logFile(name)}.`].join('\n'),
      hint: error?.hint,
    });
  }

  #take(value: unknown): void {
    const message = nodeMessage(value);
    if (!message) return;
    const { name } = this.#node;
    const { note, onChange, onEvent } = this.#deps;
    switch (message.type) {
      case 'event':
        onEvent(message.event);
        break;
      case 'ready':
        if (this.#wasReady) note('info', name, 'is ready again');
        this.#wasReady = true;
        this.#lastError = undefined;
        this.#settle.ready();
        onChange();
        break;
      case 'recovering':
        note('warn', name, `${message.why}; it is brought up again`);
        break;
      case 'note':
        note(message.level, name, message.text);
        break;
      case 'failed':
        this.#lastError = message.error;
        break;
    }
  }

  #crashed({ why, delayMs, inARow }: Crash): void {
    const { note } = this.#deps;
    const reason = this.#lastError ? `: ${this.#lastError.message}` : '';
    note(
      'warn',
      this.#node.name,
      `its process ${why}${reason}; the next start is in ${Math.round(delayMs)} ms`,
    );
    if (!this.#wasReady && inARow >= HOPELESS_CRASHES) this.#settle.hopeless();
  }
}
