import { beforeEach, expect, test } from 'vitest';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { FilesetReader } from './fileset-reader.ts';
import { idOf, latin1, randomSeries, ROOT, write, type Series } from './fileset.suite.ts';

let disk: SimulatedDisk;
beforeEach(async () => {
  disk = new SimulatedDisk();
  await disk.makeFolder(ROOT);
});

/** What a scan finds of these ids, one after the other. */
async function scanned(series: Series, names: readonly string[], aheadBytes: number): Promise<unknown[]> {
  const info = await write(disk, idOf(), series);
  await using reader = new FilesetReader({ fs: disk }, ROOT, info);
  const scan = reader.scan(aheadBytes);
  const found: unknown[] = [];
  for (const name of names) found.push((await scan.find(latin1(name)))?.toString('latin1'));
  return found;
}

test('a scan finds what is there and nothing else, in whatever order it is asked', async () => {
  for (let seed = 0; seed < 60; seed++) {
    disk = new SimulatedDisk();
    await disk.makeFolder(ROOT);
    const random = new SeededRandom(seed);
    const all = randomSeries(random, 1 + random.below(400));
    // Some of what is asked for is not there: before, between and behind what is.
    const percent = random.pick([0, 5, 50, 95]);
    const stored = all.filter(() => random.below(100) >= percent);
    const names = all.flatMap(([name]) => (random.below(10) === 0 ? [name, name] : [name]));
    for (let i = random.pick([0, 0, 5, names.length]); i > 0; i--) {
      const [a, b] = [random.below(names.length), random.below(names.length)];
      [names[a], names[b]] = [names[b] as string, names[a] as string];
    }
    const payloads = new Map(stored);
    const found = await scanned(stored, names, random.pick([1, 200, 1 << 20]));
    expect(found, `seed ${seed}`).toEqual(names.map((name) => payloads.get(name)));
  }
});
