import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { formatLsn, parseLsn } from './lsn.ts';
import { decodePgoutput, UNCHANGED, type Cell, type PgoutputMessage } from './pgoutput.ts';

const u8 = (n: number): Buffer => Buffer.from([n]);
const u16 = (n: number): Buffer => {
  const buffer = Buffer.alloc(2);
  buffer.writeUInt16BE(n);
  return buffer;
};
const u32 = (n: number): Buffer => {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(n);
  return buffer;
};
const u64 = (n: bigint): Buffer => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(n);
  return buffer;
};
const i64 = (n: bigint): Buffer => u64(BigInt.asUintN(64, n));
const text = (s: string): Buffer => Buffer.from(`${s}\0`);
const IDENTITY = { default: 'd', nothing: 'n', full: 'f', index: 'i' };

function tuple(row: readonly Cell[]): Buffer {
  const cells = row.map((cell) => {
    if (cell === null) return Buffer.from('n');
    if (cell === UNCHANGED) return Buffer.from('u');
    return Buffer.concat([Buffer.from('t'), u32(Buffer.byteLength(cell)), Buffer.from(cell)]);
  });
  return Buffer.concat([u16(row.length), ...cells]);
}

/** The second implementation, in the other direction. */
function encode(message: PgoutputMessage): Buffer {
  const of = (type: string, ...parts: Buffer[]): Buffer => Buffer.concat([Buffer.from(type), ...parts]);
  switch (message.kind) {
    case 'begin':
      return of('B', u64(message.commitLsn), i64(message.commitTimeUs), u32(message.xid));
    case 'commit':
      return of('C', u8(0), u64(message.commitLsn), u64(message.endLsn), i64(message.commitTimeUs));
    case 'origin':
      return of('O', u64(message.lsn), text(message.name));
    case 'relation':
      return of(
        'R',
        u32(message.oid),
        text(message.schema),
        text(message.name),
        Buffer.from(IDENTITY[message.replicaIdentity]),
        u16(message.columns.length),
        ...message.columns.flatMap(({ key, name, typeOid }) => [
          u8(key ? 1 : 0),
          text(name),
          u32(typeOid),
          u32(0xffffffff),
        ]),
      );
    case 'type':
      return of('Y', u32(message.oid), text(message.schema), text(message.name));
    case 'insert':
      return of('I', u32(message.relationOid), Buffer.from('N'), tuple(message.row));
    case 'update':
      return of(
        'U',
        u32(message.relationOid),
        ...(message.old ? [Buffer.from(message.old.kind === 'key' ? 'K' : 'O'), tuple(message.old.row)] : []),
        Buffer.from('N'),
        tuple(message.row),
      );
    case 'delete':
      return of(
        'D',
        u32(message.relationOid),
        Buffer.from(message.old.kind === 'key' ? 'K' : 'O'),
        tuple(message.old.row),
      );
    case 'truncate':
      return of(
        'T',
        u32(message.relationOids.length),
        u8((message.cascade ? 1 : 0) + (message.restartIdentity ? 2 : 0)),
        ...message.relationOids.map(u32),
      );
    case 'message':
      return of(
        'M',
        u8(message.transactional ? 1 : 0),
        u64(message.lsn),
        text(message.prefix),
        u32(message.content.length),
        message.content,
      );
  }
}

const oid = fc.nat(0xffffffff);
const lsn = fc.bigInt({ min: 0n, max: 0xffffffffffffffffn });
const timeUs = fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n });
const name = fc.string({ unit: 'grapheme' }).filter((s) => !s.includes('\0'));
const cell = fc.oneof(fc.string({ unit: 'grapheme' }), fc.constant(null), fc.constant(UNCHANGED));
const row: fc.Arbitrary<Cell[]> = fc.array(cell, { maxLength: 8 });
const old = fc.record({ kind: fc.constantFrom('key' as const, 'full' as const), row });
const kind = <K extends string>(value: K): fc.Arbitrary<K> => fc.constant(value);

