import { describe, expect, test } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { BLOCK_NS, HOUR_NS, ManualClock, NOW_NS } from '../engine/engine.suite.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import type { BootstrapSourceStatus } from '../engine/storage-engine.ts';
import { runBootstrapProcess, type ProcessResult } from './bootstrap-process.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapRequest,
  type BootstrapResult,
  type BootstrapSource,
} from './bootstrap-source.ts';
import { BootstrapLoop } from './bootstrap-loop.ts';
import { runBootstrapRounds } from './bootstrap-rounds.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { singleNodeTopology, type TopologySnapshot } from './topology-snapshot.ts';

const OPTIONS = namespaceOptions({ name: 'default', retentionNs: 6n * HOUR_NS });
const NAMESPACE = { options: OPTIONS, shards: [0, 1, 2] };
const TOPOLOGY = singleNodeTopology({ origin: 'local', shardCount: 3, everAvailable: true });
const NOTHING = { ranges: ShardTimeRanges.EMPTY, reasons: [] };

/** Has what `has` says, and fails for what `fails` says; remembers what it was asked for. */
class ScriptedSource implements BootstrapSource {
  readonly asked: { readonly pass: string; readonly data: string; readonly target: string }[] = [];
  readonly name: string;
  readonly #has: (ranges: ShardTimeRanges) => ShardTimeRanges;
  readonly #fails: (ranges: ShardTimeRanges) => ShardTimeRanges;

  constructor(
    name: string,
    has: (ranges: ShardTimeRanges) => ShardTimeRanges,
    fails: (ranges: ShardTimeRanges) => ShardTimeRanges = () => ShardTimeRanges.EMPTY,
  ) {
    this.name = name;
    this.#has = has;
    this.#fails = fails;
  }

  why(): string {
    return 'it was not told to have it';
  }

  async availableData(_: unknown, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    return this.#has(ranges);
  }

  async availableIndex(_: unknown, ranges: ShardTimeRanges): Promise<ShardTimeRanges> {
    return this.#has(ranges);
  }

