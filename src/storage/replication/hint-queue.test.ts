import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import type { Hint } from './hint-frames.ts';
import { folderName, HintQueue, idOfFolder } from './hint-queue.ts';

const quiet = { info: () => {}, warn: () => {}, error: () => {} };
const FOLDER = '/hints';
let disk: SimulatedDisk;
let queue: HintQueue;

const open = (more: { maxBytes?: number; synced?: boolean } = {}): Promise<HintQueue> =>
  HintQueue.open(
    { fs: disk, log: quiet },
    { folder: FOLDER, id: 'dn-1', maxBytes: 1 << 20, synced: false, ...more },
  );

beforeEach(async () => {
  disk = new SimulatedDisk({ seed: 1 });
  await disk.makeFolder(FOLDER);
  await disk.syncFolder('/');
  queue = await open();
});

afterEach(() => queue.close());

function write(i: number, length = 10): Hint {
  const body = Buffer.alloc(length, i);
  return {
    kind: 'write',
    write: { namespace: 'näme', format: i % 3 === 0 ? 'columns' : 1, body, stamp: BigInt(i) },
  };
}

const deletion: Hint = {
  kind: 'delete',
  deletion: {
    namespace: 'n',
    stamp: 77n,
    startNs: -5n,
    endNs: 1n << 62n,
    selectors: [[['job', '=~', 'a.*']]],
  },
};

async function replayAll(from: HintQueue = queue): Promise<Hint[]> {
  const found: Hint[] = [];
  while (!from.isEmpty) {
    await from.replay((hint) => {
      found.push(structuredClone(hint));
      return Promise.resolve();
    });
  }
  return found;
}

const stamps = (hints: readonly Hint[]): number[] =>
  hints.map((hint) => Number(hint.kind === 'write' ? hint.write.stamp : hint.deletion.stamp));

test('gives hints back as they were, in their order, and then forgets them', async () => {
  queue.add(write(1));
  queue.add(deletion);
  queue.add(write(3));
  const found = await replayAll();
  expect(stamps(found)).toEqual([1, 77, 3]);
  expect(found[1]).toEqual(deletion);
  expect(found[2]).toMatchObject({ write: { namespace: 'näme', format: 'columns' } });
  expect(Buffer.from((found[2] as Extract<Hint, { kind: 'write' }>).write.body)).toEqual(Buffer.alloc(10, 3));
  expect(queue.figures).toMatchObject({ added: 3, replayed: 3, dropped: 0, bytes: 0 });
  expect([...disk.files().keys()]).toEqual([]);
});

test('goes on where a replica went away, and takes new ones meanwhile', async () => {
  for (let i = 0; i < 5; i++) queue.add(write(i));
  const seen: number[] = [];
  const replay = (): Promise<void> =>
    queue.replay((hint) => {
      if (seen.length === 3) return Promise.reject(new Error('gone'));
      seen.push(...stamps([hint]));
      queue.add(write(10 + seen.length));
      return Promise.resolve();
    });
  await expect(replay()).rejects.toThrow('gone');
  expect(seen).toEqual([0, 1, 2]);
  expect(stamps(await replayAll())).toEqual([3, 4, 11, 12, 13]);
});

test('a process that is killed keeps what was written; a torn end costs only itself', async () => {
  for (let i = 0; i < 4; i++) queue.add(write(i));
  await queue.close();
  disk = disk.processCrash(3);
  const [[path, content]] = [...disk.files()] as [[string, Buffer]];
  disk.plant(path, content.subarray(0, -4));
  queue = await open();
  queue.add(write(9));
  expect(stamps(await replayAll())).toEqual([0, 1, 2, 9]);
  expect(queue.figures.damagedBytes).toBeGreaterThan(0);
});

test('with synced hints a loss of power takes nothing that is on its way no more', async () => {
  await queue.close();
  queue = await open({ synced: true });
  for (let i = 0; i < 4; i++) queue.add(write(i));
  await expect.poll(() => disk.files().size).toBe(1);
  await queue.close();
  for (let seed = 0; seed < 20; seed++) {
    disk = disk.powerLoss(seed);
    queue = await open();
    const found: Hint[] = [];
    await expect(
      queue.replay((hint) => {
        found.push(hint);
        return found.length === 4 ? Promise.reject(new Error('kept')) : Promise.resolve();
      }),
    ).rejects.toThrow('kept');
    expect(stamps(found)).toEqual([0, 1, 2, 3]);
    await queue.close();
  }
});

test('what there is no room for is left out, and counted', async () => {
  await queue.close();
  queue = await open({ maxBytes: 300 });
  for (let i = 0; i < 10; i++) queue.add(write(i, 50));
  const { added, dropped, bytes } = queue.figures;
  expect([added + dropped, bytes <= 300]).toEqual([10, true]);
  expect(added).toBeGreaterThan(1);
  expect(stamps(await replayAll())).toEqual(Array.from({ length: added }, (_, i) => i));
  queue.add(write(20, 50));
  expect(stamps(await replayAll())).toEqual([20]);
});

test('a disk that is full costs hints, and no more', async () => {
  disk.fault = ({ kind }) => (kind === 'write' ? 'ENOSPC' : undefined);
  queue.add(write(1));
  await expect.poll(() => queue.figures.dropped).toBe(1);
  disk.fault = undefined;
  queue.add(write(2));
  expect(stamps(await replayAll())).toEqual([2]);
});

test('files whose bytes are anything are passed over', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
      disk.plant(`${FOLDER}/dn-1/00000001.hints`, bytes);
      const other = await open();
      expect(await replayAll(other)).toEqual([]);
      await other.close();
    }),
    { numRuns: 50 },
  );
});

test('folders are named after nodes, whatever these are called', () => {
  for (const id of ['a', 'data node/1', '..', '.', 'ä%']) {
    expect(folderName(id)).toMatch(/^[^/.]+$/);
    expect(idOfFolder(folderName(id))).toBe(id);
  }
});
