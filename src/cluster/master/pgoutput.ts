import { VarveError } from '../../core/errors.ts';
import type { Lsn } from './lsn.ts';

/**
 * Messages of PostgreSQL's output plugin `pgoutput`, protocol version 1, as
 * `pg_logical_slot_peek_binary_changes` returns them: one message a row. A transaction is
 * `begin [origin] (relation | type | insert | update | delete | truncate | message)* commit`.
 *
 * Source: "Logical Replication Message Formats" of PostgreSQL's manual, 16 to 18.
 */
export type PgoutputMessage =
  | BeginMessage
  | CommitMessage
  | { readonly kind: 'origin'; readonly name: string; /** Of the commit there. */ readonly lsn: Lsn }
  | RelationMessage
  | { readonly kind: 'type'; readonly oid: number; readonly schema: string; readonly name: string }
  | { readonly kind: 'insert'; readonly relationOid: number; readonly row: Tuple }
  | UpdateMessage
  | DeleteMessage
  | TruncateMessage
  | {
      readonly kind: 'message';
      readonly transactional: boolean;
      readonly lsn: Lsn;
      readonly prefix: string;
      readonly content: Buffer;
    };

export interface BeginMessage {
  readonly kind: 'begin';
  /** Of the commit record: known before the transaction's changes are sent. */
  readonly commitLsn: Lsn;
  /** Microseconds since 2000-01-01 UTC. */
  readonly commitTimeUs: bigint;
  readonly xid: number;
}

export interface CommitMessage {
  readonly kind: 'commit';
  readonly commitLsn: Lsn;
  /** Where the next record starts. */
  readonly endLsn: Lsn;
  readonly commitTimeUs: bigint;
}

/** What a table looks like from here on; sent before its first change in a session. */
export interface RelationMessage {
  readonly kind: 'relation';
  readonly oid: number;
  /** Empty for `pg_catalog`. */
  readonly schema: string;
  readonly name: string;
  /** How old rows are told: by primary key, nothing, all columns, an index. */
  readonly replicaIdentity: 'default' | 'nothing' | 'full' | 'index';
  readonly columns: readonly RelationColumn[];
}

export interface RelationColumn {
  readonly name: string;
  readonly typeOid: number;
  /** Belongs to the replica identity. */
  readonly key: boolean;
}

export interface UpdateMessage {
  readonly kind: 'update';
  readonly relationOid: number;
  /** `key`: it changed, and these are its former values; `full`: the whole former row; undefined: as in `row`. */
  readonly old: { readonly kind: 'key' | 'full'; readonly row: Tuple } | undefined;
  readonly row: Tuple;
}

export interface DeleteMessage {
  readonly kind: 'delete';
  readonly relationOid: number;
  readonly old: { readonly kind: 'key' | 'full'; readonly row: Tuple };
}

export interface TruncateMessage {
  readonly kind: 'truncate';
  readonly relationOids: readonly number[];
  readonly cascade: boolean;
  readonly restartIdentity: boolean;
}

/** A large value that an update left as it was, and that was therefore not sent. */
export const UNCHANGED = Symbol('unchanged');

/** As its type's output function writes it. */
export type Cell = string | null | typeof UNCHANGED;

/** One cell a column of the relation, in its order. */
export type Tuple = readonly Cell[];

/**
 * Decodes one message, and owns nothing of `data` afterwards but the content of a logical message.
 * @throws GAP_UNREADABLE for what is cut short, goes on behind its end, or is no message of this version
 */
export function decodePgoutput(data: Buffer): PgoutputMessage {
  const reader = new Reader(data);
  const message = decode(reader);
  reader.end();
  return message;
}

function decode(reader: Reader): PgoutputMessage {
  const type = reader.char();
  switch (type) {
    case 'B':
      return {
        kind: 'begin',
        commitLsn: reader.uint64(),
        commitTimeUs: reader.int64(),
        xid: reader.uint32(),
      };
    case 'C':
      reader.uint8(); // Flags, of which there are none.
      return {
        kind: 'commit',
        commitLsn: reader.uint64(),
        endLsn: reader.uint64(),
        commitTimeUs: reader.int64(),
      };
    case 'O':
      return decodeOrigin(reader);
    case 'R':
      return decodeRelation(reader);
    case 'Y':
      return { kind: 'type', oid: reader.uint32(), schema: reader.text(), name: reader.text() };
    case 'I':
      return decodeInsert(reader);
    case 'U':
      return decodeUpdate(reader);
    case 'D':
      return decodeDelete(reader);
    case 'T':
      return decodeTruncate(reader);
    case 'M':
      return {
        kind: 'message',
        transactional: (reader.uint8() & 1) !== 0,
        lsn: reader.uint64(),
        prefix: reader.text(),
        content: reader.bytes(reader.uint32()),
      };
    default:
      throw reader.unreadable(`a message of the unknown type ${JSON.stringify(type)}`);
  }
}

