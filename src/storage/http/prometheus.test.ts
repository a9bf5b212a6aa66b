import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import { VarveError } from '../../core/errors.ts';
import { Engine } from '../engine/engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { labelMatcher } from '../index/matcher.ts';
import {
  findPrometheus,
  PrometheusProcess,
  skipWithoutPrometheus,
  type RangeSeries,
} from './prometheus-process.suite.ts';
import { serveStorage, type TestServer } from './storage-http.suite.ts';

const prometheus = findPrometheus();
const STALE = 0x7ff0_0000_0000_0002n;
/** So many scrapes are looked at. */
const SCRAPES = 6;

/** Values that a careless path would change. */
/** Prometheus itself sends −0 as 0: its encoder leaves out what equals zero. */
const ODD = ['NaN', '+Inf', '-Inf', '5e-324', '1.7976931348623157e+308', '0.1', '123456789.12345679'];

function openEngine(folder: string): Promise<Engine> {
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const deps = {
    fs: new NodeFileSystem(),
    clock: systemClock,
    random: Math.random,
    randomUint32: () => 1,
    log,
  };
  return Engine.open(deps, { folder, logMode: 'behind', logSegmentBytes: 1 << 20 });
}

if (prometheus === undefined) {
  skipWithoutPrometheus('a real Prometheus writes and reads back');
} else {
  describe('a real Prometheus writes by remote_write, and another reads back by remote_read', () => {
    let folder: string;
    let engine: Engine;
    /** Thrown by the next write. */
    let failure: VarveError | undefined;
    let exporter: Server;
    let scrapes = 0;
    let server: TestServer;
    let writer: PrometheusProcess;
    let reader: PrometheusProcess;

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'varve-test-storage-'));
      engine = await openEngine(folder);
      await engine.applyNamespaces([namespaceOptions({ name: 'default' })]);
      await engine.ready();
      server = await serveStorage(engine, {
        limits: { read: {} },
        engine: () => {
          const thrown = failure;
          failure = undefined;
          if (thrown) throw thrown;
          return engine;
        },
      });
      exporter = createServer((_, response) => {
        scrapes += 1;
        response.setHeader('content-type', 'text/plain; version=0.0.4');
        const odd = ODD.map((value, i) => `odd{case="${i}"} ${value}`);
        // A series that ends while its target goes on leaves a stale marker.
        const brief = scrapes <= 3 ? [`brief{text="ä\\"\\\\"} ${scrapes}`] : [];
        response.end(`${[`turns ${scrapes}`, ...odd, ...brief].join('\n')}\n`);
      }).listen(0, '127.0.0.1');
      await once(exporter, 'listening');
      const { port } = exporter.address() as { port: number };
      writer = await PrometheusProcess.start(
        prometheus,
        (address) => `
global: {scrape_interval: 250ms, scrape_timeout: 200ms}
scrape_configs:
  - {job_name: odd, static_configs: [{targets: ['127.0.0.1:${port}']}]}
  - {job_name: self, scrape_interval: 500ms, static_configs: [{targets: ['${address}']}]}
remote_write:
  - {url: '${server.url}/api/v1/write', queue_config: {batch_send_deadline: 100ms, max_samples_per_send: 500}}
`,
      );
      reader = await PrometheusProcess.start(
        prometheus,
        () => `
remote_read:
  - {url: '${server.url}/api/v1/read', read_recent: true}
`,
      );
    });

    afterAll(async () => {
      await writer?.[Symbol.asyncDispose]();
      await reader?.[Symbol.asyncDispose]();
      exporter.closeAllConnections();
      exporter.close();
      await server[Symbol.asyncDispose]();
      await engine[Symbol.asyncDispose]();
      await rm(folder, { recursive: true });
      expect(server.bugs).toEqual([]);
    });

    async function bitsOf(name: string): Promise<{ ms: bigint; bits: bigint }[]> {
      const found: { ms: bigint; bits: bigint }[] = [];
      const query = { matchers: [labelMatcher('__name__', '=', name)], startNs: 0n, endNs: 1n << 62n };
      for await (const { batches } of engine.read('default', query)) {
        for await (const { times, bits } of batches) {
          times.forEach((time, i) => found.push({ ms: time / 1_000_000n, bits: bits[i] ?? 0n }));
        }
      }
      return found;
    }

    /** Up to an instant until which everything has arrived: `turns` of that time, and so all that came before. */
    async function settled(): Promise<number> {
      await expect
        .poll(async () => (await bitsOf('turns')).length, { timeout: 30_000, interval: 100 })
        .toBeGreaterThan(SCRAPES);
      return Number((await bitsOf('turns'))[SCRAPES - 1]?.ms ?? 0n) - 1;
    }

    const count = (series: readonly RangeSeries[]): number =>
      series.reduce((sum, { values }) => sum + values.length, 0);

    test('sample for sample, with every odd value', async () => {
      const atMs = await settled();
      const query = '{job="odd"}[1m]';
      await expect
        .poll(async () => count(await reader.samples(query, atMs)), { timeout: 20_000, interval: 200 })
        .toBe(count(await writer.samples(query, atMs)));
      const [written, read] = [await writer.samples(query, atMs), await reader.samples(query, atMs)];
      expect(count(read)).toBeGreaterThan(30);
      expect(read).toEqual(written);
      const odd = read.filter(({ metric }) => metric['__name__'] === 'odd');
      expect(odd.map(({ values }) => values[0]?.[1])).toEqual(ODD);
    });

    test('−0 is read back as such when it came as such', async () => {
      const atMs = await settled();
      const sample = { timeNs: BigInt(atMs) * 1_000_000n, value: -0 };
      await engine.writeSeries('default', [{ labels: [['__name__', 'minus']], samples: [sample] }]);
      expect((await reader.samples('minus[1m]', atMs))[0]?.values).toEqual([[atMs / 1000, '-0']]);
    });

    test('all of what it says of itself, through selectors of every kind', async () => {
      const atMs = await settled();
      for (const selector of [
        '{job="self"}',
        'go_gc_duration_seconds{quantile=~"0|1"}',
        '{__name__=~"prometheus_(engine|http).*",job!="odd"}',
        '{job="self",quantile!~".+",__name__!="up"}',
      ]) {
        const query = `${selector}[1m]`;
        await expect
          .poll(async () => count(await reader.samples(query, atMs)), { timeout: 20_000, interval: 200 })
          .toBe(count(await writer.samples(query, atMs)));
        expect(await reader.samples(query, atMs)).toEqual(await writer.samples(query, atMs));
      }
    });

    test('the end of a series arrives as its marker, bit for bit', async () => {
      await expect.poll(async () => (await bitsOf('brief')).at(-1)?.bits, { timeout: 20_000 }).toBe(STALE);
      const brief = await bitsOf('brief');
      const [last] = brief.slice(-1);
      const values = await reader.samples('brief[1m]', Number(last?.ms ?? 0n) + 1000);
      // Whoever asks with PromQL does not see markers, and nothing behind them.
      expect(values[0]?.values).toHaveLength(brief.length - 1);
      expect(await reader.samples('brief', Number(last?.ms ?? 0n) + 1000)).toEqual([]);
      expect(values[0]?.metric['text']).toBe('ä"\\');
    });

    test('writes that were refused for a while come by themselves', async () => {
      const before = (await bitsOf('turns')).length;
      failure = new VarveError('COMMIT_LOG_FULL', 'the disk is full');
      await expect.poll(() => failure, { timeout: 10_000 }).toBe(undefined);
      await expect
        .poll(async () => (await bitsOf('turns')).length, { timeout: 20_000 })
        .toBeGreaterThan(before + 3);
      const turns = await bitsOf('turns');
      const values = new Float64Array(BigUint64Array.from(turns, ({ bits }) => bits).buffer);
      // Nothing is missing in between.
      expect(Array.from(values)).toEqual(turns.map((_, i) => (values[0] ?? 0) + i));
    });
  });
}