  async read(
    requests: ReadonlyMap<string, BootstrapRequest>,
    { pass }: BootstrapContext,
  ): Promise<ReadonlyMap<string, BootstrapResult>> {
    return new Map(
      [...requests].map(([name, { data, target }]) => {
        this.asked.push({ pass, data: data.toString(), target: target.toString() });
        const failed = unfulfilled(name, this.#fails(data), 'corruptFile', `${this.name} is broken`);
        return [name, { data: failed, index: NOTHING, detail: this.name }];
      }),
    );
  }
}

const all = (ranges: ShardTimeRanges): ShardTimeRanges => ranges;
const none = (): ShardTimeRanges => ShardTimeRanges.EMPTY;
const only =
  (...shards: number[]) =>
  (ranges: ShardTimeRanges): ShardTimeRanges =>
    ranges.filterShards((shard) => shards.includes(shard));

async function run(
  sources: readonly BootstrapSource[],
  more: { topology?: TopologySnapshot; nowNs?: () => bigint } = {},
): Promise<{ result: ProcessResult; told: BootstrapSourceStatus[] }> {
  const told: BootstrapSourceStatus[] = [];
  const result = await runBootstrapProcess(
    {
      monotonicMs: () => 0,
      nowNs: more.nowNs ?? (() => NOW_NS),
      onSource: (status) => told.push(status),
      report: () => {},
    },
    {
      sources,
      topology: more.topology ?? TOPOLOGY,
      namespaces: [NAMESPACE],
      signal: new AbortController().signal,
    },
  );
  return { result, told };
}

describe('the chain', () => {
  test('asks each source only for what those before it left, and each one in any case', async () => {
    const first = new ScriptedSource('first', only(0));
    const second = new ScriptedSource('second', only(0, 1));
    const third = new ScriptedSource('third', all);
    const last = new ScriptedSource('last', all);
    const { result, told } = await run([first, second, third, last]);
    expect(result.unfulfilled.get('default')?.isEmpty).toBe(true);
    expect(result.reasons).toEqual([]);
    const shardsOf = ({ asked }: ScriptedSource): string[] =>
      asked.map(({ data }) => (data.match(/\d+: /g) ?? []).join(''));
    expect([first, second, third, last].map(shardsOf)).toEqual([
      ['0: ', '0: '],
      ['1: ', '1: '],
      ['2: ', '2: '],
      ['', ''],
    ]);
    expect(told.map(({ source, pass, fulfilledBlocks }) => [source, pass, fulfilledBlocks])).toEqual([
      ['first', 'persist', 3],
      ['second', 'persist', 3],
      ['third', 'persist', 3],
      ['last', 'persist', 0],
      ['first', 'memory', 1],
      ['second', 'memory', 1],
      ['third', 'memory', 1],
      ['last', 'memory', 0],
    ]);
    // Whoever needs the whole range, as the commit log does, is told it.
    expect(new Set(last.asked.map(({ target }) => target)).size).toBe(2);
    expect(last.asked[0]?.target).toContain('0: [2026-03-05T08:00:00Z, 2026-03-05T14:00:00Z)');
  });

  test('what a source had but could not read is left to the next, which may have it', async () => {
    const broken = new ScriptedSource('broken', all, only(1));
    const { result } = await run([broken, new ScriptedSource('next', only(1))]);
    expect(result.unfulfilled.get('default')?.isEmpty).toBe(true);
    expect(result.reasons).toEqual([]);
  });

  test('what nobody has is unfulfilled, each range with its reason', async () => {
    const broken = new ScriptedSource('broken', only(0, 1), only(1));
    const { result } = await run([broken, new ScriptedSource('none', none)]);
    expect(result.unfulfilled.get('default')?.shards).toEqual([1, 2]);
    const reasons = result.reasons.map(({ shard, reason }) => `${shard} ${reason}`);
    expect(new Set(reasons)).toEqual(new Set(['1 corruptFile', '2 notAvailable']));
  });

  test('a source that throws ends the attempt', async () => {
    const source = new ScriptedSource('bad', all);
    source.read = () => Promise.reject(new VarveError('SHARD_NOT_READY', 'no'));
    await expect(run([source])).rejects.toMatchObject({ code: 'SHARD_NOT_READY' });
  });
});

describe('rounds', () => {
  /** Defers all but so many shards that it is asked for. */
  class SlowSource extends ScriptedSource {
    readonly #count: number;

    constructor(count: number) {
      super('slow', all);
      this.#count = count;
    }

    override async read(
      requests: ReadonlyMap<string, BootstrapRequest>,
      context: BootstrapContext,
    ): Promise<ReadonlyMap<string, BootstrapResult>> {
      const results = await super.read(requests, context);
      if (context.pass === 'memory') return results;
      return new Map(
        [...results].map(([name, result]) => [
          name,
          { ...result, deferred: requests.get(name)?.data.shards.slice(this.#count) ?? [] },
        ]),
      );
    }
  }

  async function inRounds(sources: readonly BootstrapSource[]): Promise<{
    readonly result: ProcessResult;
    readonly handedOver: (readonly number[])[];
  }> {
    const handedOver: (readonly number[])[] = [];
    const { signal } = new AbortController();
    const result = await runBootstrapRounds(
      { monotonicMs: () => 0, nowNs: () => NOW_NS, onSource: () => {}, report: () => {} },
      { sources, topology: TOPOLOGY, namespaces: [NAMESPACE], signal },
      {
        roundMs: 0,
        handOver: async ([one]) => {
          handedOver.push(one?.shards ?? []);
        },
      },
    );
    return { result, handedOver };
  }

  test('hand over what is filled, and go on with what was deferred, which nobody behind is asked for', async () => {
    const slow = new SlowSource(1);
    const last = new ScriptedSource('last', all);
    const { result, handedOver } = await inRounds([slow, last]);
    expect(handedOver).toEqual([[0], [1], [2]]);
    expect(result.unfulfilled.get('default')?.isEmpty).toBe(true);
    expect(result.reasons).toEqual([]);
    expect(slow.asked.map(({ pass }) => pass)).toEqual([
      'persist',
      'memory',
      'persist',
      'memory',
      'persist',
      'memory',
    ]);
    const shardsOf = (data: string): string => (data.match(/\d+: /g) ?? []).join('');
    expect(slow.asked.map(({ data }) => shardsOf(data))).toEqual([
      '0: 1: 2: ',
      '0: ',
      '1: 2: ',
      '1: ',
      '2: ',
      '2: ',
    ]);
    expect(last.asked.map(({ data }) => shardsOf(data)).join('')).toBe('');
  });

  test('what is unfulfilled in any of them is unfulfilled in the end', async () => {
    const slow = new SlowSource(2);
    const broken = new ScriptedSource('broken', only(1), only(1));
    const { result, handedOver } = await inRounds([
      broken,
      Object.assign(slow, {
        availableData: async (_: unknown, ranges: ShardTimeRanges) => only(0, 2)(ranges),
      }),
    ]);
    // Shard 1 was never deferred: it is handed over with the first ones, unfulfilled.
    expect(handedOver).toEqual([[0, 1, 2]]);
    expect(result.unfulfilled.get('default')?.shards).toEqual([1]);
    expect(new Set(result.reasons.map(({ reason }) => reason))).toEqual(new Set(['corruptFile']));
  });
});

describe('a block that begins during the first pass', () => {
  const later = (): (() => bigint) => {
    let calls = 0;
    return () => (calls++ === 0 ? NOW_NS : NOW_NS + 2n * HOUR_NS);
  };

  test('leaves shards that are initialising unfulfilled', async () => {
    const states = new Map([0, 1, 2].map((shard) => [shard, new Map([['local', 'initializing' as const]])]));
    const topology = { ...TOPOLOGY, shards: states };
    const { result } = await run([new ScriptedSource('all', all)], { topology, nowNs: later() });
    expect(result.reasons.map(({ reason }) => reason)).toEqual([
      'rangeAdvanced',
      'rangeAdvanced',
      'rangeAdvanced',
    ]);
    expect(result.reasons[0]).toMatchObject({
      startNs: BLOCK_NS + 2n * HOUR_NS,
      endNs: BLOCK_NS + 4n * HOUR_NS,
    });
  });

  test('does not matter to shards that were available: they have taken its writes', async () => {
    const { result } = await run([new ScriptedSource('all', all)], { nowNs: later() });
    expect(result.reasons).toEqual([]);
  });
});

describe('the loop', () => {
  const open: ProcessResult = {
    unfulfilled: new Map([['default', ShardTimeRanges.forShards([0], { startNs: 0n, endNs: 1n })]]),
    reasons: [],
  };
  const done: ProcessResult = { unfulfilled: new Map(), reasons: [] };

  function loopOf(results: readonly (ProcessResult | Error | undefined)[]): {
    loop: BootstrapLoop;
    waits: number[];
    attempts: () => number;
  } {
    const waits: number[] = [];
    let attempts = 0;
    const clock = new ManualClock();
    const sleeping = Object.assign(clock, {
      sleep: async (ms: number, signal?: AbortSignal) => {
        signal?.throwIfAborted();
        waits.push(Math.round(ms));
      },
    });
    const loop = new BootstrapLoop({ clock: sleeping, random: () => 0.5, node: 'local' }, async () => {
      const result = results[attempts++];
      if (result instanceof Error) throw result;
      return result;
    });
    return { loop, waits, attempts: () => attempts };
  }

  test('repeats with growing, jittered waits until nothing is left, and remembers the runs', async () => {
    const { loop, waits, attempts } = loopOf([open, new VarveError('FILESET_DAMAGED', 'x'), open, done]);
    await loop.run(new AbortController().signal);
    expect(attempts()).toBe(4);
    expect(waits).toEqual([375, 750, 1500]);
    expect(loop.history.map(({ state }) => state)).toEqual(['retrying', 'retrying', 'retrying', 'done']);
    expect(loop.history[1]?.error).toBe('x');
  });

  test('joins who asks during a run, and makes another attempt for them', async () => {
    const { loop, attempts } = loopOf([done, undefined]);
    const { signal } = new AbortController();
    await Promise.all([loop.run(signal), loop.run(signal)]);
    expect(attempts()).toBe(2);
    expect(loop.history).toHaveLength(1);
  });

  test('ends for good at a bug and at an abort', async () => {
    await expect(loopOf([new TypeError('bug')]).loop.run(new AbortController().signal)).rejects.toThrow(
      'bug',
    );
    const { loop } = loopOf([open, open]);
    const controller = new AbortController();
    const run = loop.run(controller.signal);
    controller.abort();
    await expect(run).rejects.toMatchObject({ name: 'AbortError' });
  });
});
