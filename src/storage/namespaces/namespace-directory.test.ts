import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import type { Coordinator } from '../../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../../coordination/embedded-server.ts';
import { openCoordinator } from '../../coordination/open-coordinator.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import type { NamespaceOptions } from '../engine/storage-engine.ts';
import { MemoryEngine } from '../http/memory-engine.suite.ts';
import { NAMESPACE_PREFIX, NamespaceDirectory } from './namespace-directory.ts';
import { entryText, IMPLICIT, mergeEntries, parseEntry, type NamespaceEntry } from './namespace-entry.ts';

const options = (name: string, more: Partial<NamespaceOptions> = {}): NamespaceOptions =>
  namespaceOptions({ name, ...more });
const live = (name: string, incarnation: string): NamespaceEntry => ({
  name,
  incarnation,
  options: options(name),
});
const gone = (name: string, incarnation: string): NamespaceEntry => ({
  name,
  incarnation,
  options: undefined,
});
const mapOf = (...entries: NamespaceEntry[]): Map<string, NamespaceEntry> =>
  new Map(entries.map((entry) => [entry.name, entry]));

describe('what is to be', () => {
  const merge = (known: NamespaceEntry[], stored: NamespaceEntry[]): [string[], readonly string[]] => {
    const { entries, recreated } = mergeEntries(mapOf(...known), stored);
    const shown = [...entries.values()].map(
      ({ name, incarnation, options: given }) => `${name} ${incarnation}${given ? '' : ' deleted'}`,
    );
    return [shown, recreated];
  };
  const other = live('default', IMPLICIT);

  test.each<[string, NamespaceEntry[], NamespaceEntry[], [string[], string[]]]>([
    ['nothing is known: default is there', [], [], [['default implicit'], []]],
    ['default was made by somebody: nothing is lost', [other], [live('default', 'a')], [['default a'], []]],
    ['default was deleted: it stays so', [], [gone('default', 'a')], [['default a deleted'], []]],
    ['what is missing in the list stays', [other, live('x', 'a')], [], [['default implicit', 'x a'], []]],
    [
      'what was deleted goes',
      [other, live('x', 'a')],
      [gone('x', 'a')],
      [['default implicit', 'x a deleted'], []],
    ],
    [
      'what was made anew goes first',
      [other, live('x', 'a')],
      [live('x', 'b')],
      [['default implicit', 'x b'], ['x']],
    ],
    [
      'what comes after a deletion comes',
      [other, gone('x', 'a')],
      [live('x', 'b')],
      [['default implicit', 'x b'], []],
    ],
  ])('%s', (_, known, stored, wanted) => {
    expect(merge(known, stored)).toEqual(wanted);
  });

  test('entries are written and read, and anything else is refused', () => {
    for (const entry of [live('x', 'a'), gone('x', 'a')])
      expect(parseEntry('x', entryText(entry))).toEqual(entry);
    for (const text of [
      '',
      'null',
      '{}',
      '{"version":2,"incarnation":"a"}',
      '{"version":1,"incarnation":"a"}',
    ]) {
      expect(() => parseEntry('x', text)).toThrow(expect.objectContaining({ code: 'NAMESPACE_INVALID' }));
    }
  });
});

const log = { info: () => {}, warn: () => {}, error: () => {} };

let folder: string;
let ids: number;
let stop: AbortController;
let running: Promise<void>[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-namespaces-'));
  ids = 0;
  stop = new AbortController();
  running = [];
});

afterEach(async () => {
  stop.abort();
  await Promise.all(running);
  await rm(folder, { recursive: true });
});

async function open(
  engine: MemoryEngine,
  more: { coordinator?: Coordinator; file?: string } = {},
): Promise<NamespaceDirectory> {
  const { coordinator, file = 'list' } = more;
  return NamespaceDirectory.open(
    { log, clock: systemClock, fs: new NodeFileSystem(), coordinator, newId: () => `id${(ids += 1)}` },
    { file: join(folder, file), engine },
  );
}

const names = (engine: MemoryEngine): string[] =>
  engine
    .namespaces()
    .map(({ name }) => name)
    .sort();
const sample = [{ labels: [['__name__', 'x'] as const], samples: [{ timeNs: 1n, value: 1 }] }];
const series = (engine: MemoryEngine, name: string): number | undefined =>
  engine.status().namespaces.find((one) => one.options.name === name)?.series;

