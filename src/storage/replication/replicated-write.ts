import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { untilDeadline } from '../../core/deadline.ts';
import type { RejectReason, Rejection, WriteOutcome } from '../engine/storage-engine.ts';
import type { Hint } from './hint-frames.ts';
import type { LocalReplica } from './local-replica.ts';
import type { ReplicaHealth } from './replica-health.ts';
import type {
  ReplicaAddress,
  ReplicaDelete,
  ReplicaFormat,
  ReplicaTransport,
  ReplicaWrite,
} from './replica-transport.ts';
import type { Routing, WriteLevel } from './routing.ts';
import { BodySplitter, type SplitBody } from './split-body.ts';
import { Spread, type Errand, type Outcomes, type SpreadDeps, type SpreadPlan } from './spread.ts';

export interface ReplicatedWriteDeps {
  readonly node: string;
  readonly clock: Clock;
  readonly local: LocalReplica;
  readonly transport: ReplicaTransport;
  readonly health: ReplicaHealth;
  readonly hint: (id: string, hint: Hint) => void;
  /** By a placement that is newer than this version, if there is one. */
  readonly newerRouting: (version: number) => Promise<Routing | undefined>;
}

export interface ReplicatedWriteOptions {
  readonly level: WriteLevel;
  /** After which a replica that does not answer is taken to have missed a write. */
  readonly timeoutMs: number;
}

export interface WriteFigures {
  readonly writes: number;
  /** That were not acknowledged. */
  readonly failed: number;
  /** Of single replicas, of writes that were acknowledged: hinted. */
  readonly missed: number;
}

/** A replica that is behind by more than this is left to its hints. */
const MAX_UNDER_WAY_BYTES = 64 * 1024 * 1024;

/** Takes writes for all replicas: acknowledged when enough of them have one, hinted for those that have not. */
export class ReplicatedWrite {
  readonly #deps: ReplicatedWriteDeps;
  readonly #options: ReplicatedWriteOptions;
  readonly #splitter = new BodySplitter();
  readonly #underWay = new Map<string, number>();
  /** Gives up one that is under way. */
  readonly #sends = new Set<(why: VarveError) => void>();
  #onIdle: () => void = () => {};
  readonly #figures = { writes: 0, failed: 0, missed: 0 };

  constructor(deps: ReplicatedWriteDeps, options: ReplicatedWriteOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  get figures(): WriteFigures {
    return this.#figures;
  }

  /** The body is the caller's no more. @throws WRITE_INVALID, WRITE_LEVEL_NOT_REACHED */
  async write(
    routing: Routing,
    namespace: string,
    { format, body }: { readonly format: ReplicaFormat; readonly body: Uint8Array },
  ): Promise<WriteOutcome> {
    const stamp = this.#deps.local.replica.nextStamp();
    const write = { namespace, format, body, stamp };
    return await this.#routed(routing, async (by) => this.#writeBy(by, write));
  }

  /** Every replica deletes, with one stamp. @throws WRITE_LEVEL_NOT_REACHED */
  async delete(routing: Routing, deletion: ReplicaDelete): Promise<void> {
    await this.#routed(routing, async (by) => this.#deleteBy(by, { ...deletion, routedBy: by.version }));
  }

  /** The same once more, with the same stamp, when a replica says that there is a newer placement. */
  async #routed<T>(routing: Routing, work: (by: Routing) => Promise<T>): Promise<T> {
    for (let by = routing; ;) {
      try {
        return await work(by);
      } catch (error) {
        const newer = isStale(error) ? await this.#deps.newerRouting(by.version) : undefined;
        if (!newer) throw error;
        by = newer;
      }
    }
  }

  async #writeBy(routing: Routing, write: ReplicaWrite): Promise<WriteOutcome> {
    const { format, body } = write;
    const routed = { ...write, routedBy: routing.version };
    if (routing.isWhole) {
      const errand = this.#errand(routed);
      const errands = new Map([...routing.instances.keys()].map((place) => [place, errand]));
      const outcomes = await this.#spread({ routing, groups: [...routing.groups.keys()], errands });
      return [...outcomes.values()][0] ?? NOTHING;
    }
    const split = this.#splitter.split(format, body, routing);
    const errands = new Map(
      [...split.bodies].map(([place, own]) => [place, this.#errand({ ...routed, body: own })]),
    );
    const outcomes = await this.#spread({ routing, groups: split.groups, errands });
    return await this.#total(routing, write, { split, outcomes });
  }

  async #deleteBy(routing: Routing, deletion: ReplicaDelete): Promise<void> {
    const { local, transport, node } = this.#deps;
    const errand: Errand = {
      bytes: 0,
      hint: { kind: 'delete', deletion },
      run: async (to, signal) => {
        await (to.id === node ? local.delete(deletion) : transport.delete(to, deletion, signal));
        return NOTHING;
      },
    };
    const errands = new Map([...routing.instances.keys()].map((place) => [place, errand]));
    await this.#spread({ routing, groups: [...routing.groups.keys()], errands });
  }

