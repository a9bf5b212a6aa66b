import { expect, test, vi } from 'vitest';
import { seedCount, SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { listShards, nextVolume, quarantineFileset } from './fileset-folder.ts';
import { idOf, latin1, randomSeries, readAll, ROOT, write, type Series } from './fileset.suite.ts';
import { FilesetWriter } from './fileset-writer.ts';
import { GroupSeal } from './group-seal.ts';
import type { FilesetInfo } from './info-file.ts';
import { recoverFilesets, type RecoveredFilesets } from './recover-filesets.ts';
import { removeFileset } from './remove-fileset.ts';
import { verifyFileset } from './verify-fileset.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

const SEEDS = seedCount(60);

interface Instant {
  readonly disk: SimulatedDisk;
  /** Set when the writer was told that it is done. */
  readonly done: boolean;
  readonly what: string;
}

/** Does `work`, and takes the disk as a crash would leave it before and after every operation, and at the end. */
async function crashEverywhere(
  disk: SimulatedDisk,
  seed: number,
  work: () => Promise<unknown>,
): Promise<Instant[]> {
  const random = new SeededRandom(seed);
  const instants: Instant[] = [];
  const take = (done: boolean, what: string): void => {
    const at = seed * 10_000 + instants.length;
    if (done || random.chance(0.7)) {
      instants.push({ disk: disk.powerLoss(at), done, what: `seed ${seed}, ${what}, loss of power` });
    }
    if (done || random.chance(0.2)) {
      instants.push({ disk: disk.processCrash(at), done, what: `seed ${seed}, ${what}, killed` });
    }
  };
  disk.onOperation = ({ index, kind, phase, path }) => {
    take(false, `${phase} operation ${index} (${kind} ${path})`);
  };
  await work();
  disk.onOperation = undefined;
  take(true, 'at the end');
  return instants;
}

async function diskWithRoot(seed: number): Promise<SimulatedDisk> {
  const disk = new SimulatedDisk({ seed });
  await disk.makeFolder(ROOT);
  await disk.syncFolder('/');
  return disk;
}

async function recover(disk: SimulatedDisk): Promise<RecoveredFilesets> {
  return await recoverFilesets({ fs: disk }, ROOT, { shards: await listShards(disk, ROOT), repair: true });
}

async function contentOf(disk: SimulatedDisk, info: FilesetInfo | undefined): Promise<Series | undefined> {
  return info && (await readAll(disk, info));
}

test('a crash while a fileset is written leaves all of it or nothing; once acknowledged, all of it', async () => {
  let wholeBeforeEnd = 0;
  for (let seed = 0; seed < SEEDS; seed++) {
    const disk = await diskWithRoot(seed);
    const series = randomSeries(new SeededRandom(seed), 20);
    for (const instant of await crashEverywhere(disk, seed, () => write(disk, idOf(), series))) {
      const { filesets, damaged } = await recover(instant.disk);
      expect(damaged, instant.what).toEqual([]);
      if (instant.done) expect(filesets, instant.what).toHaveLength(1);
      if (filesets.length > 0 && !instant.done) wholeBeforeEnd++;
      if (filesets.length > 0) {
        expect(await contentOf(instant.disk, filesets[0]), instant.what).toEqual(series);
        expect(await verifyFileset({ fs: instant.disk }, ROOT, idOf()), instant.what).toEqual([]);
      } else {
        // What was left is gone, and the next attempt succeeds.
        expect([...instant.disk.files().keys()], instant.what).toEqual([]);
        await write(instant.disk, idOf(), series);
        expect((await recover(instant.disk)).filesets, instant.what).toHaveLength(1);
      }
    }
  }
  expect(wholeBeforeEnd).toBeGreaterThan(0);
});

test('a crash while several are sealed together leaves each of them whole or not there; once acknowledged, all', async () => {
  let some = 0;
  for (let seed = 0; seed < SEEDS / 6; seed++) {
    const disk = await diskWithRoot(seed);
    const random = new SeededRandom(seed);
    const ids = [idOf(), idOf({ shard: 9 }), idOf({ blockStartNs: 77n })];
    const contents = new Map(ids.map((id) => [`${id.shard}/${id.blockStartNs}`, randomSeries(random, 10)]));
    const work = async (): Promise<void> => {
      const group = new GroupSeal(disk, ROOT);
      const sealing: Promise<void>[] = [];
      for (const id of ids) {
        const writer = await FilesetWriter.create(
          { fs: disk },
          { root: ROOT, id, kind: 'flush', blockSizeNs: 100n, createdAtNs: 1n },
        );
        const series = contents.get(`${id.shard}/${id.blockStartNs}`) ?? [];
        for (const [name, payload] of series) await writer.add(latin1(name), latin1(payload));
        const info = await writer.write();
        sealing.push(group.seal(info).then(() => writer.sealed()));
      }
      await Promise.all(sealing);
    };
    for (const instant of await crashEverywhere(disk, seed, work)) {
      const { filesets, damaged } = await recover(instant.disk);
      expect(damaged, instant.what).toEqual([]);
      if (instant.done) expect(filesets, instant.what).toHaveLength(ids.length);
      else if (filesets.length > 0 && filesets.length < ids.length) some++;
      for (const info of filesets) {
        const expected = contents.get(`${info.shard}/${info.blockStartNs}`);
        expect(await contentOf(instant.disk, info), instant.what).toEqual(expected);
        expect(await verifyFileset({ fs: instant.disk }, ROOT, info), instant.what).toEqual([]);
      }
    }
  }
  expect(some).toBeGreaterThan(0);
});

test('a crash while the next volume is written leaves the old one or the new one', async () => {
  for (let seed = 0; seed < SEEDS / 4; seed++) {
    const disk = await diskWithRoot(seed);
    const random = new SeededRandom(seed);
    const old = randomSeries(random, 10);
    const next = randomSeries(random, 10);
    await write(disk, idOf(), old);
    for (const instant of await crashEverywhere(disk, seed, async () => {
      await write(disk, idOf({ volume: 1 }), next);
      await removeFileset(disk, ROOT, idOf());
    })) {
      const { filesets, damaged } = await recover(instant.disk);
      expect(damaged, instant.what).toEqual([]);
      const content = await contentOf(instant.disk, filesets[0]);
      expect([old, next], instant.what).toContainEqual(content);
      if (instant.done) expect(content, instant.what).toEqual(next);
    }
  }
});

test('a crash while a fileset is removed leaves it whole or not there', async () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const disk = await diskWithRoot(seed);
    const series = randomSeries(new SeededRandom(seed), 5);
    await write(disk, idOf(), series);
    for (const instant of await crashEverywhere(disk, seed, () => removeFileset(disk, ROOT, idOf()))) {
      const { filesets, damaged } = await recover(instant.disk);
      expect(damaged, instant.what).toEqual([]);
      if (instant.done) expect(filesets, instant.what).toEqual([]);
      if (filesets.length > 0) expect(await contentOf(instant.disk, filesets[0])).toEqual(series);
      else expect([...instant.disk.files().keys()], instant.what).toEqual([]);
    }
  }
});

