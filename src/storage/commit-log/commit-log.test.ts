import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { seedCount } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { CommitLog } from './commit-log.ts';
import { FOLDER, read, reopen, settle, testDeps } from './commit-log.suite.ts';
import { logDamageError } from './log-damage.ts';
import { replayCommitLog, type LogPosition } from './replay.ts';
import { listSegments } from './segment-folder.ts';

// Many seeds on busy machines.
vi.setConfig({ testTimeout: 60_000 });

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');
const numbered = (count: number, from = 0): string[] =>
  Array.from({ length: count }, (_, i) => `record ${from + i}`);

test('what was appended is read back in order, in both modes, over many segments', async () => {
  for (const mode of ['sync', 'behind'] as const) {
    const disk = new SimulatedDisk();
    const { log } = await reopen(testDeps(disk), { mode, segmentBytes: 256 });
    const sequences = await Promise.all(numbered(40).map((text) => log.append(bytes(text))));
    expect(sequences).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    await log.append(Buffer.alloc(0));
    await log[Symbol.asyncDispose]();
    const { texts, report } = await read(disk);
    expect(texts).toEqual([...numbered(40), '']);
    expect(report.damages).toEqual([]);
    expect(report.segments).toBeGreaterThan(10);
    expect(report.end.open).toEqual([]);
  }
});

test('an append is a copy: the caller may use its memory again at once', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk));
  const memory = bytes('first');
  const appended = log.append(memory);
  memory.write('XXXXX');
  await appended;
  expect((await read(disk)).texts).toEqual(['first']);
  await log[Symbol.asyncDispose]();
});

test('appends that come while a sync is under way share the next one', async () => {
  const disk = new SimulatedDisk();
  disk.shortWrites = false;
  const { log } = await reopen(testDeps(disk), { segmentBytes: 64 * 1024 });
  await log.append(bytes('opens the segment'));
  await settle(); // The spare is ready.
  const done: string[] = [];
  disk.onOperation = ({ kind, phase }) => {
    if (phase === 'after') done.push(kind);
  };
  const first = log.append(bytes('a'));
  await Promise.resolve();
  await Promise.all([first, ...numbered(50).map((text) => log.append(bytes(text)))]);
  expect(done.filter((kind) => kind === 'datasync').length).toBeLessThanOrEqual(2);
  expect(done.filter((kind) => kind === 'write').length).toBeLessThanOrEqual(2);
  await log[Symbol.asyncDispose]();
});

test('in sync mode nothing is acknowledged before it is durable', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk));
  await log.append(bytes('opens the segment'));
  await settle(); // The spare is ready.
  let syncs = 0;
  disk.onOperation = ({ kind, phase }) => {
    if (kind === 'datasync' && phase === 'before') syncs++;
  };
  await log.append(bytes('a'));
  expect(syncs).toBe(1);
  expect(log.status().durableSequence).toBe(3);
  await log[Symbol.asyncDispose]();
});

test('in behind mode a write is acknowledged at once and durable after the delay', async () => {
  const disk = new SimulatedDisk();
  const deps = testDeps(disk);
  const { log } = await reopen(deps, { mode: 'behind', segmentBytes: 4096 });
  for (const text of numbered(5)) await log.append(bytes(text));
  expect(log.status().durableSequence).toBe(1);
  expect((await read(disk.processCrash(1))).texts).toEqual(numbered(5));
  deps.clock.wakeAll();
  await settle();
  expect(log.status().durableSequence).toBe(6);
  for (let seed = 0; seed < 50; seed++) {
    expect((await read(disk.powerLoss(seed))).texts).toEqual(numbered(5));
  }
  // The next append sets the next sync off.
  await log.append(bytes('later'));
  expect(deps.clock.sleepers).toBe(1);
  await log[Symbol.asyncDispose]();
});

test('flush makes durable what behind mode has only written', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { mode: 'behind', segmentBytes: 4096 });
  const appends = numbered(5).map((text) => log.append(bytes(text)));
  await log.flush();
  for (let seed = 0; seed < 20; seed++) {
    expect((await read(disk.powerLoss(seed))).texts).toEqual(numbered(5));
  }
  await Promise.all(appends);
  await log[Symbol.asyncDispose]();
});

test('sequences and segments go on behind what was found', async () => {
  const disk = new SimulatedDisk();
  for (let run = 0; run < 5; run++) {
    const { log, found } = await reopen(testDeps(disk, run), { segmentBytes: 512 });
    expect(found).toHaveLength(run * 10);
    await Promise.all(numbered(10, run * 10).map((text) => log.append(bytes(text))));
    await log[Symbol.asyncDispose]();
  }
  const { found, report } = await read(disk);
  expect(found.map(({ text }) => text)).toEqual(numbered(50));
  expect(found.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 50 }, (_, i) => i + 1));
  expect(report.damages).toEqual([]);
});

