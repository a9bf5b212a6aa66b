import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { encodeLabels, writeLabel, type LabelPair } from '../index/labels.ts';
import { ByteWriter } from '../index/byte-writer.ts';
import { NO_OVERWRITES } from '../engine/columns.ts';
import { canonicalLabels, walkWriteRequest } from '../kernel/remote-write.ts';
import { walkWriteRequest2 } from '../kernel/remote-write-2.ts';
import { decodeSnappy } from '../kernel/snappy.ts';
import { ProtobufWriter } from '../protocol/protobuf-writer.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { ColumnsWriter, readColumns } from './columns-body.ts';
import { Routing } from './routing.ts';
import { BodySplitter, shardOf } from './split-body.ts';
import { placementWith, SHARDS } from './test-cluster.suite.ts';

const kernel = new ProtocolKernel();
const splitter = new BodySplitter();
const has = (place: number, shard: number) =>
  place === shard || place === (shard + 1) % SHARDS ? ('available' as const) : undefined;
const routing = new Routing(placementWith(['a', 'b', 'c', 'd'], 2, has));

interface Series {
  /** As they are sent. */
  readonly labels: readonly LabelPair[];
  readonly samples: readonly (readonly [ms: number, value: number])[];
}

const pair = fc.tuple(fc.constantFrom('a', 'b', '__name__', 'job', 'é'), fc.string({ maxLength: 200 }));
const series = fc.record({
  // In any order, some empty: all that a sender may do.
  labels: fc
    .uniqueArray(pair, { selector: ([name]) => name, minLength: 1, maxLength: 5 })
    .filter((labels) => labels.some(([, value]) => value !== '')),
  samples: fc.array(fc.tuple(fc.nat(1e12), fc.double()), { maxLength: 4 }),
});
const request = fc.array(series, { maxLength: 12 });

function sampleBytes([ms, value]: readonly [number, number]): Buffer {
  const writer = new ProtobufWriter(32);
  writer.doubleField(1, value);
  writer.integerField(2, ms);
  return writer.copy();
}

function body1(all: readonly Series[]): Uint8Array {
  const out = new ProtobufWriter();
  for (const { labels, samples } of all) {
    const message = new ProtobufWriter();
    const written = new ByteWriter();
    for (const [name, value] of labels) writeLabel(written, Buffer.from(name), Buffer.from(value));
    message.raw(written.take());
    for (const one of samples) message.bytesField(2, sampleBytes(one));
    message.bytesField(3, Buffer.alloc(0));
    out.bytesField(1, message.view());
  }
  out.bytesField(3, Buffer.from('metadata'));
  return kernel.encodeSnappy(out.view());
}

function body2(all: readonly Series[]): Uint8Array {
  const symbols = [''];
  const out = new ProtobufWriter();
  const messages = all.map(({ labels, samples }) => {
    const message = new ProtobufWriter();
    const references = new ProtobufWriter();
    for (const text of labels.flat()) references.varint(symbols.push(text) - 1);
    message.bytesField(1, references.view());
    for (const one of samples) message.bytesField(2, sampleBytes(one));
    return message.copy();
  });
  for (const text of symbols) out.textField(4, text);
  for (const message of messages) out.bytesField(5, message);
  return kernel.encodeSnappy(out.view());
}

function bodyOfColumns(all: readonly Series[]): Uint8Array {
  const writer = new ColumnsWriter();
  for (const { labels, samples } of all) {
    const values = Float64Array.from(samples, ([, value]) => value);
    writer.add(encodeLabels(labels), {
      times: BigInt64Array.from(samples, ([ms]) => BigInt(ms) * 1_000_000n),
      bits: new BigUint64Array(values.buffer),
      overwrites: NO_OVERWRITES,
    });
  }
  return writer.take();
}

const LIMITS = { maxSeries: 5000, maxSamples: 5000, maxSymbols: 1000, maxLabelBytes: 1e7 };
type Found = readonly [id: string, times: readonly bigint[], values: readonly bigint[]];

const FORMATS = [
  {
    format: 1 as const,
    encode: body1,
    decode: (body: Uint8Array): Found[] =>
      walkWriteRequest(decodeSnappy(body, 1e7), LIMITS).series.map(({ labels, times, values }) => [
        hex(canonicalLabels(labels)),
        times,
        values,
      ]),
  },
  {
    format: 2 as const,
    encode: body2,
    decode: (body: Uint8Array): Found[] =>
      walkWriteRequest2(decodeSnappy(body, 1e7), LIMITS).series.map(({ labels, times, values }) => [
        hex(canonicalLabels(labels)),
        times,
        values,
      ]),
  },
  {
    format: 'columns' as const,
    encode: bodyOfColumns,
    decode: (body: Uint8Array): Found[] =>
      [...readColumns(body)].map(({ labels, columns: { times, bits } }) => [
        hex(labels),
        [...times],
        [...bits],
      ]),
  },
];

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

test.each(FORMATS)(
  'every series of a $format body goes to all that have its shard, whole',
  ({ format, encode, decode }) => {
    fc.assert(
      fc.property(request, (all) => {
        const body = encode(all);
        const split = splitter.split(format, body, routing);
        const parts = new Map([...split.bodies].map(([place, part]) => [place, decode(part)]));
        const sent = decode(body);
        expect(split.samples).toBe(sent.reduce((sum, [, times]) => sum + times.length, 0));
        expect(split.exemplars).toBe(format === 1 ? all.length : 0);
        for (const [place] of routing.instances.entries()) {
          // The same series twice keeps its order.
          const own = sent.filter(([id]) => has(place, shardOf(Buffer.from(id, 'hex'), SHARDS)));
          const byId = (one: readonly Found[]): Found[] =>
            [...one].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
          expect(byId(parts.get(place) ?? [])).toEqual(byId(own));
        }
      }),
      { numRuns: 60 },
    );
  },
);

test('a body of more series than there was room for, and of more bytes than are compressed at once, is taken apart as well', () => {
  const all = Array.from({ length: 5000 }, (_, i) => ({
    labels: [
      ['__name__', 'm'],
      ['n', `${i}`.padStart(i % 500, '0')],
    ] as const,
    samples: [[i, i] as const],
  }));
  const [{ format, encode, decode }] = FORMATS as [(typeof FORMATS)[0]];
  const split = splitter.split(format, encode(all), routing);
  const found = [...split.bodies.values()].flatMap((part) => decode(part).map(([, times]) => times[0]));
  expect([split.samples, found.length]).toEqual([all.length, 2 * all.length]);
  expect(new Set(found).size).toBe(all.length);
});

test('bodies that are none are refused, and no bytes whatsoever do more than that', () => {
  for (const body of [
    Buffer.from('hello'),
    kernel.encodeSnappy(Buffer.from([0x0a, 0xff])),
    kernel.encodeSnappy(Buffer.from([0x0b])),
  ]) {
    expect(() => splitter.split(1, body, routing)).toThrow(VarveError);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.constantFrom(1, 2, 'columns'), (bytes, format) => {
      const body = format === 'columns' ? bytes : kernel.encodeSnappy(bytes);
      try {
        splitter.split(format as 1, body, routing);
      } catch (error) {
        expect(error).toMatchObject({ code: 'WRITE_INVALID' });
      }
    }),
    { numRuns: 500 },
  );
});
