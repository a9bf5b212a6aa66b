import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ByteReader } from '../kernel/byte-reader.ts';
import { bytesField } from '../kernel/remote-write.suite.ts';
import { fieldsOf } from '../kernel/protobuf-reader.ts';
import { readSample } from '../kernel/remote-write.ts';
import { decodeSnappy } from '../kernel/snappy.ts';
import { decodeXorChunk } from '../kernel/xor-chunk.ts';
import { encodeLabels } from '../index/labels.ts';
import { crc32c } from '../../core/crc32c.ts';
import { MAX_REQUEST_BYTES, ProtocolKernel } from './protocol-kernel.ts';
import { ProtobufWriter, varintBytes } from './protobuf-writer.ts';
import { ChunkFrameEncoder, msOf, ReadResponseWriter, SampleSeriesEncoder } from './read-encoder.ts';
import { decodeReadRequest } from './remote-read.ts';
import { encodeWriteRequest, remoteWriteVersion, writeAnswer } from './remote-write.ts';
import {
  floorDivide,
  formatDuration,
  formatTime,
  MAX_NS,
  MIN_NS,
  parseDuration,
  parseTime,
} from './time-text.ts';

const kernel = new ProtocolKernel();
const int64 = fc.bigInt(MIN_NS, MAX_NS);

test('CRC-32C is that of the check value and of iSCSI, in one go and whatever the length', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe306_9283);
  expect(crc32c(Buffer.alloc(32))).toBe(0x8a91_36aa);
  expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8_ab43);
  expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => i)))).toBe(0x46dd_794e);
  expect(crc32c(new Uint8Array())).toBe(0);
});

test('numbers are written as protobuf has them, negative ones as 64 bits', () => {
  fc.assert(
    fc.property(fc.maxSafeInteger(), (value) => {
      const writer = new ProtobufWriter(1);
      writer.varint(value);
      const read = new ByteReader(writer.view()).varint();
      expect(BigInt.asIntN(64, read)).toBe(BigInt(value));
      if (value >= 0) expect(varintBytes(value)).toBe(writer.length);
    }),
  );
});

test('milliseconds are those below, for every nanosecond of 64 bits', () => {
  const check = (ns: bigint): void => {
    const [low = 0, high = 0] = new Int32Array(BigInt64Array.of(ns).buffer);
    expect(msOf(low, high)).toBe(Number(floorDivide(ns, 1_000_000n)));
  };
  for (const ns of [0n, -1n, 1n, 999_999n, 1_000_000n, -1_000_000n, MIN_NS, MAX_NS]) check(ns);
  fc.assert(fc.property(int64, check));
  // Right at and around whole milliseconds.
  fc.assert(
    fc.property(
      fc.bigInt(-9_000_000_000_000n, 9_000_000_000_000n),
      fc.integer({ min: -2, max: 2 }),
      (ms, by) => check(ms * 1_000_000n + BigInt(by)),
    ),
  );
});

describe('times in text', () => {
  test.each([
    ['0', 0n],
    ['1767225600', 1_767_225_600_000_000_000n],
    ['1767225600.25', 1_767_225_600_250_000_000n],
    ['1767225600.123456789', 1_767_225_600_123_456_789n],
    ['1.7672256e9', 1_767_225_600_000_000_000n],
    ['-1.5', -1_500_000_000n],
    ['2026-01-01T00:00:00Z', 1_767_225_600_000_000_000n],
    ['2026-01-01T01:30:00.123456789+01:30', 1_767_225_600_123_456_789n],
    ['2025-12-31T23:00:00-01:00', 1_767_225_600_000_000_000n],
    ['1969-12-31T23:59:59.5Z', -500_000_000n],
  ])('%s', (text, ns) => {
    expect(parseTime('start', text)).toBe(ns);
  });

  test.each([
    '',
    'now',
    '1e400',
    '9223372037',
    '2026-02-30T00:00:00Z',
    '2026-01-01T24:00:00Z',
    '2026-01-01',
    '1.2.3',
  ])('%s is refused', (text) => {
    expect(() => parseTime('start', text)).toThrow(/start is .* which is no time/);
  });

  test('what is formatted can be read', () => {
    fc.assert(
      fc.property(fc.bigInt(-6_200_000_000_000_000_000n, MAX_NS), (ns) => {
        expect(parseTime('t', formatTime(ns))).toBe(ns);
      }),
    );
    fc.assert(
      fc.property(fc.bigInt(0n, MAX_NS), (ns) => {
        expect(parseDuration(formatDuration(ns))).toBe(ns);
      }),
    );
    expect(['48h', '1d12h', '90s', '1h30m'].map((text) => parseDuration(text))).toEqual([
      172_800_000_000_000n,
      129_600_000_000_000n,
      90_000_000_000n,
      5_400_000_000_000n,
    ]);
    expect(['', '5', 'h', '1.5h', '-1h'].map((text) => parseDuration(text))).toEqual(
      Array(5).fill(undefined),
    );
  });
});

