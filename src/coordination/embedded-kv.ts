/**
 * The key-value operations of the embedded coordinator: what each verb of Consul 1.10's `/v1/txn` does to the
 * keys. All operations of one call happen or none: they run on a draft that the caller adopts or drops.
 * Semantics and messages after Consul 1.10, agent/consul/state/{kvs,txn}.go.
 */

/** One key. `value` is base64, as it is on the wire and in the log. */
export interface KvRow {
  readonly key: string;
  readonly value: string;
  readonly flags: number;
  /** The session that holds the lock; empty when none does. */
  readonly session: string;
  readonly lockIndex: number;
  readonly createIndex: number;
  readonly modifyIndex: number;
}

export const KV_VERBS = [
  'set',
  'cas',
  'lock',
  'unlock',
  'get',
  'get-tree',
  'check-index',
  'check-session',
  'check-not-exists',
  'delete',
  'delete-cas',
  'delete-tree',
] as const;

export type KvVerb = (typeof KV_VERBS)[number];

export interface KvOperation {
  readonly verb: KvVerb;
  readonly key: string;
  readonly value?: string;
  readonly flags?: number;
  readonly session?: string;
  /** What `cas`, `delete-cas` and `check-index` compare with. */
  readonly index?: number;
}

export interface KvError {
  readonly opIndex: number;
  readonly what: string;
}

/** Changed keys with their new row; undefined for those that were deleted. */
export type KvChanges = ReadonlyMap<string, KvRow | undefined>;

export interface KvOutcome {
  /** Rows with their value for `get` and `get-tree`, without it for the others. */
  readonly results: readonly { readonly row: KvRow; readonly withValue: boolean }[];
  readonly errors: readonly KvError[];
  readonly changes: KvChanges;
}

export interface KvState {
  readonly rows: ReadonlyMap<string, KvRow>;
  readonly hasSession: (id: string) => boolean;
}

/** Runs `operations` as the change number `index`. With errors, `changes` is empty. */
export function runKvOperations(
  state: KvState,
  operations: readonly KvOperation[],
  index: number,
): KvOutcome {
  const draft = new Draft(state, index);
  const results: { row: KvRow; withValue: boolean }[] = [];
  const errors: KvError[] = [];
  for (const [opIndex, operation] of operations.entries()) {
    const outcome = draft.run(operation);
    if (typeof outcome === 'string') errors.push({ opIndex, what: outcome });
    else {
      const withValue = operation.verb === 'get' || operation.verb === 'get-tree';
      for (const row of outcome) results.push({ row, withValue });
    }
  }
  return errors.length > 0
    ? { results: [], errors, changes: new Map() }
    : { results, errors, changes: draft.changes };
}

/** In the order of their keys. */
export function rowsUnder(rows: Iterable<KvRow>, prefix: string): KvRow[] {
  return [...rows].filter(({ key }) => key.startsWith(prefix)).sort((a, b) => (a.key < b.key ? -1 : 1));
}

class Draft {
  readonly changes = new Map<string, KvRow | undefined>();
  readonly #state: KvState;
  readonly #index: number;

  constructor(state: KvState, index: number) {
    this.#state = state;
    this.#index = index;
  }

  /** The rows it touched or read, or why it failed. */
  run(operation: KvOperation): readonly KvRow[] | string {
    switch (operation.verb) {
      case 'set':
        return this.#set(operation);
      case 'cas':
        return this.#compareAndSet(operation);
      case 'lock':
        return this.#lock(operation);
      case 'unlock':
        return this.#unlock(operation);
      case 'delete':
        return this.#delete(operation.key);
      case 'delete-cas':
        return this.#deleteIf(operation);
      case 'delete-tree':
        for (const { key } of this.#under(operation.key)) this.#delete(key);
        return [];
      case 'get-tree':
        return this.#under(operation.key);
      default:
        return this.#check(operation);
    }
  }

  #row(key: string): KvRow | undefined {
    return this.changes.has(key) ? this.changes.get(key) : this.#state.rows.get(key);
  }

  #under(prefix: string): KvRow[] {
    const rows = new Map(this.#state.rows);
    for (const [key, row] of this.changes)
      if (row) rows.set(key, row);
      else rows.delete(key);
    return rowsUnder(rows.values(), prefix);
  }

  /** A write that changes nothing leaves the key's index alone. */
  #write(operation: KvOperation, session: string, lockIndex: number): readonly KvRow[] {
    const { key, value = '', flags = 0 } = operation;
    const before = this.#row(key);
    const same =
      before?.value === value &&
      before.flags === flags &&
      before.session === session &&
      before.lockIndex === lockIndex;
    if (before && same) return [before];
    const createIndex = before?.createIndex ?? this.#index;
    const row = { key, value, flags, session, lockIndex, createIndex, modifyIndex: this.#index };
    this.changes.set(key, row);
    return [row];
  }

  /** As Consul does it, a plain write keeps the holder and sets the lock index to 0. */
  #set(operation: KvOperation): readonly KvRow[] {
    return this.#write(operation, this.#row(operation.key)?.session ?? '', 0);
  }

  #compareAndSet(operation: KvOperation): readonly KvRow[] | string {
    const version = this.#row(operation.key)?.modifyIndex ?? 0;
    if (version === (operation.index ?? 0)) return this.#set(operation);
    return `failed to set key "${operation.key}", index is stale`;
  }

  #lock(operation: KvOperation): readonly KvRow[] | string {
    const { key, session = '' } = operation;
    if (session === '') return 'missing session';
    if (!this.#state.hasSession(session)) return `invalid session "${session}"`;
    const before = this.#row(key);
    if (before?.session === session) return this.#write(operation, session, before.lockIndex);
    if (before && before.session !== '') return `failed to lock key "${key}", lock is already held`;
    return this.#write(operation, session, (before?.lockIndex ?? 0) + 1);
  }

  #unlock(operation: KvOperation): readonly KvRow[] | string {
    const { key, session = '' } = operation;
    if (session === '') return 'missing session';
    const before = this.#row(key);
    if (before?.session === session) return this.#write(operation, '', before.lockIndex);
    return `failed to unlock key "${key}", lock isn't held, or is held by another session`;
  }

  #delete(key: string): readonly KvRow[] {
    if (this.#state.rows.has(key)) this.changes.set(key, undefined);
    else this.changes.delete(key); // It was made by this very call.
    return [];
  }

  #deleteIf(operation: KvOperation): readonly KvRow[] | string {
    const before = this.#row(operation.key);
    if (!before || before.modifyIndex === operation.index) return this.#delete(operation.key);
    return `failed to delete key "${operation.key}", index is stale`;
  }

  #check({ verb, key, index = 0, session = '' }: KvOperation): readonly KvRow[] | string {
    const row = this.#row(key);
    if (verb === 'check-not-exists') return row ? `key "${key}" exists` : [];
    if (!row && verb === 'get') return `key "${key}" doesn't exist`;
    if (!row) return `failed to ${verb.replace('-', ' ')}, key "${key}" doesn't exist`;
    if (verb === 'check-index' && row.modifyIndex !== index) {
      return `failed index check for key "${key}", current modify index ${row.modifyIndex} != ${index}`;
    }
    if (verb === 'check-session' && row.session !== session) {
      return `failed session check for key "${key}", current session "${row.session}" != "${session}"`;
    }
    return [row];
  }
}