test('a crash while a damaged fileset is put aside loses none of its files and never brings it back', async () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const disk = await diskWithRoot(seed);
    await write(disk, idOf(), [['a', 'b']]);
    const info = [...disk.files().keys()].find((path) => path.endsWith('-info.db')) ?? '';
    disk.plant(info, Buffer.from('damaged'));
    for (const instant of await crashEverywhere(disk, seed, () => quarantineFileset(disk, ROOT, idOf()))) {
      expect((await recover(instant.disk)).filesets, instant.what).toEqual([]);
      const left = [...instant.disk.files().keys()];
      expect(left, instant.what).toHaveLength(5);
      expect(
        left.every((path) => path.includes('/damaged/')),
        instant.what,
      ).toBe(true);
    }
  }
});

test('faults of every operation, one at a time: a fileset is complete only when its writer was told so', async () => {
  const series = randomSeries(new SeededRandom(1), 30);
  const counted = await diskWithRoot(1);
  const before = counted.operations;
  await write(counted, idOf(), series);
  for (const code of ['EIO', 'ENOSPC']) {
    for (let index = before; index < counted.operations; index++) {
      const disk = await diskWithRoot(index);
      disk.fault = (operation) => (operation.index === index ? code : undefined);
      const written = await write(disk, idOf(), series).then(
        () => true,
        () => false,
      );
      disk.fault = undefined;
      const what = `${code} at operation ${index}`;
      for (const found of [disk, disk.powerLoss(index), disk.powerLoss(index + 1)]) {
        const { filesets, damaged } = await recover(found);
        expect(damaged, what).toEqual([]);
        if (written) expect(filesets, what).toHaveLength(1);
        if (filesets.length > 0) expect(await contentOf(found, filesets[0]), what).toEqual(series);
        const volume = await nextVolume(found, ROOT, idOf());
        await write(found, idOf({ volume }), series);
      }
      if (!written) expect((await recover(disk)).filesets, what).toHaveLength(1);
    }
  }
});