test('a spare that an earlier run had prepared is used, one of another size is not', async () => {
  const disk = new SimulatedDisk();
  const first = await reopen(testDeps(disk, 1));
  await first.log.append(bytes('one'));
  await settle();
  await first.log[Symbol.asyncDispose]();
  expect((await read(disk)).report.end.unused).toEqual([{ segment: 2, sizeBytes: 1024 }]);

  const second = await reopen(testDeps(disk, 2));
  const zeroed: number[] = [];
  disk.onOperation = ({ kind, path, phase }) => {
    if (kind === 'open' && phase === 'after' && path.endsWith('2.log')) zeroed.push(1);
  };
  await second.log.append(bytes('two'));
  expect(zeroed).toEqual([]);
  await settle();
  await second.log[Symbol.asyncDispose]();

  const third = await reopen(testDeps(disk, 3), { segmentBytes: 2048 });
  await third.log.append(bytes('three'));
  await third.log[Symbol.asyncDispose]();
  const { texts, report } = await read(disk);
  expect(texts).toEqual(['one', 'two', 'three']);
  expect(report.damages).toEqual([]);
});

test('segments before a place are removed, never the one in use, and a replay from there reads the rest', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { segmentBytes: 256 });
  await Promise.all(numbered(20).map((text) => log.append(bytes(text))));
  const place = await log.rotate();
  await Promise.all(numbered(5, 20).map((text) => log.append(bytes(text))));
  expect((await read(disk, place)).texts).toEqual(numbered(5, 20));
  expect(await log.removeBefore(place.segment)).toBeGreaterThan(5);
  expect(await log.removeBefore(place.segment)).toBe(0);
  expect((await read(disk)).texts).toEqual(numbered(5, 20));
  await log.removeBefore(Number.MAX_SAFE_INTEGER);
  await log.append(bytes('still there'));
  await log[Symbol.asyncDispose]();
  expect((await read(disk)).texts).toContain('still there');
});

test('rotate without records leaves the segment; a place with nothing behind it is carried on from', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk));
  expect(await log.rotate()).toEqual({ segment: 1, sequence: 1 });
  await log.append(bytes('a'));
  const place = await log.rotate();
  expect(place).toEqual({ segment: 2, sequence: 2 });
  expect(await log.rotate()).toEqual(place);
  await log.removeBefore(place.segment);
  await log[Symbol.asyncDispose]();
  for (const path of disk.files().keys()) await disk.remove(path);
  const again = await reopen(testDeps(disk), {}, place);
  expect(again.report.damages).toEqual([]);
  expect(await again.log.append(bytes('b'))).toBe(2);
  expect(await listSegments(disk, FOLDER)).toContain(2);
  await again.log[Symbol.asyncDispose]();
  expect((await read(disk, place)).texts).toEqual(['b']);
});

test('a place in the middle of a segment gives only the records behind it', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk));
  await log.append(bytes('before'));
  const place = log.position();
  await log.append(bytes('behind'));
  expect((await read(disk, place)).texts).toEqual(['behind']);
  await log[Symbol.asyncDispose]();
  // What is before it is not even read.
  const [path = ''] = disk.files().keys();
  const content = disk.files().get(path) ?? Buffer.alloc(0);
  content.writeUInt8(content.readUInt8((place.offset ?? 0) - 10) ^ 1, (place.offset ?? 0) - 10);
  disk.plant(path, content);
  expect((await read(disk)).report.damages).toHaveLength(1);
  const { texts, report } = await read(disk, place);
  expect([texts, report.damages]).toEqual([['behind'], []]);
});

test('a record that fills a segment is taken, a larger one is refused', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { segmentBytes: 1024 });
  await log.append(bytes('small'));
  await log.append(Buffer.alloc(log.maxPayloadBytes, 'x'));
  await expect(log.append(Buffer.alloc(log.maxPayloadBytes + 1))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  await log[Symbol.asyncDispose]();
  expect((await read(disk)).texts.map((text) => text.length)).toEqual([5, log.maxPayloadBytes]);
});

test('more than may wait is refused as busy, and taken when there is room again', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { segmentBytes: 64 * 1024, maxWaitingBytes: 500 });
  const results = await Promise.allSettled(numbered(20).map((text) => log.append(bytes(text))));
  const refused = results.filter(({ status }) => status === 'rejected');
  expect(refused.length).toBeGreaterThan(5);
  for (const one of refused) expect(one).toMatchObject({ reason: { code: 'COMMIT_LOG_BUSY' } });
  await log.append(bytes('later'));
  await log[Symbol.asyncDispose]();
  expect((await read(disk)).texts).toHaveLength(21 - refused.length);
});

