import { messageOf } from '../../core/errors.ts';
import type { CoordinatorLog } from '../../coordination/coordinator.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { advanceGapSlot, ensureGapSlot, isPast, markGap, type GapMark } from './gap-slot.ts';
import { confirmedBy, readOrigins, readProgress } from './progress.ts';

export interface GapUpkeepDeps {
  readonly log: CoordinatorLog;
  readonly servers: GroupServers;
}

/** Keeps one member's slots for gaps: made where they are missing, moved on as soon as everybody is past. */
export class GapUpkeep {
  readonly #deps: GapUpkeepDeps;
  readonly #self: ServerAddress;
  readonly #marks = new Map<string, GapMark>();
  /** Told once. */
  readonly #reasons = new Map<string, string>();

  constructor(deps: GapUpkeepDeps, self: ServerAddress) {
    this.#deps = deps;
    this.#self = self;
  }

  /** One round; `peers` are all other members, whether they are there or not. Never throws. */
  async round(databases: readonly string[], peers: readonly ServerAddress[]): Promise<void> {
    for (const database of databases) {
      await this.#keep(database, peers).then(
        () => this.#reasons.delete(database),
        (error: unknown) => {
          // A peer that is away: nothing is given up before it has it.
          const reason = messageOf(error);
          if (this.#reasons.get(database) === reason) return;
          this.#reasons.set(database, reason);
          this.#deps.log.info({ database, reason }, 'the slot for gaps is not moved on');
        },
      );
    }
  }

  async #keep(database: string, peers: readonly ServerAddress[]): Promise<void> {
    const { servers, log } = this.#deps;
    const own = { node: this.#self.node, database };
    const others = peers.map(({ node }) => node);
    await servers.withConnection(this.#self, database, async (connection) => {
      const origins = () => readOrigins(connection, own, others);
      if (await ensureGapSlot(connection, database, origins)) {
        this.#marks.delete(database);
        log.info({ database }, 'the slot for gaps is made');
      }
      const mark = this.#marks.get(database);
      if (mark && !(await this.#allPast(database, mark, peers))) return;
      if (mark) await advanceGapSlot(connection, database, mark);
      this.#marks.set(database, await markGap(connection, origins));
    });
  }

  async #allPast(database: string, mark: GapMark, peers: readonly ServerAddress[]): Promise<boolean> {
    const { servers } = this.#deps;
    const nodes = [this.#self.node, ...peers.map(({ node }) => node)];
    for (const peer of peers) {
      const member = { node: peer.node, database };
      const confirmed = await servers.withConnection(this.#self, database, (connection) =>
        confirmedBy(connection, member),
      );
      // Cheap, and mostly enough to know that it is too early.
      if (confirmed === undefined || confirmed < mark.lsn) return false;
      const progress = await servers.withConnection(peer, database, (connection) =>
        readProgress(connection, member, nodes),
      );
      if (!isPast(mark, { node: peer.node, progress, confirmed })) return false;
    }
    return true;
  }
}
