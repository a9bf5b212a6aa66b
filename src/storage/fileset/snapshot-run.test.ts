import { join } from 'node:path';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { filesetPath, type FilesetId } from './fileset-id.ts';
import { HOUR_NS, idOf, latin1, readAll, ROOT, write, type Series } from './fileset.suite.ts';
import { decodeManifest, encodeManifest, manifestName, type ManifestKind } from './snapshot-manifest.ts';
import { SnapshotRun } from './snapshot-run.ts';
import { cleanSnapshots, listManifests, loadSnapshots } from './snapshots.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

let disk: SimulatedDisk;
beforeEach(async () => {
  disk = new SimulatedDisk();
  await disk.makeFolder(ROOT);
  await disk.syncFolder('/');
});

const block = (more: Partial<FilesetId> = {}): FilesetId & { blockSizeNs: bigint } => ({
  ...idOf(more),
  blockSizeNs: 2n * HOUR_NS,
});

const begin = (
  sequence: number,
  kind: ManifestKind = 'cycle',
  fs: SimulatedDisk = disk,
): Promise<SnapshotRun> =>
  SnapshotRun.begin({ fs }, { root: ROOT, kind, position: { segment: 1, sequence }, createdAtNs: 1n });

async function snapshot(run: SnapshotRun, series: Series, more: Partial<FilesetId> = {}): Promise<FilesetId> {
  return await run.write(block(more), async (writer) => {
    for (const [name, payload] of series) await writer.add(latin1(name), latin1(payload));
  });
}

describe('a run of snapshots', () => {
  test('counts from its manifest on, with the place where the log is to be read', async () => {
    const run = await begin(7);
    await snapshot(run, [['a', '1']]);
    await snapshot(run, [['b', '2']], { shard: 4 });
    expect(await loadSnapshots({ fs: disk }, ROOT)).toMatchObject({ from: undefined, snapshots: [] });
    const manifest = await run.commit(latin1('images'));
    const loaded = await loadSnapshots({ fs: disk }, ROOT);
    expect(loaded.from).toEqual({ segment: 1, sequence: 7 });
    expect(loaded.manifests).toEqual([manifest]);
    expect(manifest.annotation.toString()).toBe('images');
    expect(loaded.snapshots.map(({ shard, kind }) => [shard, kind])).toEqual([
      [3, 'snapshot'],
      [4, 'snapshot'],
    ]);
    const [first] = loaded.snapshots;
    expect(first && (await readAll(disk, first))).toEqual([['a', '1']]);
  });

  test('takes the place of the one before, which is removed only then', async () => {
    const first = await begin(1);
    await snapshot(first, [['a', 'old']]);
    await first.commit();
    const second = await begin(9);
    await snapshot(second, [['a', 'new']]);
    expect((await loadSnapshots({ fs: disk }, ROOT)).from?.sequence).toBe(1);
    await second.commit();
    const loaded = await loadSnapshots({ fs: disk }, ROOT);
    expect(loaded.from?.sequence).toBe(9);
    expect(loaded.snapshots.map(({ volume }) => volume)).toEqual([1]);
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(1);
    expect(await listManifests(disk, ROOT)).toEqual([2]);
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(0);
    expect((await loadSnapshots({ fs: disk }, ROOT)).snapshots).toEqual(loaded.snapshots);
  });

  test('keeps unchanged snapshots of the manifest before', async () => {
    const first = await begin(1);
    await snapshot(first, [['a', '1']]);
    await snapshot(first, [['b', '1']], { shard: 4 });
    const manifest = await first.commit();
    const second = await begin(5);
    await snapshot(second, [['a', '2']]);
    for (const entry of manifest.entries.filter(({ shard }) => shard === 4)) second.keep(entry);
    await second.commit();
    await cleanSnapshots({ fs: disk }, ROOT);
    const { snapshots } = await loadSnapshots({ fs: disk }, ROOT);
    expect(snapshots.map(({ shard, volume }) => [shard, volume])).toEqual([
      [3, 1],
      [4, 0],
    ]);
  });

  test('without all of its snapshots has no manifest', async () => {
    const first = await begin(1);
    await snapshot(first, [['a', 'old']]);
    const { entries } = await first.commit();

    const failed = await begin(9);
    await snapshot(failed, [['a', 'new']]);
    const failing = failed.write(block({ shard: 4 }), async () => Promise.reject(new Error('no memory')));
    await expect(failing).rejects.toThrow('no memory');
    await expect(failed.commit()).rejects.toMatchObject({ code: 'SNAPSHOT_INCOMPLETE' });

    const early = await begin(9);
    const underWay = snapshot(early, [['a', 'new']]);
    await expect(early.commit()).rejects.toMatchObject({ code: 'SNAPSHOT_INCOMPLETE' });
    await underWay;

    const gone = await begin(9);
    gone.keep({ ...idOf({ shard: 99 }), digest: Buffer.alloc(32) });
    await expect(gone.commit()).rejects.toMatchObject({ code: 'SNAPSHOT_INCOMPLETE' });

    const loaded = await loadSnapshots({ fs: disk }, ROOT);
    expect(loaded.from?.sequence).toBe(1);
    expect(loaded.snapshots.map(({ volume }) => volume)).toEqual(entries.map(({ volume }) => volume));
    // What the failed ones left does not stay.
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(2);
  });

  test('an addition stands beside the cycle until the next cycle has its data', async () => {
    const cycle = await begin(4);
    await snapshot(cycle, [['a', 'own']]);
    await cycle.commit();
    const addition = await begin(0, 'addition');
    await snapshot(addition, [['b', 'from a peer']]);
    await addition.commit();
    const loaded = await loadSnapshots({ fs: disk }, ROOT);
    expect(loaded.from?.sequence).toBe(4);
    expect(loaded.snapshots.map(({ volume }) => volume)).toEqual([0, 1]);
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(0);
    const next = await begin(8);
    await snapshot(next, [
      ['a', 'own'],
      ['b', 'from a peer'],
    ]);
    await next.commit();
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(2);
    expect((await loadSnapshots({ fs: disk }, ROOT)).snapshots.map(({ volume }) => volume)).toEqual([2]);
  });

  test('an addition without any cycle is loaded, and the log is read from its beginning', async () => {
    const addition = await begin(0, 'addition');
    await snapshot(addition, [['b', 'from a peer']]);
    await addition.commit();
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(0);
    const loaded = await loadSnapshots({ fs: disk }, ROOT);
    expect(loaded.from).toBeUndefined();
    expect(loaded.snapshots).toHaveLength(1);
  });
});

