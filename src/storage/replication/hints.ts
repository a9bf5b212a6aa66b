import { Backoff } from '../../core/backoff.ts';
import type { Clock } from '../../core/clock.ts';
import { untilDeadline } from '../../core/deadline.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { makeFolders, type FileSystem } from '../../core/file-system.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { stampOf, type Hint } from './hint-frames.ts';
import { HintQueue, idOfFolder, type HintQueueFigures } from './hint-queue.ts';
import type { ReplicaHealth } from './replica-health.ts';
import type { ReplicaAddress, ReplicaTransport } from './replica-transport.ts';

export interface HintsDeps {
  readonly fs: FileSystem;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: () => number;
  readonly transport: ReplicaTransport;
  readonly health: ReplicaHealth;
  /** Undefined: it has no replicas any more. `unknown` while nobody knows. */
  readonly addressOf: (id: string) => ReplicaAddress | undefined | 'unknown';
}

export interface HintsOptions {
  /** Of the engine. */
  readonly folder: string;
  readonly maxBytes: number;
  readonly maxAgeMs: number;
  readonly synced: boolean;
  /** For one hint. */
  readonly timeoutMs: number;
}

export interface HintStatus extends HintQueueFigures {
  readonly replica: string;
  /** Were older than hints may be. */
  readonly expired: number;
}

const HINTS_FOLDER = 'hints';
const RETRY = { firstMs: 250, maxMs: 10_000 } as const;

interface Target {
  readonly id: string;
  readonly queue: Promise<HintQueue>;
  opened: HintQueue | undefined;
  expired: number;
}

/** What other replicas missed: kept for each, and brought to it in order as soon as it answers again. */
export class Hints {
  readonly #deps: HintsDeps;
  readonly #options: HintsOptions;
  readonly #targets = new Map<string, Target>();
  #signal: AbortSignal | undefined;
  readonly #loops = new Set<Promise<void>>();

  private constructor(deps: HintsDeps, options: HintsOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** What an earlier life kept is there again. */
  static async open(deps: HintsDeps, options: HintsOptions): Promise<Hints> {
    const hints = new Hints(deps, options);
    const folder = await makeFolders(deps.fs, options.folder, [HINTS_FOLDER]);
    for (const { name, kind } of await deps.fs.list(folder)) {
      if (kind === 'folder') await hints.#target(idOfFolder(name)).queue;
    }
    return hints;
  }

  status(): HintStatus[] {
    return [...this.#targets.values()].flatMap(({ id, opened, expired }) =>
      opened ? [{ replica: id, expired, ...opened.figures }] : [],
    );
  }

  add(id: string, hint: Hint): void {
    const { opened, queue } = this.#target(id);
    if (opened) opened.add(hint);
    else void queue.then((one) => one.add(hint)).catch(() => {});
  }

  /** Brings hints to where they belong, until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    this.#signal = signal;
    for (const target of this.#targets.values()) this.#start(target);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
    await Promise.all(this.#loops);
  }

  /** What was added is on its way to the disk no more; what is added later is lost. */
  async close(): Promise<void> {
    for (const { queue } of this.#targets.values()) await queue.then((one) => one.close()).catch(() => {});
  }

  #target(id: string): Target {
    const known = this.#targets.get(id);
    if (known) return known;
    const target: Target = { id, queue: this.#openQueue(id), opened: undefined, expired: 0 };
    target.queue.then(
      (queue) => {
        target.opened = queue;
      },
      (error: unknown) => {
        this.#deps.log.warn({ replica: id, reason: messageOf(error) }, 'there is no place for hints');
        this.#targets.delete(id);
      },
    );
    this.#targets.set(id, target);
    if (this.#signal) this.#start(target);
    return target;
  }

  async #openQueue(id: string): Promise<HintQueue> {
    const { fs, log } = this.#deps;
    const { maxBytes, synced } = this.#options;
    const folder = await makeFolders(fs, this.#options.folder, [HINTS_FOLDER]);
    return await HintQueue.open({ fs, log }, { folder, id, maxBytes, synced });
  }

  #start(target: Target): void {
    const signal = this.#signal;
    if (!signal) return;
    const loop = this.#replay(target, signal)
      .catch((error: unknown) => {
        if (!signal.aborted) this.#deps.log.warn({ reason: messageOf(error) }, 'hints are not replayed');
      })
      .finally(() => this.#loops.delete(loop));
    this.#loops.add(loop);
  }

  async #replay(target: Target, signal: AbortSignal): Promise<void> {
    const { clock, random, addressOf, log } = this.#deps;
    const queue = await target.queue;
    const backoff = new Backoff({ ...RETRY, random });
    while (!signal.aborted) {
      await queue.filled(signal);
      if (signal.aborted) return;
      const address = addressOf(target.id);
      if (address === undefined) {
        log.info({ replica: target.id }, 'hints of a replica that is gone are removed');
        this.#targets.delete(target.id);
        await queue.clear();
        return;
      }
      try {
        if (address === 'unknown') throw new VarveError('STORAGE_NOT_READY', 'there is no placement');
        await queue.replay((hint) => this.#send(target, address, { hint, signal }));
        backoff.reset();
      } catch {
        await clock.sleep(backoff.nextMs(), signal).catch(() => {});
      }
    }
  }

  /** @throws while it is to be tried again */
  async #send(
    target: Target,
    address: ReplicaAddress,
    { hint, signal }: { readonly hint: Hint; readonly signal: AbortSignal },
  ): Promise<void> {
    const { transport, health, clock } = this.#deps;
    const ageMs = clock.nowMs() - Number(stampOf(hint) / 1_000_000n);
    if (ageMs > this.#options.maxAgeMs) {
      target.expired++;
      return;
    }
    try {
      const limit = { waitingFor: 'a hint', timeoutMs: this.#options.timeoutMs, clock, parent: signal };
      await untilDeadline(limit, async (ends) => {
        if (hint.kind === 'write') await transport.write(address, hint.write, ends);
        else await transport.delete(address, hint.deletion, ends);
      });
      health.answered(target.id);
    } catch (error) {
      // It will never be taken.
      if (error instanceof VarveError && FINAL.has(error.code)) return;
      // Nodes hear of a namespace at different times, but soon.
      if (error instanceof VarveError && error.code === 'NAMESPACE_UNKNOWN' && ageMs > NAMESPACE_MS) return;
      health.failed(target.id, error);
      throw error;
    }
  }
}

const NAMESPACE_MS = 60_000;
const FINAL: ReadonlySet<string> = new Set(['WRITE_INVALID', 'SELECTOR_INVALID', 'SHARD_NOT_OWNED']);