describe('remote write by its headers', () => {
  test.each([
    [undefined, 1],
    ['application/x-protobuf', 1],
    ['application/x-protobuf;proto=prometheus.WriteRequest', 1],
    ['application/x-protobuf; proto=io.prometheus.write.v2.Request', 2],
    ['Application/X-Protobuf; charset=x; proto="io.prometheus.write.v2.Request"', 2],
  ])('%s is version %s', (type, version) => {
    expect(remoteWriteVersion(type, 'snappy')).toBe(version);
  });

  test.each([
    ['application/json', 'snappy'],
    ['application/x-protobuf;proto=io.prometheus.write.v3.Request', 'snappy'],
    ['application/x-protobuf', 'gzip'],
  ])('%s in %s is refused', (type, encoding) => {
    expect(() => remoteWriteVersion(type, encoding)).toThrow(/remote write does not take/);
  });

  test('what was not taken is told, and only that', () => {
    const outcome = { samples: 5, series: 0, rejected: [], exemplars: 3, histograms: 0 };
    expect(writeAnswer(outcome)).toEqual({ status: 204, text: '' });
    const rejected = [{ reason: 'tooOld' as const, count: 2, example: 'up at 5' }];
    expect(writeAnswer({ ...outcome, rejected, histograms: 1 })).toEqual({
      status: 400,
      text: 'not taken: 2 samples too old (up at 5); 1 native histograms, which are not stored',
    });
  });
});

function readRequest(parts: readonly Uint8Array[]): Uint8Array {
  return kernel.encodeSnappy(Buffer.concat(parts));
}

function query(build: (writer: ProtobufWriter) => void): Uint8Array {
  const writer = new ProtobufWriter();
  build(writer);
  return bytesField(1, writer.copy());
}

const matcher = (type: number, name: string, value: string): Uint8Array => {
  const writer = new ProtobufWriter();
  if (type > 0) writer.integerField(1, type);
  writer.textField(2, name);
  writer.textField(3, value);
  return writer.copy();
};

describe('remote read requests', () => {
  test('have ranges that include their last millisecond, and matchers of four kinds', () => {
    const body = readRequest([
      query((writer) => {
        writer.integerField(1, -1);
        writer.integerField(2, 1000);
        for (let type = 0; type < 4; type += 1) writer.bytesField(3, matcher(type, 'job', 'a.*'));
        writer.bytesField(4, Buffer.from([0x08, 1]));
      }),
      Buffer.from([0x12, 2, 1, 0]),
    ]);
    const { queries, responseType } = decodeReadRequest(kernel, body);
    expect(responseType).toBe('chunks');
    expect(queries).toHaveLength(1);
    expect(queries[0]).toMatchObject({ startNs: -1_000_000n, endNs: 1_001_000_000n });
    expect(queries[0]?.matchers.map(({ operator }) => operator)).toEqual(['=', '!=', '=~', '!~']);
    expect(queries[0]?.matchers.map((matcher) => matcher.matches('abc'))).toEqual([false, true, true, false]);
  });

  test('of a sender that names no form want samples; one that wants unknown forms is refused', () => {
    expect(decodeReadRequest(kernel, readRequest([query(() => {})])).responseType).toBe('samples');
    expect(decodeReadRequest(kernel, readRequest([Buffer.from([0x10, 7, 0x10, 0])])).responseType).toBe(
      'samples',
    );
    expect(() => decodeReadRequest(kernel, readRequest([Buffer.from([0x10, 7])]))).toThrow(
      /response types \(7\)/,
    );
  });

  test.each<[string, Uint8Array]>([
    ['no snappy', Buffer.from('hello')],
    ['nothing', new Uint8Array()],
    ['too much', kernel.encodeSnappy(Buffer.alloc(MAX_REQUEST_BYTES + 1))],
    ['too much that is not compressed', Buffer.alloc(3 * MAX_REQUEST_BYTES)],
    ['half a query', readRequest([Buffer.from([0x0a, 5, 1])])],
    ['a matcher of no type', readRequest([query((writer) => writer.bytesField(3, matcher(9, 'a', 'b')))])],
    ['too many queries', readRequest(Array.from({ length: 65 }, () => query(() => {})))],
  ])('%s is refused in words', (_, body) => {
    expect(() => decodeReadRequest(kernel, body)).toThrow(expect.objectContaining({ code: 'READ_INVALID' }));
  });

  test('are read or refused, whatever the bytes', () => {
    const message = Buffer.concat([
      query((writer) => {
        writer.integerField(1, 5);
        writer.bytesField(3, matcher(2, 'job', '(a|b)'));
      }),
    ]);
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 100 }),
        fc.nat(message.length - 1),
        fc.nat(255),
        (bytes, at, byte) => {
          const changed = Buffer.from(message);
          changed[at] = byte;
          for (const body of [bytes, kernel.encodeSnappy(bytes), kernel.encodeSnappy(changed)]) {
            try {
              decodeReadRequest(kernel, body);
            } catch (error) {
              expect(error).toHaveProperty('code', expect.stringMatching(/^(READ|SELECTOR)_INVALID$/));
            }
          }
        },
      ),
    );
  });
});

