import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import { Engine } from '../engine/engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import type { StorageEngine } from '../engine/storage-engine.ts';
import {
  bytesField,
  encodeWriteRequest,
  encodeWriteRequest2,
  type SeriesToWrite,
} from '../kernel/remote-write.suite.ts';
import { fieldsOf } from '../kernel/protobuf-reader.ts';
import { readSample } from '../kernel/remote-write.ts';
import { decodeSnappy } from '../kernel/snappy.ts';
import { ProtobufWriter } from '../protocol/protobuf-writer.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { MemoryEngine } from './memory-engine.suite.ts';
import { RequestBodies } from './request-body.ts';
import { notReady, serveStorage, type TestServer } from './storage-http.suite.ts';

const kernel = new ProtocolKernel();
const NOW_MS = 1_767_225_600_000n;
const ONE = 0x3ff0_0000_0000_0000n;

let base: string;
let folders = 0;

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'varve-test-http-'));
});

afterAll(() => rm(base, { recursive: true }));

const NAMESPACES = ['default', 'other'].map((name) => namespaceOptions({ name }));

/** The plain one, whose answers are plain to see, and the real one: both with a clock that stands. */
const ENGINES: readonly (readonly [string, () => Promise<StorageEngine>])[] = [
  ['an engine in maps', () => Promise.resolve(new MemoryEngine(NAMESPACES, () => NOW_MS * 1_000_000n))],
  [
    'the engine',
    async () => {
      const folder = join(base, String((folders += 1)));
      const fs = new NodeFileSystem();
      await fs.makeFolder(folder);
      const clock = { ...systemClock, nowMs: () => Number(NOW_MS) };
      const log = { info: () => {}, warn: () => {}, error: () => {} };
      const made = await Engine.open(
        { fs, clock, random: Math.random, randomUint32: () => 1, log },
        { folder, logMode: 'behind', shardCount: 4, logSegmentBytes: 1 << 20, tickMs: 0 },
      );
      await made.applyNamespaces(NAMESPACES);
      await made.ready();
      return made;
    },
  ],
];

const sorted = (lines: string): string => lines.split('\n').sort().join('\n');