test('a full disk refuses appends, keeps what was acknowledged, and passes by itself', async () => {
  for (const mode of ['sync', 'behind'] as const) {
    for (let seed = 0; seed < 8; seed++) {
      const disk = new SimulatedDisk({ seed, capacityBytes: 3000 });
      const deps = testDeps(disk, seed);
      const { log } = await reopen(deps, { mode });
      const acknowledged: string[] = [];
      const codes = new Set<unknown>();
      for (const text of numbered(120)) {
        await log.append(bytes(text)).then(
          () => acknowledged.push(text),
          (error: { code: unknown }) => codes.add(error.code),
        );
        await settle();
      }
      expect(acknowledged.length).toBeGreaterThan(20);
      expect(acknowledged.length).toBeLessThan(120);
      expect([...codes]).toEqual(['COMMIT_LOG_FULL']);
      expect(log.status().state).toBe('full');
      expect(log.status().reason).toMatch(/no room|are needed/);
      expect((await read(disk)).texts).toEqual(acknowledged);
      // Trying again without room changes nothing.
      deps.clock.wakeAll();
      await settle();
      await expect(log.append(bytes('x'.repeat(500)))).rejects.toMatchObject({ code: 'COMMIT_LOG_FULL' });

      disk.capacityBytes = 100_000;
      deps.clock.wakeAll();
      await settle();
      for (const text of numbered(20, 1000)) {
        await log.append(bytes(text));
        acknowledged.push(text);
      }
      expect(log.status().state).toBe('writing');
      expect(deps.messages).toContain('the commit log has room again');
      await log[Symbol.asyncDispose]();
      const { texts, report } = await read(disk);
      expect(texts).toEqual(acknowledged);
      expect(report.damages.filter(({ kind }) => kind !== 'torn')).toEqual([]);
    }
  }
});

test('a log opens on a full disk, and writes as soon as there is room', async () => {
  const disk = new SimulatedDisk({ capacityBytes: 0 });
  const deps = testDeps(disk);
  const { log } = await reopen(deps);
  await expect(log.append(bytes('a'))).rejects.toMatchObject({ code: 'COMMIT_LOG_FULL' });
  disk.capacityBytes = 10_000;
  deps.clock.wakeAll();
  await settle();
  await log.append(bytes('b'));
  await log[Symbol.asyncDispose]();
  expect((await read(disk)).texts).toEqual(['b']);
});

test('what was refused for lack of space does not come back, though a part of it was written', async () => {
  const disk = new SimulatedDisk({ capacityBytes: 400 });
  disk.shortWrites = false;
  const { log } = await reopen(testDeps(disk));
  await log.append(bytes('kept'));
  const results = await Promise.allSettled(numbered(10).map((text) => log.append(bytes(text))));
  expect(results.every(({ status }) => status === 'rejected')).toBe(true);
  expect(log.status().state).toBe('full');
  expect((await read(disk)).texts).toEqual(['kept']);
  await log.append(bytes('fits'));
  expect((await read(disk)).texts).toEqual(['kept', 'fits']);
  await log[Symbol.asyncDispose]();
});

test('space that is to be kept for others is kept', async () => {
  const disk = new SimulatedDisk({ capacityBytes: 5000 });
  const { log } = await reopen(testDeps(disk), { keepFreeBytes: 2500 });
  let accepted = 0;
  for (const text of numbered(100)) {
    await log.append(bytes(text)).then(
      () => accepted++,
      () => {},
    );
    await settle();
  }
  expect(accepted).toBeGreaterThan(20);
  expect(await disk.freeBytes()).toBeGreaterThanOrEqual(2500);
  await log[Symbol.asyncDispose]();
});

