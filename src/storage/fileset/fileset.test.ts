import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { listShard, listShards, nextVolume, quarantineFileset, readInfos } from './fileset-folder.ts';
import { filesetPath, parseFileName, shardFolder } from './fileset-id.ts';
import { FilesetReader } from './fileset-reader.ts';
import { FilesetWriter } from './fileset-writer.ts';
import { HOUR_NS, idOf, latin1, randomSeries, readAll, ROOT, write, type Series } from './fileset.suite.ts';
import type { FilesetInfo } from './info-file.ts';
import { recoverFilesets } from './recover-filesets.ts';
import { removeFileset } from './remove-fileset.ts';
import { verifyFileset } from './verify-fileset.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

const SERIES: Series = [
  ['a', 'payload of a'],
  ['ab', ''],
  ['b', 'payload of b'],
];

let disk: SimulatedDisk;
beforeEach(async () => {
  disk = new SimulatedDisk();
  await disk.makeFolder(ROOT);
});

const recover = async (repair = true): ReturnType<typeof recoverFilesets> =>
  recoverFilesets({ fs: disk }, ROOT, { shards: await listShards(disk, ROOT), repair });

describe('a fileset', () => {
  test('gives back every series, by order and by id, whatever the bytes', async () => {
    for (let seed = 0; seed < 40; seed++) {
      const random = new SeededRandom(seed);
      const series = randomSeries(random, random.below(300));
      const id = idOf({ volume: seed });
      const info = await write(disk, id, series);
      expect(info.entryCount).toBe(series.length);
      expect(await readAll(disk, info)).toEqual(series);
      await using reader = new FilesetReader({ fs: disk }, ROOT, info);
      for (const [name, payload] of series)
        expect(String(await reader.find(latin1(name)))).toBe(String(latin1(payload)));
      const names = new Set(series.map(([name]) => name));
      for (let i = 0; i < 20; i++) {
        const absent = random.bytes(random.below(5)).toString('latin1');
        if (!names.has(absent)) expect(await reader.find(latin1(absent))).toBeUndefined();
      }
      expect(await verifyFileset({ fs: disk }, ROOT, id)).toEqual([]);
    }
  });

  test('of many pages and of payloads larger than any buffer reads the same', async () => {
    const random = new SeededRandom(1);
    const series = Array.from({ length: 6000 }, (_, i): [string, string] => [
      `metric{host="host-${String(i).padStart(6, '0')}",job="node"}`,
      i % 1000 === 7 ? 'L'.repeat(300_000 + i) : 'x'.repeat(random.below(50)),
    ]);
    const info = await write(disk, idOf(), series);
    expect(await readAll(disk, info)).toEqual(series);
    await using reader = new FilesetReader({ fs: disk }, ROOT, info);
    let pages = 0;
    for await (const page of reader.entries()) pages += page.length > 0 ? 1 : 0;
    expect(pages).toBeGreaterThan(3);
    for (const index of [0, 1, 7, 2999, 5007, 5999]) {
      const [name, payload] = series[index] ?? ['', ''];
      expect((await reader.find(latin1(name)))?.toString('latin1')).toBe(payload);
    }
    // Shared beginnings are written once a page.
    expect(info.indexBytes / series.length).toBeLessThan(30);
    expect(await verifyFileset({ fs: disk }, ROOT, idOf())).toEqual([]);
  });

  test('says in its info all that a restart has to know', async () => {
    const written = await write(disk, idOf({ blockStartNs: -HOUR_NS, volume: 7 }), SERIES, {
      kind: 'snapshot',
      annotation: 'for the engine',
    });
    const { filesets } = await recover();
    expect(filesets).toEqual([written]);
    expect(written).toMatchObject({
      namespace: 'default',
      shard: 3,
      blockStartNs: -HOUR_NS,
      blockSizeNs: 2n * HOUR_NS,
      volume: 7,
      kind: 'snapshot',
      entryCount: 3,
      payloadBytes: 24,
      createdAtNs: 5n,
      annotation: latin1('for the engine'),
    });
  });

  test('is found at a restart by one file read, and opened only when it is asked', async () => {
    for (let block = 0n; block < 5n; block++) await write(disk, idOf({ blockStartNs: block }), SERIES);
    const read: string[] = [];
    const opened: string[] = [];
    disk.fault = ({ kind, path }) => {
      if (kind === 'read') read.push(path);
      if (kind === 'open') opened.push(path);
      return undefined;
    };
    const { filesets } = await recover();
    expect(read).toHaveLength(5);
    expect(read.every((path) => path.endsWith('-info.db'))).toBe(true);
    const reader = new FilesetReader({ fs: disk }, ROOT, filesets[0] as FilesetInfo);
    expect(opened).toEqual([]);
    await reader.find(latin1('a'));
    expect(opened).toHaveLength(2);
    await reader.close();
    expect(String(await reader.find(latin1('b')))).toBe('payload of b');
    await reader.close();
  });

  test('may be empty', async () => {
    const info = await write(disk, idOf(), []);
    expect(await readAll(disk, info)).toEqual([]);
    await using reader = new FilesetReader({ fs: disk }, ROOT, info);
    expect(await reader.find(latin1('a'))).toBeUndefined();
    expect(await verifyFileset({ fs: disk }, ROOT, idOf())).toEqual([]);
  });

  test('refuses ids that do not ascend, and is not there when its writer gives up', async () => {
    const options = { root: ROOT, id: idOf(), kind: 'flush', blockSizeNs: 1n, createdAtNs: 1n } as const;
    await using writer = await FilesetWriter.create({ fs: disk }, options);
    await writer.add(latin1('b'), latin1('1'));
    await expect(writer.add(latin1('b'), latin1('2'))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(writer.add(latin1('a'), latin1('2'))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(writer.add(Buffer.alloc(70_000, 'z'), latin1(''))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    await writer.abort();
    expect([...disk.files().keys()]).toEqual([]);
  });

  test('is never written over, but a part of one is', async () => {
    const { digest } = await write(disk, idOf(), SERIES);
    await expect(write(disk, idOf(), [])).rejects.toMatchObject({ code: 'FILESET_EXISTS' });
    expect((await recover()).filesets[0]?.digest).toEqual(digest);
    await disk.remove(filesetPath(ROOT, idOf(), 'checkpoint'));
    const info = await write(disk, idOf(), [['other', 'content']]);
    expect(await readAll(disk, info)).toEqual([['other', 'content']]);
    expect(await verifyFileset({ fs: disk }, ROOT, idOf())).toEqual([]);
  });

  test('takes only namespaces that are folder names', async () => {
    for (const namespace of ['', '.', '..', '../x', 'a/b', '-a', 'ä', 'a'.repeat(129)]) {
      await expect(write(disk, idOf({ namespace }), [])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });
});

describe('the canonical digest', () => {
  const digestOf = async (series: Series, id = idOf()): Promise<string> => {
    const { digest } = await write(disk, id, series);
    await removeFileset(disk, ROOT, id);
    return digest.toString('hex');
  };

  test('depends on ids and payloads alone', async () => {
    const first = await write(disk, idOf(), SERIES);
    const others = [
      await write(disk, idOf({ volume: 1 }), SERIES, { createdAtNs: 99n, annotation: 'other' }),
      await write(disk, idOf({ namespace: 'n2', shard: 1, blockStartNs: 0n }), SERIES, { kind: 'snapshot' }),
    ];
    for (const { digest } of others) expect(digest).toEqual(first.digest);
    // Written down, so that no later version computes another one.
    const payloads = createHash('sha256').update('payload of apayload of b').digest();
    const entries = createHash('sha256');
    for (const [name, payload] of SERIES) {
      entries.update(Buffer.from([name.length, 0, 0, 0, payload.length, 0, 0, 0])).update(name);
    }
    const expected = createHash('sha256').update(payloads).update(entries.digest()).digest();
    expect(first.digest).toEqual(expected);
  });

  test('differs for whatever differs', async () => {
    const variants: Series[] = [
      SERIES,
      [],
      SERIES.slice(1),
      [['', ''], ...SERIES],
      SERIES.map(([name, payload]) => [name, `${payload}.`]),
      SERIES.map(([name, payload]) => [name, payload.replace('b', 'c')]),
      SERIES.map(([name, payload]) => [`x${name}`, payload]),
      // Bytes that move from one series to the next.
      [
        ['a', 'payload of '],
        ['ab', 'a'],
        ['b', 'payload of b'],
      ],
    ];
    const digests = new Set<string>();
    for (const variant of variants) digests.add(await digestOf(variant));
    expect(digests.size).toBe(variants.length);
  });

  test('is the same however large the pieces are', async () => {
    const large: Series = [
      ['a', 'x'.repeat(200_000)],
      ['b', 'y'.repeat(60_000)],
      ['c', 'z'.repeat(65_536)],
    ];
    const payloads = createHash('sha256')
      .update(large.map(([, payload]) => payload).join(''))
      .digest();
    const entries = createHash('sha256');
    for (const [name, payload] of large) {
      const lengths = Buffer.alloc(8);
      lengths.writeUInt32LE(1, 0);
      lengths.writeUInt32LE(payload.length, 4);
      entries.update(lengths).update(name);
    }
    const expected = createHash('sha256').update(payloads).update(entries.digest()).digest('hex');
    expect(await digestOf(large)).toBe(expected);
  });
});

describe('a shard’s folder', () => {
  test('of several volumes the highest complete one counts', async () => {
    for (const volume of [0, 1, 2, 10]) await write(disk, idOf({ volume }), [[`v${volume}`, '']]);
    await disk.remove(filesetPath(ROOT, idOf({ volume: 10 }), 'checkpoint'));
    const { filesets, superseded, incompleteFiles } = await recover();
    expect(filesets.map(({ volume }) => volume)).toEqual([2]);
    expect(superseded.map(({ volume }) => volume)).toEqual([0, 1]);
    expect(incompleteFiles).toBe(4);
    expect((await listShard(disk, ROOT, idOf())).incomplete).toEqual([]);
    expect(await nextVolume(disk, ROOT, idOf())).toBe(3);
  });

  test('files that are nobody’s are left alone, and so are folders that are no shards', async () => {
    await write(disk, idOf(), SERIES);
    const strange = ['notes.txt', 'fileset-0-00-info.db', 'fileset-1-2-other.db', 'fileset-x-0-data.db'];
    for (const name of strange) disk.plant(join(shardFolder(ROOT, idOf()), name), latin1('mine'));
    await disk.makeFolder(`${ROOT}/default/notashard`);
    await disk.makeFolder(`${ROOT}/default/007`);
    await disk.makeFolder(`${ROOT}/.hidden`);
    expect(await listShards(disk, ROOT)).toEqual([{ namespace: 'default', shard: 3 }]);
    const { filesets, incompleteFiles } = await recover();
    expect(filesets).toHaveLength(1);
    expect(incompleteFiles).toBe(0);
    const left = [...disk.files().keys()].map((path) => path.split('/').at(-1));
    for (const name of strange) expect(left).toContain(name);
  });

  test('without repair nothing is changed', async () => {
    await write(disk, idOf(), SERIES);
    await write(disk, idOf({ volume: 1 }), SERIES);
    disk.plant(filesetPath(ROOT, idOf({ volume: 1 }), 'info'), latin1('damaged'));
    disk.plant(filesetPath(ROOT, idOf({ volume: 2 }), 'data'), latin1('part'));
    const before = disk.files();
    const { filesets, damaged, incompleteFiles } = await recover(false);
    expect(filesets.map(({ volume }) => volume)).toEqual([0]);
    expect(damaged).toMatchObject([
      { id: { volume: 1 }, damage: { offset: 7, reason: 'it ends too early' } },
    ]);
    expect(incompleteFiles).toBe(1);
    expect(disk.files()).toEqual(before);
  });

  test('a damaged volume is put aside, and the one below stands in for it', async () => {
    await write(disk, idOf(), [['old', '']]);
    await write(disk, idOf({ volume: 1 }), [['new', '']]);
    await write(disk, idOf({ blockStartNs: 0n }), SERIES);
    const path = filesetPath(ROOT, idOf({ volume: 1 }), 'info');
    const bytes = disk.files().get(path) ?? Buffer.alloc(0);
    bytes[40] = 0xff;
    disk.plant(path, bytes);
    const { filesets, damaged } = await recover();
    expect(filesets.map(({ blockStartNs, volume }) => [blockStartNs, volume])).toContainEqual([
      2n * HOUR_NS,
      0,
    ]);
    expect(filesets).toHaveLength(2);
    expect(damaged).toEqual([
      {
        id: idOf({ volume: 1 }),
        damage: { file: path, offset: 0, reason: 'it does not match its checksum' },
      },
    ]);
    const aside = join(shardFolder(ROOT, idOf()), 'damaged');
    expect((await disk.list(aside)).map(({ name }) => parseFileName(name)?.kind)).toHaveLength(5);
    // Its number is not used again.
    expect(await nextVolume(disk, ROOT, idOf())).toBe(2);
    const again = await recover();
    expect(again.damaged).toEqual([]);
    expect(again.filesets).toHaveLength(2);
  });

  test('a complete fileset whose info is gone is damaged, not ignored', async () => {
    await write(disk, idOf(), SERIES);
    await disk.remove(filesetPath(ROOT, idOf(), 'info'));
    const { filesets, damaged } = await recover();
    expect(filesets).toEqual([]);
    expect(damaged).toMatchObject([{ damage: { reason: 'it is missing' } }]);
  });

  test('an info that the disk cannot read is damage; other trouble is not taken for it', async () => {
    await write(disk, idOf(), SERIES);
    disk.fault = ({ kind }) => (kind === 'read' ? 'EIO' : undefined);
    expect((await recover(false)).damaged).toMatchObject([{ damage: { reason: 'the disk cannot read it' } }]);
    disk.fault = ({ kind }) => (kind === 'read' ? 'EMFILE' : undefined);
    await expect(recover(true)).rejects.toThrow('EMFILE');
    disk.fault = undefined;
    expect((await recover()).filesets).toHaveLength(1);
  });

  test('a fileset in the folder of another shard is damage', async () => {
    await write(disk, idOf(), SERIES);
    await write(disk, idOf({ shard: 4, blockStartNs: 9n }), SERIES);
    for (const [path, content] of disk.files()) {
      if (path.includes('/3/')) disk.plant(path.replace('/3/', '/4/'), content);
    }
    const { filesets, damaged } = await recover();
    expect(filesets).toHaveLength(2);
    expect(damaged).toMatchObject([{ id: { shard: 4 } }]);
    expect(damaged[0]?.damage.reason).toContain('it belongs to namespace default, shard 3');
  });

  test('quarantine takes what is there, and is repeatable', async () => {
    await write(disk, idOf(), SERIES);
    await disk.remove(filesetPath(ROOT, idOf(), 'data'));
    await quarantineFileset(disk, ROOT, idOf());
    await quarantineFileset(disk, ROOT, idOf());
    expect(await listShard(disk, ROOT, idOf())).toEqual({ complete: [], incomplete: [] });
  });
});

test('on a real disk a fileset is written, found, read and verified', async () => {
  const root = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}fileset-`));
  try {
    const fs = new NodeFileSystem();
    const series = randomSeries(new SeededRandom(3), 2000);
    const info = await write(fs, idOf(), series, { root });
    const { filesets } = await recoverFilesets({ fs }, root, { shards: [idOf()], repair: true });
    expect(filesets).toEqual([info]);
    expect(await readInfos(fs, root, [idOf({ volume: 1 })])).toMatchObject([{ code: 'FILESET_DAMAGED' }]);
    expect(await readAll(fs, info, { root })).toEqual(series);
    expect(await verifyFileset({ fs }, root, idOf())).toEqual([]);
  } finally {
    await rm(root, { recursive: true });
  }
});