const sample = fc.record({
  ns: fc.bigInt(-1_000_000_000_000_000_000n, 4_000_000_000_000_000_000n),
  bits: fc.bigInt(0n, (1n << 64n) - 1n),
});
const seriesSamples = fc.array(
  fc
    .uniqueArray(sample, { selector: ({ ns }) => floorDivide(ns, 1_000_000n), maxLength: 400 })
    .map((samples) => samples.sort((a, b) => (a.ns < b.ns ? -1 : 1))),
  { maxLength: 5 },
);

interface Batch {
  readonly times: BigInt64Array;
  readonly bits: BigUint64Array;
  readonly values: Float64Array;
}

function* batchesOf(samples: readonly { ns: bigint; bits: bigint }[], size: number): Generator<Batch> {
  for (let at = 0; at < samples.length; at += size) {
    const some = samples.slice(at, at + size);
    const bits = BigUint64Array.from(some, ({ bits: pattern }) => pattern);
    yield { times: BigInt64Array.from(some, ({ ns }) => ns), bits, values: new Float64Array(bits.buffer) };
  }
}

const floorMs = (ns: bigint): bigint => floorDivide(ns, 1_000_000n);

test('answers in samples hold every sample bit for bit, and results without series', () => {
  fc.assert(
    fc.property(
      fc.array(seriesSamples, { maxLength: 3 }),
      fc.integer({ min: 1, max: 130 }),
      (results, size) => {
        const writer = new ReadResponseWriter(kernel);
        const encoder = new SampleSeriesEncoder();
        for (const all of results) {
          for (const [i, samples] of all.entries()) {
            encoder.begin(encodeLabels([['n', String(i)]]));
            for (const batch of batchesOf(samples, size)) encoder.add(batch);
            const message = encoder.end();
            if (message) writer.series(message);
          }
          writer.endResult();
        }
        const message = decodeSnappy(Buffer.concat(writer.finish()), 1 << 24);
        const decoded = [...fieldsOf(message, { 1: 2 })].map(({ content }) =>
          [...fieldsOf(content, { 1: 2 })].map((series) =>
            [...fieldsOf(series.content, { 1: 2, 2: 2 })]
              .filter(({ number }) => number === 2)
              .map((field) => readSample(field.content)),
          ),
        );
        expect(decoded).toEqual(
          results.map((all) =>
            all
              .filter((samples) => samples.length > 0)
              .map((samples) =>
                samples.map(({ ns, bits }) => ({ time: floorMs(ns) * 1_000_000n, value: bits })),
              ),
          ),
        );
      },
    ),
    { numRuns: 50 },
  );
});

interface Frame {
  readonly queryIndex: number;
  readonly series: {
    readonly labels: string;
    readonly chunks: { min: bigint; max: bigint; data: Uint8Array }[];
  }[];
}

function readFrames(bytes: Uint8Array): Frame[] {
  const reader = new ByteReader(bytes);
  const frames: Frame[] = [];
  while (reader.left > 0) {
    const length = Number(reader.varint());
    const checksum = Buffer.from(reader.take(4)).readUInt32BE();
    const message = reader.take(length);
    expect(crc32c(message)).toBe(checksum);
    const frame: Frame = { queryIndex: 0, series: [] };
    for (const field of fieldsOf(message, { 1: 2, 2: 0 })) {
      if (field.number === 2) Object.assign(frame, { queryIndex: Number(field.integer) });
      else frame.series.push(readChunked(field.content));
    }
    frames.push(frame);
  }
  return frames;
}

function readChunked(message: Uint8Array): Frame['series'][number] {
  let labels = '';
  const chunks: { min: bigint; max: bigint; data: Uint8Array }[] = [];
  for (const { number, content } of fieldsOf(message, { 1: 2, 2: 2 })) {
    if (number === 1) labels += Buffer.from(content).toString('latin1');
    else {
      const parts = [...fieldsOf(content, { 1: 0, 2: 0, 3: 0, 4: 2 })];
      const integer = (at: number): bigint =>
        BigInt.asIntN(64, parts.find(({ number: found }) => found === at)?.integer ?? 0n);
      expect(integer(3)).toBe(1n);
      chunks.push({ min: integer(1), max: integer(2), data: parts.at(-1)?.content ?? new Uint8Array() });
    }
  }
  return { labels, chunks };
}

