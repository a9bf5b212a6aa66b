import type { Lsn } from './lsn.ts';
import type {
  BeginMessage,
  DeleteMessage,
  PgoutputMessage,
  RelationMessage,
  TruncateMessage,
  UpdateMessage,
} from './pgoutput.ts';

/** What of a slot's changes is looked for: those of one node, behind `after` and up to `upTo` in its own WAL. */
export interface Gap {
  /** The name of the node's replication origin on the server that has the slot; undefined when it is that node. */
  readonly origin: string | undefined;
  /** What is there already: where its last transaction ended. */
  readonly after: Lsn;
  /** Where the last transaction that is wanted ends. */
  readonly upTo: Lsn;
}

export type RowChange =
  | Extract<PgoutputMessage, { readonly kind: 'insert' }>
  | UpdateMessage
  | DeleteMessage
  | TruncateMessage;

export type GapEvent =
  | { readonly kind: 'begin'; readonly xid: number }
  | { readonly kind: 'relation'; readonly relation: RelationMessage }
  | { readonly kind: 'change'; readonly change: RowChange }
  | {
      readonly kind: 'commit';
      /** Where it ended on the node that made it. */ readonly lsn: Lsn;
      /** Microseconds since 2000-01-01 UTC. */ readonly timeUs: bigint;
    };

/**
 * Picks the transactions of a gap out of the messages of a slot. Tables' descriptions pass always: they are
 * sent once, maybe within a transaction that is not wanted.
 */
export class GapFilter {
  readonly #gap: Gap;
  #begin: BeginMessage | undefined;
  #origin: { readonly name: string; readonly lsn: Lsn } | undefined;
  #wanted: boolean | undefined;

  constructor(gap: Gap) {
    this.#gap = gap;
  }

  /** What `message`, the next one of the slot, adds to what is to be done. */
  next(message: PgoutputMessage): readonly GapEvent[] {
    switch (message.kind) {
      case 'begin':
        this.#begin = message;
        this.#origin = undefined;
        this.#wanted = undefined;
        return [];
      case 'origin':
        this.#origin = { name: message.name, lsn: message.lsn };
        return [];
      case 'relation':
        return [...this.#decide(), { kind: 'relation', relation: message }];
      case 'insert':
      case 'update':
      case 'delete':
      case 'truncate': {
        const events = this.#decide();
        return this.#wanted === true ? [...events, { kind: 'change', change: message }] : events;
      }
      case 'commit': {
        const events = this.#decide();
        const lsn = this.#origin?.lsn ?? message.endLsn;
        const wanted = this.#wanted === true;
        this.#begin = undefined;
        return wanted ? [...events, { kind: 'commit', lsn, timeUs: message.commitTimeUs }] : events;
      }
      case 'type':
      case 'message':
        return this.#decide();
    }
  }

  /** The origin stands before a transaction's first change, so it is known by then. */
  #decide(): readonly GapEvent[] {
    if (this.#wanted !== undefined || !this.#begin) return [];
    this.#wanted = this.#isWanted(this.#begin);
    return this.#wanted ? [{ kind: 'begin', xid: this.#begin.xid }] : [];
  }

  #isWanted({ commitLsn }: BeginMessage): boolean {
    const { origin, after, upTo } = this.#gap;
    if (origin !== this.#origin?.name) return false;
    // Of one's own transactions the start of the commit is known here, of others' its end.
    if (this.#origin === undefined) return commitLsn >= after && commitLsn < upTo;
    return this.#origin.lsn > after && this.#origin.lsn <= upTo;
  }
}