describe('damage', () => {
  test('every flipped byte and every cut of a manifest is found; then all snapshots are used and nothing is removed', async () => {
    const run = await begin(7);
    await snapshot(run, [['a', '1']]);
    await run.commit(latin1('note'));
    await write(disk, idOf({ volume: 5 }), [['z', 'of an interrupted run']], { kind: 'snapshot' });
    const path = join(ROOT, manifestName(1));
    const intact = disk.files().get(path) ?? Buffer.alloc(0);
    const check = async (content: Buffer): Promise<void> => {
      disk.plant(path, content);
      const loaded = await loadSnapshots({ fs: disk }, ROOT);
      expect(loaded.damagedManifests).toMatchObject([{ file: path }]);
      expect(loaded.from).toBeUndefined();
      expect(loaded.snapshots.map(({ volume }) => volume)).toEqual([0, 5]);
      expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(0);
    };
    for (let offset = 0; offset < intact.length; offset++) {
      const content = Buffer.from(intact);
      content[offset] = ~(content[offset] ?? 0);
      await check(content);
      await check(intact.subarray(0, offset));
    }
    // The next cycle ends the uncertainty.
    const next = await begin(20);
    await snapshot(next, [['a', '2']]);
    await next.commit();
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(2);
    expect(await listManifests(disk, ROOT)).toEqual([2]);
  });

  test('a damaged manifest that is older than the newest cycle changes nothing', async () => {
    for (const sequence of [1, 2]) {
      const run = await begin(sequence);
      await snapshot(run, [['a', String(sequence)]]);
      await run.commit();
    }
    disk.plant(join(ROOT, manifestName(1)), latin1('x'));
    const loaded = await loadSnapshots({ fs: disk }, ROOT);
    expect(loaded.from?.sequence).toBe(2);
    expect(loaded.damagedManifests).toHaveLength(1);
    expect(await cleanSnapshots({ fs: disk }, ROOT)).toBe(1);
    expect(await listManifests(disk, ROOT)).toEqual([2]);
  });

  test('a snapshot that is damaged, gone or another one is told, and the others are loaded', async () => {
    const run = await begin(1);
    for (const shard of [1, 2, 3, 4]) await snapshot(run, [['a', String(shard)]], { shard });
    await run.commit();
    disk.plant(filesetPath(ROOT, idOf({ shard: 1 }), 'info'), latin1('x'));
    await disk.remove(filesetPath(ROOT, idOf({ shard: 2 }), 'info'));
    for (const name of [...disk.files().keys()].filter((path) => path.includes('/default/3/'))) {
      await disk.remove(name);
    }
    await write(disk, idOf({ shard: 3 }), [['another', '']], { kind: 'snapshot' });
    const { snapshots, damagedSnapshots } = await loadSnapshots({ fs: disk }, ROOT);
    expect(snapshots.map(({ shard }) => shard)).toEqual([4]);
    expect(damagedSnapshots.map(({ id, damage }) => [id.shard, damage.reason])).toEqual([
      [1, 'it ends too early'],
      [2, 'it is missing'],
      [3, 'it is not the snapshot that the manifest means'],
    ]);
  });

  test('a manifest comes back as it was written', () => {
    const manifest = {
      index: 2 ** 40,
      kind: 'addition' as const,
      position: { segment: 2 ** 35, sequence: Number.MAX_SAFE_INTEGER },
      createdAtNs: -5n,
      entries: [
        {
          ...idOf({ namespace: 'n', blockStartNs: -(2n ** 62n), volume: 2 ** 31 }),
          digest: Buffer.alloc(32, 7),
        },
        { ...idOf({ namespace: 'a'.repeat(128) }), digest: Buffer.alloc(32, 8) },
      ],
      annotation: latin1('any bytes \0\xff'),
    };
    expect(decodeManifest('f', encodeManifest(manifest), 2 ** 40)).toEqual(manifest);
    expect(() => decodeManifest('f', encodeManifest(manifest), 1)).toThrow('it is manifest');
  });
});