test('after a failed sync the log takes nothing more, and says from where on it is uncertain', async () => {
  for (const mode of ['sync', 'behind'] as const) {
    const disk = new SimulatedDisk();
    const deps = testDeps(disk);
    const { log } = await reopen(deps, { mode });
    await log.append(bytes('safe'));
    await log.flush();
    disk.fault = ({ kind, path }) => (kind === 'datasync' && path.endsWith('1.log') ? 'EIO' : undefined);
    const outcome = log.append(bytes('uncertain'));
    if (mode === 'sync') {
      await expect(outcome).rejects.toMatchObject({
        code: 'COMMIT_LOG_POISONED',
        message: expect.stringContaining('sequence 2') as string,
      });
    } else {
      await outcome;
      await expect(log.flush()).rejects.toMatchObject({ code: 'COMMIT_LOG_POISONED' });
    }
    // The disk says that all is well again. It is not.
    disk.fault = undefined;
    await expect(log.append(bytes('later'))).rejects.toMatchObject({ code: 'COMMIT_LOG_POISONED' });
    await expect(log.flush()).rejects.toMatchObject({ code: 'COMMIT_LOG_POISONED' });
    await expect(log.rotate()).rejects.toMatchObject({ code: 'COMMIT_LOG_POISONED' });
    expect(log.status().state).toBe('poisoned');
    expect(log.status().durableSequence).toBe(2);
    expect(deps.messages).toContain('the commit log takes no more writes');
    await log[Symbol.asyncDispose]();
    for (let seed = 0; seed < 20; seed++) {
      const after = await reopen(testDeps(disk.powerLoss(seed), seed));
      expect(after.found[0]?.text).toBe('safe');
      expect(after.found.every(({ text }) => text === 'safe' || text === 'uncertain')).toBe(true);
      await after.log.append(bytes('goes on'));
      await after.log[Symbol.asyncDispose]();
    }
  }
});

test('a failed background sync poisons the log without anybody asking', async () => {
  const disk = new SimulatedDisk();
  const deps = testDeps(disk);
  const { log } = await reopen(deps, { mode: 'behind' });
  await log.append(bytes('a'));
  disk.fault = ({ kind }) => (kind === 'datasync' ? 'EIO' : undefined);
  deps.clock.wakeAll();
  await settle();
  expect(log.status().state).toBe('poisoned');
  await log[Symbol.asyncDispose]();
});

test('a write that fails for another reason than space poisons the log', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk));
  await log.append(bytes('a'));
  disk.fault = ({ kind, path }) => (kind === 'write' && path.endsWith('1.log') ? 'EIO' : undefined);
  const [one, two] = await Promise.allSettled([log.append(bytes('b')), log.append(bytes('c'))]);
  expect(one).toMatchObject({ reason: { code: 'COMMIT_LOG_POISONED' } });
  expect(two).toMatchObject({ reason: { code: 'COMMIT_LOG_POISONED' } });
  await log[Symbol.asyncDispose]();
  expect((await read(disk)).texts).toEqual(['a']);
});

test('trouble with a segment to come is no trouble of the current one', async () => {
  const disk = new SimulatedDisk();
  const deps = testDeps(disk);
  const { log } = await reopen(deps, { segmentBytes: 512 });
  disk.fault = ({ kind, path }) => (kind === 'sync' && path.endsWith('2.log') ? 'EIO' : undefined);
  await log.append(bytes('a'));
  await settle();
  await log.append(bytes('b'));
  expect(log.status().state).toBe('writing');
  expect(deps.messages).toEqual(['the commit log cannot get a new segment']);
  disk.fault = undefined;
  deps.clock.wakeAll();
  await settle();
  for (const text of numbered(20)) await log.append(bytes(text));
  await log[Symbol.asyncDispose]();
  expect((await read(disk)).texts).toEqual(['a', 'b', ...numbered(20)]);
});

test('what was read but not synced by a killed process is durable before the log goes on', async () => {
  const disk = new SimulatedDisk();
  const first = await reopen(testDeps(disk), { mode: 'behind', segmentBytes: 4096 });
  for (const text of numbered(5)) await first.log.append(bytes(text));
  const killed = disk.processCrash(1);
  const second = await reopen(testDeps(killed, 2), { mode: 'behind', segmentBytes: 4096 });
  expect(second.found).toHaveLength(5);
  for (let seed = 0; seed < 50; seed++) {
    expect((await read(killed.powerLoss(seed))).texts).toEqual(numbered(5));
  }
  killed.fault = ({ kind }) => (kind === 'datasync' ? 'EIO' : undefined);
  await expect(reopen(testDeps(killed, 3))).rejects.toMatchObject({ code: 'COMMIT_LOG_POISONED' });
  await first.log[Symbol.asyncDispose]();
});

test('a closed log refuses', async () => {
  const { log } = await reopen(testDeps(new SimulatedDisk()));
  const last = log.append(bytes('a'));
  await log[Symbol.asyncDispose]();
  await log[Symbol.asyncDispose]();
  expect(await last).toBe(1);
  await expect(log.append(bytes('b'))).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(log.status().state).toBe('closed');
});