  #errand(write: ReplicaWrite): Errand {
    const { local, transport, node } = this.#deps;
    return {
      bytes: write.body.length,
      hint: { kind: 'write', write },
      run: (to, signal) => (to.id === node ? local.write(write) : transport.write(to, write, signal)),
    };
  }

  async #spread(plan: Omit<SpreadPlan, 'level'>): Promise<Outcomes> {
    const { health, node, hint } = this.#deps;
    const { level } = this.#options;
    this.#figures.writes++;
    const deps: SpreadDeps = {
      send: (to, errand) => this.#tracked(this.#send(to, errand)),
      hint: ({ id }, missed) => {
        this.#figures.missed++;
        hint(id, missed);
      },
      isIdle: ({ id }) => id !== node && !health.mayTry(id),
    };
    try {
      return await new Spread(deps, { ...plan, level }).run();
    } catch (error) {
      this.#figures.failed++;
      throw error;
    }
  }

  /**
   * What was acknowledged may still be on its way to other replicas: resolves when each has it, or it is hinted. Those
   * that have not answered after `graceMs` are given up.
   */
  async end(graceMs: number): Promise<void> {
    if (this.#sends.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, graceMs);
      this.#onIdle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    const late = new VarveError('DEADLINE_EXCEEDED', 'the node that took the write stops');
    for (const giveUp of this.#sends) giveUp(late);
    // They are hinted by those who wait for them.
    await new Promise((resolve) => setImmediate(resolve));
  }

  #tracked(send: Promise<WriteOutcome>): Promise<WriteOutcome> {
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.#sends.delete(reject);
        if (this.#sends.size === 0) this.#onIdle();
      };
      this.#sends.add(reject);
      send.then(resolve, reject).finally(end);
    });
  }

  async #send(to: ReplicaAddress, errand: Errand): Promise<WriteOutcome> {
    const { health, node, clock } = this.#deps;
    const { timeoutMs } = this.#options;
    // Its own log may be slow, too; what is done after that does no harm.
    if (to.id === node) {
      const own = { waitingFor: 'its own write', timeoutMs, clock };
      return await untilDeadline(own, (signal) => errand.run(to, signal));
    }
    const underWay = (this.#underWay.get(to.id) ?? 0) + errand.bytes;
    if (underWay > MAX_UNDER_WAY_BYTES) throw new VarveError('STORAGE_OVERLOADED', 'it is too far behind');
    this.#underWay.set(to.id, underWay);
    try {
      const limit = { waitingFor: `replica ${to.id}`, timeoutMs, clock };
      const outcome = await untilDeadline(limit, (signal) => errand.run(to, signal));
      health.answered(to.id);
      return outcome;
    } catch (error) {
      if (isSilence(error)) health.failed(to.id, error);
      else health.answered(to.id);
      throw error;
    } finally {
      this.#underWay.set(to.id, (this.#underWay.get(to.id) ?? 0) - errand.bytes);
    }
  }

  /**
   * What became of a write whose parts went to different replicas. Each part was counted by several; when some of it
   * was refused, which is rare, one replica of each shard is asked once more, which changes nothing.
   */
  async #total(
    routing: Routing,
    write: ReplicaWrite,
    { split, outcomes }: { readonly split: SplitBody; readonly outcomes: Outcomes },
  ): Promise<WriteOutcome> {
    const { samples, exemplars, histograms, groups } = split;
    const series = Math.max(0, ...[...outcomes.values()].map((outcome) => outcome.series));
    if ([...outcomes.values()].every(({ rejected }) => rejected.length === 0)) {
      return { samples, series, rejected: [], exemplars, histograms };
    }
    const teller = new Map(
      groups.map((group) => {
        const { writers } = routing.groups[group] as Routing['groups'][number];
        return [group, writers.filter((place) => outcomes.has(place)).slice(0, 1)] as const;
      }),
    );
    const parts = this.#splitter.split(write.format, write.body, routing, (group) => teller.get(group) ?? []);
    const told = await Promise.all(
      [...parts.bodies].map(([place, body]) =>
        this.#send(routing.instances[place] as ReplicaAddress, this.#errand({ ...write, body })),
      ),
    );
    const rejected = sumOf(told.flatMap((outcome) => outcome.rejected));
    const refused = rejected.reduce((sum, { count }) => sum + count, 0);
    return { samples: samples - refused, series, rejected, exemplars, histograms };
  }
}

const NOTHING: WriteOutcome = { samples: 0, series: 0, rejected: [], exemplars: 0, histograms: 0 };

/** Too few took it, of which one knows a newer placement. */
function isStale(error: unknown): boolean {
  const cause = error instanceof VarveError ? error.cause : undefined;
  return cause instanceof VarveError && cause.code === 'PLACEMENT_STALE';
}

/** Whether it tells that the other node is not there, and not what it thinks of the request. */
function isSilence(error: unknown): boolean {
  if (!(error instanceof VarveError)) return true;
  return error.code === 'REPLICA_UNREACHABLE' || error.code === 'DEADLINE_EXCEEDED';
}

function sumOf(rejections: readonly Rejection[]): Rejection[] {
  const byReason = new Map<RejectReason, Rejection>();
  for (const { reason, count, example } of rejections) {
    const known = byReason.get(reason);
    byReason.set(reason, { reason, count: count + (known?.count ?? 0), example: known?.example ?? example });
  }
  return [...byReason.values()];
}