test('answers in chunks hold every sample bit for bit, in frames with the right checksum', () => {
  fc.assert(
    fc.property(seriesSamples, fc.integer({ min: 1, max: 300 }), fc.nat(3), (all, size, index) => {
      const encoder = new ChunkFrameEncoder(kernel, index);
      const parts: Buffer[] = [];
      for (const [i, samples] of all.entries()) {
        encoder.begin(encodeLabels([['n', String(i)]]));
        for (const batch of batchesOf(samples, size)) parts.push(...encoder.add(batch));
        parts.push(...encoder.end());
      }
      parts.push(...encoder.flush());
      const frames = readFrames(Buffer.concat(parts));
      expect(frames.every(({ queryIndex }) => queryIndex === index)).toBe(true);
      const decoded = frames.flatMap(({ series }) =>
        series.map(({ chunks }) =>
          chunks.flatMap(({ min, max, data }) => {
            const { times, values } = decodeXorChunk(data, 120);
            expect([times[0], times.at(-1)]).toEqual([min, max]);
            return Array.from(times, (ms, i) => [ms, values[i]]);
          }),
        ),
      );
      expect(decoded).toEqual(
        all
          .filter((samples) => samples.length > 0)
          .map((samples) => samples.map(({ ns, bits }) => [floorMs(ns), bits])),
      );
    }),
    { numRuns: 50 },
  );
});

test('of several samples within a millisecond, the last one counts, also across batches and chunks', () => {
  const samples = Array.from({ length: 240 }, (_, i) => ({ ns: BigInt(i) * 500_000n, bits: BigInt(i) }));
  const encoder = new ChunkFrameEncoder(kernel, 0);
  const plain = new SampleSeriesEncoder();
  const labels = encodeLabels([['n', '1']]);
  encoder.begin(labels);
  plain.begin(labels);
  for (const batch of batchesOf(samples, 7)) {
    encoder.add(batch);
    plain.add(batch);
  }
  encoder.end();
  const [frame] = readFrames(Buffer.concat(encoder.flush()));
  const { values } = decodeXorChunk(frame?.series[0]?.chunks[0]?.data ?? new Uint8Array(), 120);
  expect(Array.from(values)).toEqual(Array.from({ length: 120 }, (_, i) => BigInt(2 * i + 1)));
  const fields = [...fieldsOf(plain.end() ?? new Uint8Array(), { 2: 2 })].filter(
    ({ number }) => number === 2,
  );
  expect(fields.map(({ content }) => readSample(content).value)).toEqual(Array.from(values));
});

test('a series with more chunks than a frame holds goes on in the next', () => {
  const encoder = new ChunkFrameEncoder(kernel, 0);
  const random = Array.from({ length: 200_000 }, (_, i) => ({
    ns: BigInt(i) * 1_000_000n,
    bits: BigInt.asUintN(64, BigInt(i + 1) * 0x9e37_79b9_7f4a_7c15n),
  }));
  encoder.begin(encodeLabels([['n', '1']]));
  const parts = [...batchesOf(random, 1000)].flatMap((batch) => encoder.add(batch));
  parts.push(...encoder.end(), ...encoder.flush());
  const frames = readFrames(Buffer.concat(parts));
  expect(frames.length).toBeGreaterThan(1);
  const bits = frames.flatMap(({ series }) =>
    series.flatMap(({ chunks }) =>
      chunks.flatMap(({ data }) => Array.from(decodeXorChunk(data, 120).values)),
    ),
  );
  expect(bits).toEqual(random.map(({ bits: pattern }) => pattern));
});

test('what is written as remote write 1.0 has its labels in order and its times in milliseconds', () => {
  const body = encodeWriteRequest([
    {
      labels: [
        ['job', 'x'],
        ['__name__', 'up'],
      ],
      samples: [{ timeNs: 1_500_999_999n, value: -0 }],
    },
  ]);
  const [series] = [...fieldsOf(body, { 1: 2 })];
  const fields = [...fieldsOf(series?.content ?? new Uint8Array(), { 1: 2, 2: 2 })];
  expect(Buffer.from(fields[0]?.content ?? []).toString()).toContain('__name__');
  expect(readSample(fields[2]?.content ?? new Uint8Array())).toEqual({
    time: 1_500_000_000n,
    value: 0x8000_0000_0000_0000n,
  });
});