function decodeOrigin(reader: Reader): PgoutputMessage {
  const lsn = reader.uint64();
  return { kind: 'origin', lsn, name: reader.text() };
}

const IDENTITIES = new Map([
  ['d', 'default'],
  ['n', 'nothing'],
  ['f', 'full'],
  ['i', 'index'],
] as const);

function decodeRelation(reader: Reader): RelationMessage {
  const oid = reader.uint32();
  const schema = reader.text();
  const name = reader.text();
  const identity = reader.char();
  const replicaIdentity = IDENTITIES.get(identity as 'd');
  if (replicaIdentity === undefined) throw reader.unreadable(`the replica identity ${identity}`);
  const columns = Array.from({ length: reader.uint16() }, () => {
    const key = (reader.uint8() & 1) !== 0;
    const column = { key, name: reader.text(), typeOid: reader.uint32() };
    reader.uint32(); // The type's modifier.
    return column;
  });
  return { kind: 'relation', oid, schema, name, replicaIdentity, columns };
}

function decodeInsert(reader: Reader): PgoutputMessage {
  const relationOid = reader.uint32();
  reader.expect('N');
  return { kind: 'insert', relationOid, row: decodeTuple(reader) };
}

function decodeUpdate(reader: Reader): UpdateMessage {
  const relationOid = reader.uint32();
  let part = reader.char();
  let old: UpdateMessage['old'];
  if (part === 'K' || part === 'O') {
    old = { kind: part === 'K' ? 'key' : 'full', row: decodeTuple(reader) };
    part = reader.char();
  }
  if (part !== 'N') throw reader.unreadable(`an update whose row starts with ${JSON.stringify(part)}`);
  return { kind: 'update', relationOid, old, row: decodeTuple(reader) };
}

function decodeDelete(reader: Reader): DeleteMessage {
  const relationOid = reader.uint32();
  const part = reader.char();
  if (part !== 'K' && part !== 'O') {
    throw reader.unreadable(`a deletion whose row starts with ${JSON.stringify(part)}`);
  }
  return {
    kind: 'delete',
    relationOid,
    old: { kind: part === 'K' ? 'key' : 'full', row: decodeTuple(reader) },
  };
}

function decodeTruncate(reader: Reader): TruncateMessage {
  const count = reader.uint32();
  const flags = reader.uint8();
  // Four bytes each: a wrong count must not reserve gigabytes.
  if (count * 4 > reader.left) throw reader.unreadable(`a truncation of ${count} tables`);
  return {
    kind: 'truncate',
    relationOids: Array.from({ length: count }, () => reader.uint32()),
    cascade: (flags & 1) !== 0,
    restartIdentity: (flags & 2) !== 0,
  };
}

function decodeTuple(reader: Reader): Tuple {
  return Array.from({ length: reader.uint16() }, (): Cell => {
    const kind = reader.char();
    switch (kind) {
      case 'n':
        return null;
      case 'u':
        return UNCHANGED;
      case 't':
        return reader.bytes(reader.uint32()).toString('utf8');
      default:
        // Binary values come only when they are asked for.
        throw reader.unreadable(`a value of the unknown kind ${JSON.stringify(kind)}`);
    }
  });
}

class Reader {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Buffer) {
    this.#data = data;
  }

  get left(): number {
    return this.#data.length - this.#at;
  }

  uint8(): number {
    return this.#data.readUInt8(this.#take(1));
  }

  uint16(): number {
    return this.#data.readUInt16BE(this.#take(2));
  }

  uint32(): number {
    return this.#data.readUInt32BE(this.#take(4));
  }

  uint64(): bigint {
    return this.#data.readBigUInt64BE(this.#take(8));
  }

  int64(): bigint {
    return this.#data.readBigInt64BE(this.#take(8));
  }

  char(): string {
    return String.fromCharCode(this.uint8());
  }

  expect(wanted: string): void {
    const found = this.char();
    if (found !== wanted) throw this.unreadable(`${JSON.stringify(found)} instead of ${wanted}`);
  }

  bytes(length: number): Buffer {
    const start = this.#take(length);
    return this.#data.subarray(start, start + length);
  }

  /** Up to its NUL. */
  text(): string {
    const end = this.#data.indexOf(0, this.#at);
    if (end < 0) throw this.unreadable('a name without an end');
    const text = this.#data.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return text;
  }

  end(): void {
    if (this.left > 0) throw this.unreadable(`${this.left} bytes behind the end`);
  }

  unreadable(what: string): VarveError {
    return new VarveError('GAP_UNREADABLE', `a change in a replication slot has ${what}`, {
      detail: `At byte ${this.#at} of ${this.#data.length}; it starts with ${this.#data.toString('hex', 0, 24)}.`,
    });
  }

  #take(length: number): number {
    const at = this.#at;
    if (length > this.left) throw this.unreadable(`${length} bytes where ${this.left} are left`);
    this.#at += length;
    return at;
  }
}