describe.each(ENGINES)('over %s:', (_name, make) => {
  let engine: StorageEngine;
  let server: TestServer;
  /** Thrown by the next request that asks for the engine. */
  let failure: VarveError | undefined;

  beforeEach(async () => {
    engine = await make();
    failure = undefined;
    server = await serveStorage(engine, {
      engine: () => {
        const thrown = failure;
        failure = undefined;
        if (thrown) throw thrown;
        return engine;
      },
    });
  });

  afterEach(async () => {
    await server[Symbol.asyncDispose]();
    await engine[Symbol.asyncDispose]();
    expect(server.bugs).toEqual([]);
  });

  const up = (job: string, ms = NOW_MS, bits = ONE): SeriesToWrite => ({
    labels: [
      ['__name__', 'up'],
      ['job', job],
    ],
    samples: [{ ms, bits }],
  });

  type Headers = Record<string, string>;

  function post(path: string, body: Uint8Array | string, headers: Headers = {}): Promise<Response> {
    return fetch(`${server.url}${path}`, { method: 'POST', body, headers });
  }

  const write = (
    series: readonly SeriesToWrite[],
    headers: Headers = {},
    path = '/api/v1/write',
  ): Promise<Response> =>
    post(path, kernel.encodeSnappy(encodeWriteRequest(series)), {
      'content-type': 'application/x-protobuf',
      ...headers,
    });

  const V2 = 'application/x-protobuf;proto=io.prometheus.write.v2.Request';

  const written = (response: Response): (string | null)[] =>
    ['samples', 'histograms', 'exemplars'].map((what) =>
      response.headers.get(`x-prometheus-remote-write-${what}-written`),
    );

  async function exported(selector = '{__name__!=""}', path = ''): Promise<string[]> {
    const response = await fetch(
      `${server.url}${path}/api/v1/export?match[]=${encodeURIComponent(selector)}`,
    );
    expect(response.status).toBe(200);
    const lines = (await response.text()).split('\n').filter((line) => line !== '');
    return lines
      .map((line) => JSON.parse(line) as { metric: Headers; values: unknown[]; timestamps?: number[] })
      .map(
        ({ metric, values, timestamps }) =>
          `${JSON.stringify(metric)} ${values.join()} ${timestamps?.join()}`,
      );
  }

  async function json<T = unknown>(
    path: string,
    init: RequestInit = {},
  ): Promise<{ status: number; body: T }> {
    const response = await fetch(`${server.url}${path}`, init);
    return { status: response.status, body: (await response.json()) as T };
  }

  describe('remote write', () => {
    test('1.0: what is written is there, and how much it was is said', async () => {
      const response = await write([up('a'), up('b')]);
      expect([response.status, await response.text(), written(response)]).toEqual([204, '', ['2', '0', '0']]);
      expect(await exported()).toEqual([
        `{"__name__":"up","job":"a"} 1 ${NOW_MS}`,
        `{"__name__":"up","job":"b"} 1 ${NOW_MS}`,
      ]);
    });

    test('2.0 by its content type', async () => {
      const response = await post('/api/v1/write', kernel.encodeSnappy(encodeWriteRequest2([up('a')])), {
        'content-type': V2,
        'content-encoding': 'snappy',
      });
      expect([response.status, written(response)]).toEqual([204, ['1', '0', '0']]);
      expect(await exported()).toHaveLength(1);
    });

    test.each<[string, Headers, Uint8Array | string, number]>([
      ['a body that is no snappy', {}, 'hello', 400],
      ['an empty body', {}, '', 400],
      ['snappy of something else', {}, kernel.encodeSnappy(Buffer.from([0x0a, 0xff])), 400],
      [
        '2.0 said to be 1.0, with labels in symbols',
        { 'content-type': V2 },
        kernel.encodeSnappy(bytesField(5, bytesField(1, Buffer.from([9, 9])))),
        400,
      ],
      ['another type', { 'content-type': 'application/json' }, '{}', 415],
      ['another message', { 'content-type': 'application/x-protobuf;proto=a.b' }, '', 415],
      ['another encoding', { 'content-encoding': 'zstd' }, 'x', 415],
      ['too much', {}, Buffer.alloc((1 << 20) + 1), 413],
    ])('%s is refused for good', async (_, headers, body, status) => {
      const response = await post('/api/v1/write', body, {
        'content-type': 'application/x-protobuf',
        ...headers,
      });
      expect([response.status, response.headers.get('retry-after')]).toEqual([status, null]);
      expect(await response.text()).toMatch(/\S/);
      expect(written(response)).toEqual(['0', '0', '0']);
    });

    test('2.0 with all that a message may have: samples are taken, the rest is told or left out', async () => {
      const texts = ['', '__name__', 'm', 'help', 'trace_id', 'abc'];
      const varints = (...numbers: number[]): Uint8Array => Buffer.from(numbers);
      const sample = new ProtobufWriter();
      sample.doubleField(1, -0);
      sample.integerField(2, Number(NOW_MS));
      const series = (...more: Uint8Array[]): Uint8Array =>
        bytesField(
          5,
          Buffer.concat([
            bytesField(1, varints(1, 2)),
            bytesField(2, sample.view()),
            // Metadata (a type and a help text), when it was created.
            bytesField(5, Buffer.from([0x08, 1, 0x18, 3])),
            Buffer.from([0x30, 0x80, 0x01]),
            ...more,
          ]),
        );
      const exemplar = bytesField(4, Buffer.concat([bytesField(1, varints(4, 5)), Buffer.from([0x18, 1])]));
      const message = (...parts: Uint8Array[]): Uint8Array =>
        kernel.encodeSnappy(
          Buffer.concat([...texts.map((text) => bytesField(4, Buffer.from(text))), ...parts]),
        );
      const taken = await post('/api/v1/write', message(series(exemplar)), { 'content-type': V2 });
      expect([taken.status, written(taken)]).toEqual([204, ['1', '0', '0']]);
      const partly = await post('/api/v1/write', message(series(bytesField(3, Buffer.alloc(0)))), {
        'content-type': V2,
      });
      expect([partly.status, written(partly)]).toEqual([400, ['1', '0', '0']]);
      expect(await exported()).toEqual([`{"__name__":"m"} ${-0} ${NOW_MS}`]);
      for (const wrong of [varints(1), varints(1, 9), varints(2, 1, 2)]) {
        const body = message(
          bytesField(5, Buffer.concat([bytesField(1, wrong), bytesField(2, sample.view())])),
        );
        const refused = await post('/api/v1/write', body, { 'content-type': V2 });
        expect([refused.status, written(refused)]).toEqual([400, ['0', '0', '0']]);
      }
    });

    test('samples out of bounds are told with 400, and the others are taken', async () => {
      const response = await write([
        up('a', NOW_MS - 3_600_000n),
        up('b'),
        { labels: [], samples: up('x').samples },
      ]);
      expect([response.status, written(response)]).toEqual([400, ['1', '0', '0']]);
      expect(await response.text()).toMatch(
        /^not taken: 1 samples too old \(.*\); 1 samples with invalid labels/,
      );
      expect(await exported()).toEqual([`{"__name__":"up","job":"b"} 1 ${NOW_MS}`]);
    });

    test('native histograms are told with 400, exemplars are left out without a word', async () => {
      const series = (field: number): Uint8Array =>
        kernel.encodeSnappy(
          bytesField(
            1,
            Buffer.concat([bytesField(1, label('__name__', 'h')), bytesField(field, Buffer.alloc(0))]),
          ),
        );
      const [exemplar, histogram] = await Promise.all(
        [3, 4].map((field) => post('/api/v1/write', series(field))),
      );
      expect([exemplar?.status, histogram?.status]).toEqual([204, 400]);
      expect(await histogram?.text()).toContain('1 native histograms');
    });

    test.each(['COMMIT_LOG_FULL', 'COMMIT_LOG_BUSY', 'STORAGE_OVERLOADED', 'COMMIT_LOG_POISONED'] as const)(
      'a sender is told to come back when the engine says %s',
      async (code) => {
        failure = new VarveError(code, 'not now');
        const response = await write([up('a')]);
        expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
        expect((await write([up('a')])).status).toBe(204);
      },
    );

    test('while the engine is not open, senders are told to come back', async () => {
      await using other = await serveStorage(engine, { engine: notReady, notReady: () => 'starting' });
      const response = await fetch(`${other.url}/api/v1/write`, {
        method: 'POST',
        body: kernel.encodeSnappy(encodeWriteRequest([up('a')])),
      });
      expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
      expect((await fetch(`${other.url}/-/ready`)).status).toBe(503);
      expect((await fetch(`${server.url}/-/ready`)).status).toBe(200);
    });

    test('the namespace is in the path, a header or a parameter', async () => {
      await write([up('path')], {}, '/ns/other/api/v1/write');
      await write([up('header')], { 'x-varve-namespace': 'other' });
      await write([up('parameter')], {}, '/api/v1/write?namespace=other');
      await write(
        [up('path')],
        { 'x-varve-namespace': 'default' },
        '/ns/other/api/v1/write?namespace=default',
      );
      expect(await exported()).toEqual([]);
      expect(await exported('up', '/ns/other')).toHaveLength(3);
      expect((await write([up('a')], {}, '/ns/none/api/v1/write')).status).toBe(404);
      expect((await write([up('a')], {}, '/ns/%ff/api/v1/write')).status).toBe(400);
      expect((await fetch(`${server.url}/ns/other/nothing`)).status).toBe(404);
      expect((await fetch(`${server.url}/ns/other`)).status).toBe(404);
    });

    test('bodies that come in many pieces, and without a length, are put together', async () => {
      const series = Array.from({ length: 2000 }, (_, i) =>
        up(createHash('sha256').update(String(i)).digest('hex')),
      );
      const body = kernel.encodeSnappy(encodeWriteRequest(series));
      expect(body.length).toBeGreaterThan(100_000);
      for (const headers of [{ 'content-length': body.length }, {}]) {
        const request = httpRequest(`${server.url}/api/v1/write`, { method: 'POST', headers });
        for (let at = 0; at < body.length; at += 30_000) {
          request.write(body.subarray(at, at + 30_000));
          await new Promise((resolve) => setImmediate(resolve));
        }
        request.end();
        const [response] = (await once(request, 'response')) as [IncomingMessage];
        response.resume();
        expect(response.statusCode).toBe(204);
      }
      expect(engine.status().namespaces[0]?.series).toBe(2000);
    });

    test('a body without a length is cut off at the limit', async () => {
      const request = httpRequest(`${server.url}/api/v1/write`, { method: 'POST' });
      request.on('error', () => {});
      request.write(Buffer.alloc(600_000));
      request.write(Buffer.alloc(600_000));
      const [response] = (await once(request, 'response')) as [IncomingMessage];
      expect([response.statusCode, response.headers.connection]).toEqual([413, 'close']);
      request.destroy();
    });

    test('bodies under way are bounded together, and a sender that goes away gives its share back', async () => {
      const bodies = new RequestBodies({ maxBytes: 1 << 20, maxWaitingBytes: 1 << 20 });
      await using other = await serveStorage(engine, { bodies });
      const { port } = new URL(other.url);
      const socket = connect(Number(port), '127.0.0.1');
      socket.write(`POST /api/v1/write HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n`);
      socket.write(Buffer.alloc(900_000));
      await expect.poll(() => bodies.waitingBytes).toBe(900_000);
      const refused = await fetch(`${other.url}/api/v1/write`, {
        method: 'POST',
        body: Buffer.alloc(500_000),
      });
      expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
      socket.destroy();
      await expect.poll(() => bodies.waitingBytes).toBe(0);
    });
  });

  function label(name: string, value: string): Uint8Array {
    return Buffer.concat([bytesField(1, Buffer.from(name)), bytesField(2, Buffer.from(value))]);
  }

  describe('Influx line protocol', () => {
    test('becomes series named after measurement and field', async () => {
      const lines = `cpu,host=a usage=0.5,idle=2i ${NOW_MS}\nmem used="text" ${NOW_MS}\n`;
      const response = await post('/write?db=default&precision=ms', lines);
      expect([response.status, await response.text()]).toEqual([204, '']);
      expect(await exported()).toEqual([
        `{"__name__":"cpu_usage","host":"a"} 0.5 ${NOW_MS}`,
        `{"__name__":"cpu_idle","host":"a"} 2 ${NOW_MS}`,
      ]);
      expect(await server.registry.metrics()).toContain('varve_storage_influx_text_fields_total 1');
    });

    test('compressed, and by version 2, into the bucket', async () => {
      const response = await post(
        '/api/v2/write?org=o&bucket=other&precision=s',
        gzipSync(`m f=1 ${NOW_MS / 1000n}`),
        {
          'content-encoding': 'gzip',
        },
      );
      expect(response.status).toBe(204);
      expect(await exported('m_f', '/ns/other')).toHaveLength(1);
    });

    test('lines that are wrong, and points out of bounds, are told as Influx does; the others are taken', async () => {
      const lines = `cpu v=1 ${NOW_MS}\ncpu v=x\ncpu v=2 5\n`;
      const one = await post('/write?precision=ms', lines);
      const told = (await one.json()) as { error: string };
      expect(one.status).toBe(400);
      expect(told.error).toMatch(
        /^partial write: line 2: unable to parse 'cpu v=x': invalid boolean or number\n.*too old.*dropped=1$/s,
      );
      expect(one.headers.get('x-influxdb-error')).toContain('partial write');
      const two = await post('/api/v2/write?precision=ms', 'cpu v=x');
      expect([two.status, await two.json()]).toEqual([
        400,
        { code: 'invalid', message: expect.stringContaining('line 1: unable to parse') as string },
      ]);
      expect(await exported()).toEqual([`{"__name__":"cpu_v"} 1 ${NOW_MS}`]);
    });

    test.each([
      ['/write?precision=fortnights', 'm f=1', {}, 400, 'invalid precision'],
      ['/write?db=none', 'm f=1', {}, 404, 'none'],
      ['/api/v2/write?bucket=none', 'm f=1', {}, 404, 'none'],
      ['/write', Buffer.from([0x6d, 0x20, 0xff]), {}, 400, 'UTF-8'],
      ['/write', 'no gzip', { 'content-encoding': 'gzip' }, 400, 'decompressed'],
      ['/write', 'x', { 'content-encoding': 'br' }, 415, 'br'],
      ['/write', gzipSync(Buffer.alloc(2 << 20)), { 'content-encoding': 'gzip' }, 413, 'larger than'],
    ])('%s with %s is refused', async (path, body, headers, status, why) => {
      const response = await post(path, body, headers);
      expect([response.status, await response.text()]).toEqual([status, expect.stringContaining(why)]);
    });

    test('clients that look for Influx first find it', async () => {
      const response = await fetch(`${server.url}/ping`);
      expect([response.status, response.headers.get('x-influxdb-version')]).toEqual([
        204,
        expect.stringMatching(/^1\.8/),
      ]);
    });
  });

  describe('lines of JSON', () => {
    test('go in as they come out', async () => {
      await write([up('a'), up('b', NOW_MS, 0x7ff0_0000_0000_0002n), up('c', NOW_MS, 1n << 63n)]);
      const lines = await (await fetch(`${server.url}/api/v1/export?match[]=up`)).text();
      await engine.flush({ force: true });
      // From files as from memory.
      expect(sorted(await (await fetch(`${server.url}/api/v1/export?match[]=up`)).text())).toBe(
        sorted(lines),
      );
      expect((await post('/ns/other/api/v1/import', lines)).status).toBe(204);
      expect(await exported('up', '/ns/other')).toEqual(await exported('up'));
    });

    test('that are wrong are told with their number; the others are taken', async () => {
      const good = JSON.stringify({ metric: { __name__: 'm' }, values: [1], timestamps: [Number(NOW_MS)] });
      const { status, body } = await json('/api/v1/import', { method: 'POST', body: `${good}\n\nx\n` });
      expect([status, body]).toEqual([
        400,
        {
          status: 'error',
          errorType: 'bad_data',
          code: 'WRITE_INVALID',
          error: expect.stringContaining('line 3: a line of JSON cannot be taken: it is not JSON') as string,
        },
      ]);
      expect(await exported()).toHaveLength(1);
    });
  });

  describe('what is there', () => {
    beforeEach(() =>
      write([
        up('a'),
        up('b'),
        {
          labels: [
            ['__name__', 'load'],
            ['host', 'ä'],
          ],
          samples: up('x').samples,
        },
      ]),
    );

    test('series by selectors, with GET and with POST', async () => {
      const wanted = { status: 'success', data: [{ __name__: 'up', job: 'a' }] };
      const query = `match[]=${encodeURIComponent('up{job="a"}')}`;
      expect((await json(`/api/v1/series?${query}`)).body).toEqual(wanted);
      const form = {
        method: 'POST',
        body: query,
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
      };
      expect((await json('/api/v1/series', form)).body).toEqual(wanted);
      const two = await json<{ data: unknown[] }>(`/api/v1/series?${query}&match[]=load`);
      expect(two.body.data).toHaveLength(2);
    });

    test('labels and their values, of all series or of some, up to a limit', async () => {
      expect((await json('/api/v1/labels')).body).toEqual({
        status: 'success',
        data: ['__name__', 'host', 'job'],
      });
      expect((await json('/api/v1/labels?match[]=up')).body).toMatchObject({ data: ['__name__', 'job'] });
      expect((await json('/api/v1/label/job/values')).body).toEqual({ status: 'success', data: ['a', 'b'] });
      expect((await json('/api/v1/label/none/values')).body).toEqual({ status: 'success', data: [] });
      expect((await json('/api/v1/label/job/values?limit=1')).body).toEqual({
        status: 'success',
        data: ['a'],
        warnings: ['results truncated due to limit'],
      });
    });

    test('only within the range, whose end is part of it', async () => {
      const seconds = Number(NOW_MS) / 1000;
      const count = async (range: string): Promise<number> =>
        (await json<{ data: unknown[] }>(`/api/v1/labels?${range}`)).body.data.length;
      expect(await count(`start=${seconds}&end=${seconds}`)).toBe(3);
      // Whole blocks are looked at.
      expect(await count(`end=${seconds - 86_400}`)).toBe(0);
      expect(await count(`start=${seconds + 86_400}`)).toBe(0);
      expect(await count(`start=${new Date(Number(NOW_MS)).toISOString()}`)).toBe(3);
    });

    test('how many series and values there are', async () => {
      const { body } = await json<{ data: object }>('/api/v1/status/tsdb');
      expect(body.data).toMatchObject({
        headStats: { numSeries: 3 },
        labelValueCountByLabelName: [
          { name: '__name__', value: 2 },
          { name: 'job', value: 2 },
          { name: 'host', value: 1 },
        ],
      });
    });

    test('can be deleted, in a range, for good', async () => {
      const seconds = Number(NOW_MS) / 1000;
      const path = (more: string): string =>
        `/api/v1/admin/tsdb/delete_series?match[]=${encodeURIComponent('up{job="a"}')}${more}`;
      expect((await post(path(`&end=${seconds - 1}`), '')).status).toBe(204);
      expect(await exported('up')).toHaveLength(2);
      const put = await fetch(`${server.url}${path('')}`, { method: 'PUT' });
      expect([put.status, put.headers.get('x-varve-series-deleted')]).toEqual([204, '1']);
      expect(await exported('up')).toEqual([`{"__name__":"up","job":"b"} 1 ${NOW_MS}`]);
    });

    test.each([
      ['/api/v1/series', 400, 'bad_data', 'no match[]'],
      ['/api/v1/series?match[]={}', 400, 'bad_data', 'no matcher'],
      ['/api/v1/series?match[]=up{', 400, 'bad_data', ''],
      ['/api/v1/series?match[]=up&start=x', 400, 'bad_data', 'start is "x"'],
      ['/api/v1/series?match[]=up&start=2&end=1', 400, 'bad_data', 'end is before start'],
      ['/api/v1/labels?limit=many', 400, 'bad_data', 'limit is "many"'],
      ['/api/v1/export?match[]=up&namespace=none', 404, 'not_found', 'none'],
      ['/api/v1/query?query=up', 404, 'not_found', 'remote_read'],
      ['/api/v1/admin/tsdb/delete_series', 405, 'bad_data', 'POST and PUT'],
      ['/api/v1/namespaces/none', 404, 'not_found', 'none'],
    ])('%s is refused as Prometheus does', async (path, status, errorType, why) => {
      expect(await json(path)).toEqual({
        status,
        body: {
          status: 'error',
          errorType,
          code: expect.any(String) as string,
          error: expect.stringContaining(why) as string,
        },
      });
    });
  });

  describe('remote read', () => {
    const readBody = (
      matchers: readonly [number, string, string][],
      types: readonly number[] = [],
    ): Uint8Array => {
      const query = new ProtobufWriter();
      query.integerField(1, Number(NOW_MS) - 10);
      query.integerField(2, Number(NOW_MS));
      for (const [type, name, value] of matchers) {
        const matcher = new ProtobufWriter();
        matcher.integerField(1, type);
        matcher.textField(2, name);
        matcher.textField(3, value);
        query.bytesField(3, matcher.view());
      }
      return kernel.encodeSnappy(
        Buffer.concat([bytesField(1, query.view()), ...types.map((type) => Buffer.from([0x10, type]))]),
      );
    };

    test('gives series in the order of their labels, with the samples of the range', async () => {
      await write([up('b'), up('a'), up('a', NOW_MS - 11n), up('a', NOW_MS + 1n), up('c', NOW_MS - 10n)]);
      const response = await post('/api/v1/read', readBody([[2, 'job', 'a|b|c']]));
      expect([
        response.status,
        response.headers.get('content-type'),
        response.headers.get('content-encoding'),
      ]).toEqual([200, 'application/x-protobuf', 'snappy']);
      const message = decodeSnappy(Buffer.from(await response.arrayBuffer()), 1 << 20);
      const [result] = [...fieldsOf(message, { 1: 2 })];
      const found = [...fieldsOf(result?.content ?? new Uint8Array(), { 1: 2 })].map(({ content }) => {
        const fields = [...fieldsOf(content, { 1: 2, 2: 2 })];
        const job = Buffer.from(fields[1]?.content ?? [])
          .toString()
          .at(-1);
        return [job, fields.slice(2).map((field) => readSample(field.content).time / 1_000_000n)];
      });
      expect(found).toEqual([
        ['a', [NOW_MS]],
        ['b', [NOW_MS]],
        ['c', [NOW_MS - 10n]],
      ]);
    });

    test('streams chunks to those who accept them, also when there is nothing', async () => {
      await write([up('a')]);
      for (const job of ['a', 'none']) {
        const response = await post('/api/v1/read', readBody([[0, 'job', job]], [1, 0]));
        expect(response.headers.get('content-type')).toBe(
          'application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse',
        );
        expect((await response.arrayBuffer()).byteLength > 0).toBe(job === 'a');
      }
    });

    test.each<[string, Uint8Array | string, Headers, number]>([
      ['no snappy', 'x', {}, 400],
      ['a pattern that is none', readBody([[2, 'job', '(']]), {}, 400],
      ['an unknown form of answer', readBody([[0, 'a', 'b']], [5]), {}, 400],
      ['another encoding', 'x', { 'content-encoding': 'gzip' }, 415],
    ])('%s is refused', async (_, body, headers, status) => {
      const response = await post('/api/v1/read', body, headers);
      expect([response.status, await response.text()]).toEqual([status, expect.stringMatching(/\S/)]);
    });

    test('more series than the limit is refused in words', async () => {
      await using other = await serveStorage(engine, { limits: { read: { maxSeries: 1 } } });
      await write([up('a'), up('b')]);
      const response = await fetch(`${other.url}/api/v1/read`, {
        method: 'POST',
        body: readBody([[2, 'job', '.+']]),
      });
      expect(response.status).toBe(422);
    });
  });

  describe('who may ask', () => {
    const from = (origin: string): Headers => ({ origin, 'content-type': 'application/x-protobuf' });

    test('pages of others may not write through a browser, our own may', async () => {
      expect((await write([up('a')], from('https://example.com'))).status).toBe(403);
      expect((await write([up('a')], from('null'))).status).toBe(403);
      expect((await write([up('a')], from(server.url))).status).toBe(204);
    });

    test('nobody by the name of another host', async () => {
      const request = httpRequest(`${server.url}/api/v1/labels`, { headers: { host: 'example.com' } });
      request.end();
      const [response] = (await once(request, 'response')) as [IncomingMessage];
      response.resume();
      expect(response.statusCode).toBe(400);
    });

    test('with a token only those who have it, but whoever looks after the process', async () => {
      await using other = await serveStorage(engine, { door: { token: 'secret', isLoopback: true } });
      const ask = async (authorization?: string, path = '/api/v1/labels'): Promise<number> =>
        (
          await fetch(`${other.url}${path}`, {
            headers: authorization === undefined ? {} : { authorization },
          })
        ).status;
      expect(
        await Promise.all([
          ask(),
          ask('Bearer wrong'),
          ask('Basic c2VjcmV0'),
          ask('Bearer secret'),
          ask('Token secret'),
        ]),
      ).toEqual([401, 401, 401, 200, 200]);
      expect([await ask(undefined, '/-/ready'), await ask(undefined, '/-/healthy')]).toEqual([200, 200]);
      const refused = await fetch(`${other.url}/api/v1/labels`);
      expect(refused.headers.get('www-authenticate')).toBe('Bearer');
    });
  });

  describe('namespaces', () => {
    test('are listed, made, changed and deleted', async () => {
      const list = async (): Promise<string[]> =>
        (await json<{ data: { name: string }[] }>('/api/v1/namespaces')).body.data.map(({ name }) => name);
      expect(await list()).toEqual(['default', 'other']);
      const put = (body: object): Promise<{ status: number; body: unknown }> =>
        json('/api/v1/namespaces/long', { method: 'PUT', body: JSON.stringify(body) });
      expect(await put({ retention: '30d' })).toMatchObject({
        status: 200,
        body: { data: { name: 'long', retention: '720h' } },
      });
      expect(await put({ bufferPast: '1h' })).toMatchObject({
        status: 200,
        body: { data: { retention: '720h', bufferPast: '1h' } },
      });
      expect(await put({ retention: '1s' })).toMatchObject({
        status: 400,
        body: { code: 'NAMESPACE_INVALID' },
      });
      expect((await json('/api/v1/namespaces/long')).body).toMatchObject({ data: { bufferPast: '1h' } });
      const away = (): Promise<{ status: number }> => json('/api/v1/namespaces/long', { method: 'DELETE' });
      expect([(await away()).status, (await away()).status]).toEqual([200, 404]);
      expect(await list()).toEqual(['default', 'other']);
      expect((await json('/api/v1/namespaces/a%20b', { method: 'PUT', body: '{}' })).status).toBe(400);
      expect((await json('/api/v1/namespaces/x', { method: 'PUT', body: '{' })).status).toBe(400);
    });
  });

  test('requests are counted by route and status', async () => {
    await write([up('a')]);
    await fetch(`${server.url}/api/v1/label/job/values`);
    const text = await server.registry.metrics();
    expect(text).toContain('varve_storage_http_requests_total{route="/api/v1/write",status="204"} 1');
    expect(text).toContain(
      'varve_storage_http_requests_total{route="/api/v1/label/NAME/values",status="200"} 1',
    );
  });

  test('a read that nobody waits for any more ends, and one that waits for its turn gets it', async () => {
    const stop = new AbortController();
    await write(Array.from({ length: 50 }, (_, i) => up(String(i))));
    const asked = Array.from({ length: 6 }, () =>
      fetch(`${server.url}/api/v1/export?match[]=up`, { signal: stop.signal }).then((response) =>
        response.text(),
      ),
    );
    await Promise.all(asked);
    expect(server.deps.reads.running).toBe(0);
  });
});
