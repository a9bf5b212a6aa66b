import type { Clock } from '../../core/clock.ts';
import { untilDeadline } from '../../core/deadline.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { Placement } from '../../placement/placement.ts';
import { topologyOf } from '../../placement/topology.ts';
import { isNew } from '../bootstrap/uninitialized-source.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { ColumnsWriter } from './columns-body.ts';
import type { LocalReplica } from './local-replica.ts';
import type { ReplicaAddress, ReplicaTransport } from './replica-transport.ts';
import { hasEnough, majorityOf, Routing, type ReplicaGroup } from './routing.ts';

export interface HandOverDeps {
  /** This one in the placement. */
  readonly node: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly local: LocalReplica;
  readonly transport: ReplicaTransport;
  /** Of one message. */
  readonly timeoutMs: number;
}

/** Messages have about this size. */
const PART_BYTES = 1024 * 1024;
const ALL_TIMES = { startNs: -(1n << 62n), endNs: 1n << 62n };

/**
 * Gives the samples that a node took while it stood alone to the replicas of a placement that it is in now. It gives up
 * its own then, or others would not have them: so as many have to have them before as a write of level `majority` needs.
 * First those that others are filled from, then those that are being filled: one of these that has not begun gets them
 * from the first, one that has would miss them. What they have already stays. To be repeated until it succeeds: who had
 * all of it by the same version of the placement is not given it again.
 */
export class HandOver {
  readonly #deps: HandOverDeps;
  #version = -1;
  /** By node, of that version of the placement: shards that it has been given. */
  #given = new Map<string, Set<number>>();

  constructor(deps: HandOverDeps) {
    this.#deps = deps;
  }

  /**
   * @param shards that the node has samples of
   * @throws WRITE_LEVEL_NOT_REACHED
   */
  async run(
    placement: Placement,
    { shards, signal }: { readonly shards: readonly number[]; readonly signal: AbortSignal },
  ): Promise<void> {
    const { node, log } = this.#deps;
    if (placement.version !== this.#version) this.#given = new Map();
    this.#version = placement.version;
    log.info({ shards: shards.length }, 'what this node took while it stood alone is given to the replicas');
    const routing = new Routing(placement);
    const topology = topologyOf(placement, node);
    const groupOf = (shard: number): ReplicaGroup => routing.groups[routing.groupOf(shard)] as ReplicaGroup;
    const reasons: string[] = [];
    const give = async (to: (group: ReplicaGroup) => readonly number[]): Promise<void> => {
      for (const [place, taker] of routing.instances.entries()) {
        const due = shards.filter((shard) => to(groupOf(shard)).includes(place) && !this.#has(taker, shard));
        if (due.length === 0) continue;
        try {
          await this.#give(taker, { shards: due, version: placement.version, signal });
        } catch (error) {
          signal.throwIfAborted();
          reasons.push(`${taker.id}: ${messageOf(error)}`);
        }
      }
    };
    const checked = (isEnough: (group: ReplicaGroup, has: number[], shard: number) => boolean): void => {
      const short = shards.filter((shard) => {
        const group = groupOf(shard);
        const has = group.writers.filter((place) => this.#has(routing.instances[place], shard));
        return !isEnough(group, has, shard);
      });
      if (short.length > 0) throw tooFew(short.length, reasons);
    };
    await give(({ readers }) => readers);
    checked(({ readers }, has) => {
      const wanted = Math.min(readers.length, majorityOf(readers.length));
      return readers.filter((place) => has.includes(place)).length >= wanted;
    });
    await give(({ writers }) => writers);
    checked((group, has, shard) => {
      const among = (places: readonly number[]): number =>
        places.filter((place) => has.includes(place)).length;
      // Nobody is filled from anybody: what each has stays where it is.
      if (isNew(topology, shard)) return has.length >= majorityOf(placement.replicaFactor);
      const units = group.units.filter((unit) => among(unit) === unit.length).length;
      return hasEnough(group, 'majority', { units, filling: among(group.filling) });
    });
  }

  /** What this node has stays here, or comes back from those that others are filled from. */
  #has(instance: ReplicaAddress | undefined, shard: number): boolean {
    if (!instance) return false;
    return instance.id === this.#deps.node || this.#given.get(instance.id)?.has(shard) === true;
  }

  async #give(
    taker: ReplicaAddress,
    {
      shards,
      version,
      signal,
    }: { readonly shards: readonly number[]; readonly version: number; readonly signal: AbortSignal },
  ): Promise<void> {
    const { clock, log, local, transport, timeoutMs } = this.#deps;
    let samples = 0;
    for (const { name: namespace } of local.engine.namespaces()) {
      const writer = new ColumnsWriter();
      const send = async (): Promise<void> => {
        const part = { namespace, body: writer.take(), routedBy: version };
        const limit = { waitingFor: `replica ${taker.id}`, timeoutMs, clock, parent: signal };
        await untilDeadline(limit, (ends) => transport.handOver(taker, part, ends));
      };
      const query = { matchers: [], shards, signal, ...ALL_TIMES };
      for await (const { id, columns } of local.replica.readBatches(namespace, query)) {
        writer.add(id, columns);
        samples += columns.times.length;
        if (writer.length >= PART_BYTES) await send();
      }
      if (writer.length > 0) await send();
    }
    const given = this.#given.get(taker.id) ?? new Set();
    for (const shard of shards) given.add(shard);
    this.#given.set(taker.id, given);
    log.info({ replica: taker.id, samples }, 'a replica has what this node took alone');
  }
}

function tooFew(shards: number, reasons: readonly string[]): VarveError {
  return new VarveError(
    'WRITE_LEVEL_NOT_REACHED',
    `too few replicas took what this node has of ${shards} shards from the time when it stood alone: ${reasons.join('; ')}`,
    { hint: 'It is repeated. Until then the node keeps it, and has no part in the placement.' },
  );
}