test('a log does not open behind an end that is not the end any more', async () => {
  const disk = new SimulatedDisk();
  const first = await reopen(testDeps(disk));
  await first.log.append(bytes('a'));
  await settle();
  await first.log[Symbol.asyncDispose]();
  const options = { folder: FOLDER, mode: 'sync', segmentBytes: 1024 } as const;
  await expect(CommitLog.open(testDeps(disk), options, first.report.end)).rejects.toThrow(
    'came after the replay',
  );
  const { report } = await read(disk);
  const second = await CommitLog.open(testDeps(disk, 2), options, report.end);
  disk.fault = ({ path, kind }) => (kind === 'open' && path.endsWith('3.log') ? 'EIO' : undefined);
  await second.append(bytes('b'));
  await second[Symbol.asyncDispose]();
  disk.fault = undefined;
  await expect(CommitLog.open(testDeps(disk), options, report.end)).rejects.toThrow('used after the replay');
  expect((await read(disk)).texts).toEqual(['a', 'b']);
});

test('a missing segment is told, and the others are read', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk), { segmentBytes: 256 });
  await Promise.all(numbered(20).map((text) => log.append(bytes(text))));
  await log[Symbol.asyncDispose]();
  await disk.remove('/log/segment-000000000003.log');
  const { texts, report } = await read(disk);
  expect(texts.length).toBeGreaterThan(14);
  expect(report.damages).toHaveLength(1);
  const [damage] = report.damages;
  expect(damage && logDamageError(damage).message).toBe(
    '/log/segment-000000000003.log is missing between other segments',
  );
});

test('a replay ends when it is told to, and passes on what its visitor throws', async () => {
  const disk = new SimulatedDisk();
  const { log } = await reopen(testDeps(disk));
  await log.append(bytes('a'));
  await log[Symbol.asyncDispose]();
  const signal = AbortSignal.abort(new Error('enough'));
  await expect(replayCommitLog({ fs: disk }, { folder: FOLDER, signal }, () => {})).rejects.toThrow('enough');
  const visitor = async (): Promise<void> => Promise.reject(new Error('no room'));
  await expect(replayCommitLog({ fs: disk }, { folder: FOLDER }, visitor)).rejects.toThrow('no room');
});

test('on a real disk, with appends at the same time, all come back in order', async () => {
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}log-`));
  try {
    const fs = new NodeFileSystem();
    const end = { segment: 0, sequence: 0, open: [], unused: [] };
    const deps = { ...testDeps(fs), clock: systemClock };
    for (const mode of ['sync', 'behind'] as const) {
      const options = { folder: join(folder, mode), mode, segmentBytes: 64 * 1024, syncDelayMs: 5 };
      const log = await CommitLog.open(deps, options, end);
      for (let round = 0; round < 10; round++) {
        await Promise.all(numbered(200, round * 200).map((text) => log.append(bytes(text))));
      }
      await log[Symbol.asyncDispose]();
      const texts: string[] = [];
      const report = await replayCommitLog(deps, options, ({ payload }) => void texts.push(String(payload)));
      expect(texts).toEqual(numbered(2000));
      expect(report.damages).toEqual([]);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('at no instant is the place of the next append behind where that append goes', async () => {
  for (let seed = 0; seed < seedCount(20); seed++) {
    const disk = new SimulatedDisk({ seed });
    const { log } = await reopen(testDeps(disk, seed), { segmentBytes: 512 });
    const places: LogPosition[] = [];
    disk.onOperation = () => void places.push(log.position());
    const append = (i: number): Promise<number> => log.append(Buffer.from(`record ${i} ${'.'.repeat(60)}`));
    for (let i = 0; i < 20; i++)
      await Promise.all([append(2 * i), append(2 * i + 1), i % 3 === 0 && log.rotate()]);
    disk.onOperation = undefined;
    await log[Symbol.asyncDispose]();
    const records: LogPosition[] = [];
    await replayCommitLog({ fs: disk }, { folder: FOLDER }, (record) => void records.push(record));
    expect(records).toHaveLength(40);
    for (const place of places) {
      const behind = records.filter(({ sequence }) => sequence >= place.sequence);
      expect(
        behind.filter(({ segment }) => segment < place.segment),
        `seed ${seed}`,
      ).toEqual([]);
      const found: number[] = [];
      const from = { folder: FOLDER, from: place };
      const report = await replayCommitLog({ fs: disk }, from, (record) => void found.push(record.sequence));
      expect(found, `seed ${seed}, from ${JSON.stringify(place)}`).toEqual(
        behind.map(({ sequence }) => sequence),
      );
      expect(report.damages, `seed ${seed}, from ${JSON.stringify(place)}`).toEqual([]);
    }
  }
});