const message: fc.Arbitrary<PgoutputMessage> = fc.oneof(
  fc.record({ kind: kind('begin'), commitLsn: lsn, commitTimeUs: timeUs, xid: oid }),
  fc.record({ kind: kind('commit'), commitLsn: lsn, endLsn: lsn, commitTimeUs: timeUs }),
  fc.record({ kind: kind('origin'), name, lsn }),
  fc.record({
    kind: kind('relation'),
    oid,
    schema: name,
    name,
    replicaIdentity: fc.constantFrom('default', 'nothing', 'full', 'index'),
    columns: fc.array(fc.record({ name, typeOid: oid, key: fc.boolean() }), { maxLength: 8 }),
  }),
  fc.record({ kind: kind('type'), oid, schema: name, name }),
  fc.record({ kind: kind('insert'), relationOid: oid, row }),
  fc.record({ kind: kind('update'), relationOid: oid, old: fc.option(old, { nil: undefined }), row }),
  fc.record({ kind: kind('delete'), relationOid: oid, old }),
  fc.record({
    kind: kind('truncate'),
    relationOids: fc.array(oid, { maxLength: 8 }),
    cascade: fc.boolean(),
    restartIdentity: fc.boolean(),
  }),
  fc.record({
    kind: kind('message'),
    transactional: fc.boolean(),
    lsn,
    prefix: name,
    content: fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
  }),
);

describe('messages of pgoutput', () => {
  test('each is read as it was written', () => {
    fc.assert(
      fc.property(message, (wanted) => {
        expect(decodePgoutput(encode(wanted))).toEqual(wanted);
      }),
      { numRuns: 2000 },
    );
  });

  test('one that is cut short is refused, wherever the cut is', () => {
    fc.assert(
      fc.property(message, fc.nat(), (wanted, at) => {
        const whole = encode(wanted);
        expect(() => decodePgoutput(whole.subarray(0, at % whole.length))).toThrow(
          expect.objectContaining({ code: 'GAP_UNREADABLE' }),
        );
      }),
      { numRuns: 2000 },
    );
  });

  test('bytes that were changed give a message or a clear error, never anything else', () => {
    fc.assert(
      fc.property(message, fc.nat(), fc.nat(255), (wanted, at, byte) => {
        const damaged = Buffer.from(encode(wanted));
        damaged[at % damaged.length] = byte;
        try {
          decodePgoutput(damaged);
        } catch (error) {
          expect(error).toBeInstanceOf(VarveError);
        }
      }),
      { numRuns: 3000 },
    );
  });

  test('what goes on behind the end of a message is refused', () => {
    fc.assert(
      fc.property(message, (wanted) => {
        expect(() => decodePgoutput(Buffer.concat([encode(wanted), u8(0)]))).toThrow(VarveError);
      }),
    );
  });

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['a stream start, of protocol 2', Buffer.from('S')],
    [
      'a value in binary',
      Buffer.concat([Buffer.from('I'), u32(1), Buffer.from('N'), u16(1), Buffer.from('b')]),
    ],
    ['a truncation of a billion tables', Buffer.concat([Buffer.from('T'), u32(1e9), u8(0)])],
    [
      'an unknown replica identity',
      Buffer.concat([Buffer.from('R'), u32(1), text('s'), text('t'), Buffer.from('x'), u16(0)]),
    ],
  ])('%s is refused', (_what, data) => {
    expect(() => decodePgoutput(data)).toThrow(expect.objectContaining({ code: 'GAP_UNREADABLE' }));
  });
});

test('positions keep their value as text', () => {
  expect(formatLsn(0x16_b374d848n)).toBe('16/B374D848');
  expect(parseLsn('0/0')).toBe(0n);
  fc.assert(
    fc.property(lsn, (value) => {
      expect(parseLsn(formatLsn(value))).toBe(value);
    }),
  );
  for (const bad of ['', '0', '1/', '/1', '1/2/3', '1/123456789', 'g/0']) {
    expect(() => parseLsn(bad)).toThrow(VarveError);
  }
});