test('a crash at any operation of runs and cleanings leaves a manifest whose snapshots are all there', async () => {
  for (let seed = 0; seed < seedCount(12); seed++) {
    const random = new SeededRandom(seed);
    const start = new SimulatedDisk({ seed });
    await start.makeFolder(ROOT);
    await start.syncFolder('/');
    // What the node holds: a version for each shard. The version is in the snapshot.
    const states: string[][] = [];
    let committed = -1;
    const instants: { disk: SimulatedDisk; committed: number; what: string }[] = [];
    start.onOperation = ({ index, kind, phase, path }) => {
      if (!random.chance(0.2)) return;
      const at = seed * 10_000 + index;
      const disk = random.chance(0.7) ? start.powerLoss(at) : start.processCrash(at);
      instants.push({ disk, committed, what: `seed ${seed}, ${phase} operation ${index} (${kind} ${path})` });
    };
    for (let cycle = 0; cycle < 4; cycle++) {
      const state = [0, 1, 2].map((shard) => `shard ${shard} at cycle ${cycle}`);
      states.push(state);
      const run = await begin(cycle, 'cycle', start);
      await Promise.all(state.map((text, shard) => snapshot(run, [['v', text]], { shard })));
      await run.commit();
      committed = cycle;
      await cleanSnapshots({ fs: start }, ROOT);
    }
    for (const { disk: found, committed: least, what } of instants) {
      const { from, snapshots, damagedManifests, damagedSnapshots } = await loadSnapshots(
        { fs: found },
        ROOT,
      );
      expect([...damagedManifests, ...damagedSnapshots], what).toEqual([]);
      expect(from?.sequence ?? -1, what).toBeGreaterThanOrEqual(least);
      const texts: (string | undefined)[] = [];
      for (const info of snapshots) texts.push((await readAll(found, info))[0]?.[1]);
      expect(texts, what).toHaveLength(from ? 3 : 0);
      expect(new Set(texts), what).toEqual(new Set(from ? states[from.sequence] : []));
      await cleanSnapshots({ fs: found }, ROOT);
      expect((await loadSnapshots({ fs: found }, ROOT)).snapshots, what).toEqual(snapshots);
    }
  }
});
