import { describe, expect, test } from 'vitest';
import type {
  BootstrapContext,
  BootstrapNamespace,
  BootstrapPass,
  BootstrapRequest,
  BootstrapResult,
  BootstrapSource,
} from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { targetRanges } from './target-ranges.ts';
import type { TopologySnapshot } from './topology-snapshot.ts';

/** A source with something to give, and what is around it. */
export interface SourceFixture extends AsyncDisposable {
  readonly source: BootstrapSource;
  readonly namespace: BootstrapNamespace;
  readonly topology: TopologySnapshot;
  readonly nowNs: bigint;
  /** What it must be able to fulfil at least. */
  readonly has: ShardTimeRanges;
  /** Shards of which it must not claim anything. */
  readonly lacks: readonly number[];
  /** Damages what it has of one shard, so that it cannot fulfil it; absent where nothing can be damaged. */
  readonly damage?: () => Promise<void>;
}

export function contextOf(
  fixture: Pick<SourceFixture, 'topology' | 'nowNs'>,
  pass: BootstrapPass = 'persist',
  signal: AbortSignal = new AbortController().signal,
): BootstrapContext {
  return { atNs: fixture.nowNs, pass, topology: fixture.topology, signal, report: () => {} };
}

export function requestOf(
  { namespace, nowNs }: Pick<SourceFixture, 'namespace' | 'nowNs'>,
  pass: BootstrapPass = 'persist',
): ShardTimeRanges {
  return ShardTimeRanges.forShards(namespace.shards, targetRanges(nowNs, namespace.options)[pass]);
}

/** Asks and reads as the chain does. */
export async function readAll(
  fixture: SourceFixture,
  pass: BootstrapPass = 'persist',
): Promise<{ request: BootstrapRequest; result: BootstrapResult | undefined }> {
  const { source, namespace } = fixture;
  const context = contextOf(fixture, pass);
  const target = requestOf(fixture, pass);
  const request: BootstrapRequest = {
    namespace,
    data: await source.availableData(namespace, target, context),
    index: await source.availableIndex(namespace, target, context),
    target,
  };
  const results = await source.read(new Map([[namespace.options.name, request]]), context);
  return { request, result: results.get(namespace.options.name) };
}

/** What every bootstrap source keeps. */
export function testBootstrapSource(name: string, make: () => Promise<SourceFixture>): void {
  describe(`bootstrap source ${name}`, () => {
    test('says what it has, and of nothing else', async () => {
      await using fixture = await make();
      const { source, namespace, has, lacks } = fixture;
      const target = requestOf(fixture);
      const answers = [
        await source.availableData(namespace, target, contextOf(fixture)),
        await source.availableIndex(namespace, target, contextOf(fixture)),
      ];
      for (const found of answers) {
        expect(target.isSuperset(found), found.toString()).toBe(true);
        expect(found.isSuperset(has), `${found.toString()} lacks some of ${has.toString()}`).toBe(true);
        for (const shard of lacks) expect(found.get(shard).isEmpty, `shard ${shard}`).toBe(true);
      }
    });

    test('offers no more than it is asked for', async () => {
      await using fixture = await make();
      const { source, namespace } = fixture;
      const [shard = 0] = namespace.shards;
      const { persist } = targetRanges(fixture.nowNs, namespace.options);
      const one = { startNs: persist.endNs - namespace.options.blockSizeNs, endNs: persist.endNs };
      const asked = ShardTimeRanges.forShards([shard], one);
      const found = await source.availableData(namespace, asked, contextOf(fixture));
      expect(asked.isSuperset(found)).toBe(true);
      const nothing = await source.availableData(namespace, ShardTimeRanges.EMPTY, contextOf(fixture));
      expect(nothing.isEmpty).toBe(true);
    });

    test('changes nothing by being asked', async () => {
      await using fixture = await make();
      const { source, namespace } = fixture;
      const target = requestOf(fixture);
      const before = target.toString();
      const first = await source.availableData(namespace, target, contextOf(fixture));
      const second = await source.availableData(namespace, target, contextOf(fixture));
      expect(first.equals(second)).toBe(true);
      expect(target.toString()).toBe(before);
    });

    test('fulfils what it has', async () => {
      await using fixture = await make();
      for (const pass of ['persist', 'memory'] as const) {
        const { request, result } = await readAll(fixture, pass);
        expect(result?.data.ranges.toString()).toBe('');
        expect(result?.index.ranges.toString()).toBe('');
        expect(result?.detail).not.toBe('');
        expect(requestOf(fixture, pass).isSuperset(request.data)).toBe(true);
      }
    });

    test('takes a request for nothing, and one for no namespace', async () => {
      await using fixture = await make();
      const { source, namespace } = fixture;
      const none = ShardTimeRanges.EMPTY;
      const request = { namespace, data: none, index: none, target: requestOf(fixture) };
      const results = await source.read(new Map([[namespace.options.name, request]]), contextOf(fixture));
      expect(results.get(namespace.options.name)?.data.ranges.isEmpty).toBe(true);
      expect((await source.read(new Map(), contextOf(fixture))).size).toBe(0);
    });

    test('leaves a range that is damaged unfulfilled, with a reason, and does not throw', async () => {
      await using fixture = await make();
      if (!fixture.damage) return;
      await fixture.damage();
      const { request, result } = await readAll(fixture);
      // What it does not even claim to have is left to the next source, too.
      const missing = requestOf(fixture)
        .subtract(request.data)
        .add(result?.data.ranges ?? ShardTimeRanges.EMPTY);
      expect(missing.intersect(fixture.has).isEmpty).toBe(false);
      for (const [shard, ranges] of result?.data.ranges ?? []) {
        const reasons = result?.data.reasons.filter((reason) => reason.shard === shard) ?? [];
        for (const range of ranges) {
          expect(reasons.some(({ startNs, endNs }) => startNs <= range.startNs && endNs >= range.endNs)).toBe(
            true,
          );
        }
      }
    });
  });
}