describe('on a node that stands alone', () => {
  test('default is there, and what is made, changed and deleted stays so over a restart', async () => {
    const engine = new MemoryEngine([]);
    const directory = await open(engine);
    expect([directory.isKnown, names(engine)]).toEqual([true, ['default']]);
    await directory.put(options('x'));
    await engine.writeSeries('x', sample);
    await directory.put(options('x', { retentionNs: 10n ** 15n }));
    expect([series(engine, 'x'), engine.namespaces().find(({ name }) => name === 'x')?.retentionNs]).toEqual([
      1,
      10n ** 15n,
    ]);
    expect([await directory.remove('default'), await directory.remove('default')]).toEqual([true, false]);
    const again = new MemoryEngine(engine.namespaces());
    expect((await open(again)).list()).toEqual([options('x', { retentionNs: 10n ** 15n })]);
  });

  test('a restart writes the list only when it is another one', async () => {
    const engine = new MemoryEngine([]);
    await (await open(engine)).put(options('x'));
    const inode = async (): Promise<number> => (await stat(join(folder, 'list'))).ino;
    const before = await inode();
    const again = await open(new MemoryEngine(engine.namespaces()));
    expect(await inode()).toBe(before);
    await again.put(options('y'));
    await again.remove('y');
    expect(await readFile(join(folder, 'list'), 'utf8')).toMatch(/^"y" .*"deleted":true/m);
    await open(new MemoryEngine([options('default'), options('x'), options('z')]));
    expect(await readFile(join(folder, 'list'), 'utf8')).toMatch(/^"z" /m);
  });

  test('a change that data does not allow is refused, and nothing is changed', async () => {
    const engine = new MemoryEngine([]);
    const directory = await open(engine);
    const wanted = options('default', { blockSizeNs: 3_600_000_000_000n });
    await expect(directory.put(wanted)).rejects.toMatchObject({ code: 'NAMESPACE_CHANGE_REFUSED' });
    expect(engine.namespaces()).toEqual([options('default')]);
  });

  test('what the engine has is kept when the list is lost or damaged', async () => {
    await writeFile(
      join(folder, 'list'),
      '"x" {"version":1\nnonsense\n"y" {"version":1,"incarnation":"a","deleted":true}\n',
    );
    const engine = new MemoryEngine([options('x'), options('y')]);
    await open(engine);
    expect(names(engine)).toEqual(['default', 'x']);
    const other = new MemoryEngine([options('x')]);
    await open(other, { file: 'lost' });
    expect(names(other)).toEqual(['default', 'x']);
  });
});

describe('nodes with one coordinator', () => {
  let server: EmbeddedCoordinator;
  let coordinator: Coordinator;

  beforeEach(async () => {
    server = await EmbeddedCoordinator.start(
      { folder: join(folder, 'coordinator') },
      { clock: systemClock, log },
    );
    coordinator = openCoordinator(
      { kind: 'embedded', url: server.url, timeoutMs: 500 },
      { clock: systemClock, log },
    );
    // As nodes find it: in a coordinator without any change there is nothing to wait on.
    await coordinator.put('varve/started', '');
  });

  afterEach(async () => {
    stop.abort();
    await Promise.all(running);
    await coordinator[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });

  async function node(
    name: string,
    engine = new MemoryEngine([]),
  ): Promise<{ engine: MemoryEngine; directory: NamespaceDirectory }> {
    const directory = await open(engine, { coordinator, file: name });
    running.push(directory.run(stop.signal));
    return { engine, directory };
  }

  test('know nothing until they have heard from it, then follow it', async () => {
    const engine = new MemoryEngine([]);
    const waiting = await open(engine, { coordinator, file: 'n1' });
    expect([waiting.isKnown, names(engine)]).toEqual([false, []]);
    running.push(waiting.run(stop.signal));
    await expect.poll(() => [waiting.isKnown, names(engine)]).toEqual([true, ['default']]);
    const second = await node('n2');
    await second.directory.put(options('x'));
    expect(names(second.engine)).toEqual(['default', 'x']);
    await expect.poll(() => names(engine)).toEqual(['default', 'x']);
    await waiting.remove('x');
    await expect.poll(() => names(second.engine)).toEqual(['default']);
  });

  test('one that was away while a namespace was made anew drops the old data', async () => {
    const first = await node('n1');
    await first.directory.put(options('x'));
    await first.engine.writeSeries('x', sample);
    stop.abort();
    await Promise.all(running);
    stop = new AbortController();
    const second = await node('n2');
    await expect.poll(() => names(second.engine)).toEqual(['default', 'x']);
    await second.directory.remove('x');
    await second.directory.put(options('x'));
    expect(series(first.engine, 'x')).toBe(1);
    await node('n1', first.engine);
    await expect.poll(() => series(first.engine, 'x')).toBe(0);
  });

  test('keep what they know when it has lost its data, and when it is away', async () => {
    const { engine, directory } = await node('n1');
    await directory.put(options('x'));
    await coordinator.delete(`${NAMESPACE_PREFIX}x`);
    await directory.put(options('y'));
    expect(names(engine)).toEqual(['default', 'x', 'y']);
    await server[Symbol.asyncDispose]();
    await expect(directory.put(options('z'))).rejects.toMatchObject({ code: 'COORDINATOR_UNAVAILABLE' });
    stop.abort();
    await Promise.all(running);
    const again = new MemoryEngine(engine.namespaces());
    expect((await open(again, { coordinator, file: 'n1' })).isKnown).toBe(true);
    expect(names(again)).toEqual(['default', 'x', 'y']);
  });

  test('one entry that cannot be read, or cannot be, does not hold up the others', async () => {
    const { engine, directory } = await node('n1');
    await directory.put(options('x'));
    await coordinator.put(`${NAMESPACE_PREFIX}bad`, 'nonsense');
    const changed = { ...live('x', 'id1'), options: options('x', { blockSizeNs: 3_600_000_000_000n }) };
    await coordinator.put(`${NAMESPACE_PREFIX}x`, entryText(changed));
    await coordinator.put(`${NAMESPACE_PREFIX}y`, entryText(live('y', 'a')));
    await expect.poll(() => names(engine)).toEqual(['default', 'x', 'y']);
    expect([...directory.problems.keys()]).toEqual(['x']);
    expect(engine.namespaces().find(({ name }) => name === 'x')).toEqual(options('x'));
    expect(await readFile(join(folder, 'n1'), 'utf8')).toContain('"y" {"version":1,"incarnation":"a"');
  });
});
