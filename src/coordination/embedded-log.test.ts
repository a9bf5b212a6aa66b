import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Clock, systemClock } from '../core/clock.ts';
import { Journal } from '../core/journal.ts';
import { silentLog } from './contract.suite.ts';
import { EmbeddedLog, LOG_FILE, type LogRecord } from './embedded-log.ts';
import { EmbeddedStore, type StoreCommand, type StoreSnapshot } from './embedded-store.ts';

// Disks and machines that others use as well may be slow.
vi.setConfig({ testTimeout: 60_000 });

let folder: string;
let path: string;
/** Stands still, so that snapshots are comparable. */
const clock: Clock = { ...systemClock, monotonicMs: () => 0 };
const deps = { clock, log: silentLog };

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-log-'));
  path = join(folder, LOG_FILE);
});
afterEach(() => rm(folder, { recursive: true }));

/** As the server does it. */
function submit(log: EmbeddedLog, command: StoreCommand): Promise<void> {
  expect(log.store.apply(command, 0).changed).toBe(true);
  return log.append(command);
}

const put = (key: string, value: string): StoreCommand => ({
  kind: 'kv',
  operations: [{ verb: 'set', key, value: Buffer.from(value).toString('base64') }],
});

const COMMANDS: StoreCommand[] = [
  {
    kind: 'session-create',
    session: {
      id: 's1',
      name: 'one',
      node: 'n',
      ttl: '10s',
      ttlMs: 10_000,
      lockDelayMs: 5000,
      behavior: 'release',
    },
  },
  { kind: 'kv', operations: [{ verb: 'lock', key: 'lock', session: 's1', value: '' }] },
  put('ä', 'größer'),
  {
    kind: 'service-register',
    service: { id: 'i', name: 'web', tags: ['a'], address: '', port: 1, meta: {}, enableTagOverride: false },
    checks: [],
  },
  { kind: 'session-destroy', id: 's1' },
  { kind: 'kv', operations: [{ verb: 'delete-tree', key: '' }] },
];

async function stateAfter(restart = folder): Promise<StoreSnapshot> {
  await using log = await EmbeddedLog.open(restart, deps);
  return log.store.snapshot(0);
}

describe('the log of the embedded coordinator', () => {
  test('cut at any byte gives back a prefix of the commands, and all that were acknowledged before the cut', async () => {
    const log = await EmbeddedLog.open(folder, deps);
    const acknowledged: { sizeBytes: number; state: StoreSnapshot }[] = [];
    const note = async (): Promise<void> => {
      acknowledged.push({ sizeBytes: (await stat(path)).size, state: log.store.snapshot(0) });
    };
    await note();
    for (const command of COMMANDS) {
      await submit(log, command);
      await note();
    }
    await log[Symbol.asyncDispose]();
    const whole = await readFile(path);
    const [{ sizeBytes: firstBytes } = { sizeBytes: 0 }] = acknowledged;
    for (let size = firstBytes; size <= whole.length; size += 1) {
      await writeFile(path, whole.subarray(0, size));
      const expected = acknowledged.filter(({ sizeBytes }) => sizeBytes <= size).at(-1);
      expect(await stateAfter(), `cut at ${size} of ${whole.length}`).toEqual(expected?.state);
    }
  });

  test('begins empty when a crash cut off its very first record', async () => {
    await stateAfter();
    const whole = await readFile(path);
    await writeFile(path, whole.subarray(0, whole.length - 1));
    expect(await stateAfter()).toEqual(new EmbeddedStore(0).snapshot(0));
  });

  test('gives back the same state after many restarts', async () => {
    const expected = new EmbeddedStore(0);
    for (const command of COMMANDS.slice(0, 5)) {
      expected.apply(command, 0);
      await using log = await EmbeddedLog.open(folder, deps);
      await submit(log, command);
    }
    expect(await stateAfter()).toEqual(expected.snapshot(0));
    expect(await stateAfter()).toEqual(expected.snapshot(0));
  });

  test('is compacted while commands go on, and loses none of them', async () => {
    const log = await EmbeddedLog.open(folder, deps);
    const large = 'x'.repeat(100_000);
    let writtenBytes = 0;
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(Array.from({ length: 12 }, (_, i) => submit(log, put(`k${i}`, `${round} ${large}`))));
      writtenBytes += 12 * large.length * (4 / 3);
    }
    const state = log.store.snapshot(0);
    await log[Symbol.asyncDispose]();
    expect((await stat(path)).size).toBeLessThan(writtenBytes / 2);
    expect(await stateAfter()).toEqual(state);
  });

  test('skips commands that the snapshot before them holds already', async () => {
    const log = await EmbeddedLog.open(folder, deps);
    await submit(log, put('a', '1'));
    const state = log.store.snapshot(0);
    await log[Symbol.asyncDispose]();
    await rewrite(() => [
      { kind: 'snapshot', format: 1, sequence: 1, state },
      { kind: 'command', sequence: 1, command: put('a', '1') },
      { kind: 'command', sequence: 2, command: put('a', '2') },
    ]);
    expect(await stateAfter()).toMatchObject({ index: state.index + 1 });
  });

  test('refuses a file that lacks a command', async () => {
    await rewrite(() => [
      { kind: 'command', sequence: 1, command: put('a', '1') },
      { kind: 'command', sequence: 3, command: put('a', '3') },
    ]);
    await expect(EmbeddedLog.open(folder, deps)).rejects.toMatchObject({
      code: 'JOURNAL_DAMAGED',
      message: `${path} lacks command 2`,
    });
  });

  test('refuses a file of a format that it does not know', async () => {
    const state = new EmbeddedStore(0).snapshot(0);
    await rewrite(() => [{ kind: 'snapshot', format: 2, sequence: 0, state }]);
    await expect(EmbeddedLog.open(folder, deps)).rejects.toMatchObject({
      code: 'JOURNAL_DAMAGED',
      message: expect.stringContaining('format 2') as string,
    });
  });
});

async function rewrite(records: () => LogRecord[]): Promise<void> {
  await using journal = await Journal.open<LogRecord>(path);
  await journal.compact(records);
}
