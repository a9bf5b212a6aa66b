import { once } from 'node:events';
import { mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { SampleLedger } from '../../test/sample-ledger.ts';
import { StorageNodes, until, type StorageNode } from '../../test/storage-nodes.ts';
import { start, varve, type CommandResult } from '../../test/system-process.ts';

const SHARDS = 8;
const SERIES = 60;
/** Its blocks are in files soon. */
const SHORT = { blockSize: '2s', bufferPast: '1s', bufferFuture: '1s', retention: '1h' };

let folder: string;
let source: StorageNodes;
let target: StorageNodes;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}backups-`));
  source = await StorageNodes.open('backup-source', { count: 3, shardCount: SHARDS });
  target = await StorageNodes.open('backup-target', { count: 2, shardCount: SHARDS });
  await source.begin(3, 3);
  await target.begin(2, 2);
});

afterAll(async () => {
  await source[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const at = (node: StorageNode, ...args: string[]): string[] => [...args, '--url', node.url];

async function answered<T>(args: readonly string[]): Promise<T> {
  const result: CommandResult = await varve([...args, '--json']);
  if (result.code !== 0) throw new Error(result.stderr);
  return JSON.parse(result.stdout) as T;
}

async function written(ledger: SampleLedger): Promise<void> {
  const timeMs = Date.now();
  const samples = Array.from({ length: SERIES }, (_, i) => ({ series: String(i), timeMs }));
  await ledger.write(source.node(1), samples);
}

interface Created {
  readonly id: string;
  readonly kept: number;
  readonly written: number;
}

test('namespaces of three nodes, one of which is down, are in a new cluster after a restore that was killed', async () => {
  await source.namespace('short', SHORT);
  const ledgers = [new SampleLedger(), new SampleLedger('short')];
  for (const ledger of ledgers) await written(ledger);
  await until('blocks are in files', 30_000, async () => {
    const { namespaces } = await source.node(1).status();
    return namespaces.some(({ name, filesets }) => name === 'short' && filesets > 0);
  });
  const first = await answered<Created>(at(source.node(2), 'backup', 'create', folder));
  await source.node(3).end('SIGKILL');
  for (const ledger of ledgers) await written(ledger);
  const second = await answered<Created>(at(source.node(2), 'backup', 'create', folder));
  // What is in files is there already; open blocks have changed.
  expect(second.kept).toBeGreaterThan(0);
  expect(second.written).toBeGreaterThan(0);
  const listed = await answered<{ backups: { id: string }[] }>(['backup', 'list', folder]);
  expect(listed.backups.map(({ id }) => id)).toEqual([first.id, second.id]);
  const killed = start(at(target.node(1), 'restore', folder, '--yes'));
  await until('the restore has begun', 20_000, async () => {
    const { namespaces } = await target.node(1).status();
    return killed.exitCode !== null || namespaces.some(({ filesets }) => filesets > 0);
  });
  const ended = killed.exitCode === null ? once(killed, 'exit') : undefined;
  killed.kill('SIGKILL');
  await ended;
  if (killed.exitCode === null) {
    const again = await varve(at(target.node(2), 'restore', folder, '--yes'));
    // Of namespaces that were whole by then it says so.
    if (again.code !== 0) expect(again.stderr).toContain('has samples already');
  }
  for (const name of ['default', 'short']) {
    const one = await varve(at(target.node(1), 'restore', folder, '--namespace', name, '--yes'));
    if (one.code !== 0) expect(one.stderr).toContain('RESTORE_TARGET_NOT_EMPTY');
  }
  for (const ledger of ledgers) {
    expect(ledger.size).toBe(2 * SERIES);
    expect(ledger.faults(await target.node(2).exported(ledger.namespace))).toEqual([]);
    for (const node of target.nodes) expect(ledger.faults(await node.held(ledger.namespace))).toEqual([]);
  }
  for (const node of target.nodes) {
    expect((await node.status()).namespaces.map(({ problem }) => problem)).toEqual([null, null]);
  }
  await target.node(1).end('SIGKILL');
  await target.node(1).start();
  for (const ledger of ledgers)
    expect(ledger.faults(await target.node(1).held(ledger.namespace))).toEqual([]);
});

test('of a damaged backup nothing is restored, and the place is named', async () => {
  const [first] = await filesOf(join(folder, 'data', 'short'), '-data.db');
  if (first === undefined) throw new Error('there is no file');
  const file = await open(first, 'r+');
  await file.write(Buffer.from([0xff, 0x00, 0xff]), 0, 3, 40);
  await file.close();
  const verified = await varve(['backup', 'verify', folder]);
  expect([verified.code, verified.stdout]).toEqual([3, expect.stringContaining(first)]);
  const copy = ['--namespace', 'short', '--into', 'copy', '--yes'];
  const restored = await varve(at(target.node(1), 'restore', folder, ...copy));
  expect([restored.code, restored.stderr]).toEqual([
    1,
    expect.stringMatching(/BACKUP_DAMAGED|is damaged at offset/),
  ]);
  expect(restored.stderr).toContain(first);
  const names = (await target.node(1).client.namespaces()).map(({ name }) => name);
  expect(names).toEqual(['default', 'short']);
  const asked = await varve(
    at(target.node(1), 'restore', folder, '--namespace', 'default', '--into', 'copy'),
  );
  expect([asked.code, asked.stderr]).toEqual([
    2,
    expect.stringContaining('into the new namespace copy on s1, s2'),
  ]);
  const pruned = await varve(['backup', 'prune', folder, '--keep', '1']);
  expect([pruned.code, pruned.stdout]).toEqual([0, expect.stringContaining('forgotten: ')]);
});

test('a namespace that is half restored is said to be so, also after a restart', async () => {
  const node = target.node(1);
  await target.namespace('half', {});
  const body = JSON.stringify({ namespace: 'half', backup: 'B', version: '0' });
  const begun = await fetch(`${node.url}/restore/v1/begin`, { method: 'POST', body });
  expect(begun.status).toBe(200);
  const problem = async (): Promise<string | null | undefined> =>
    (await node.status()).namespaces.find(({ name }) => name === 'half')?.problem;
  expect(await problem()).toBe('is being restored from backup B');
  await node.end('SIGKILL');
  await node.start();
  expect(await problem()).toBe('is being restored from backup B');
  const end = await fetch(`${node.url}/restore/v1/end`, { method: 'POST', body });
  expect([end.status, await problem()]).toEqual([200, null]);
  const again = await fetch(`${node.url}/restore/v1/end`, { method: 'POST', body });
  expect([again.status, await again.json()]).toEqual([
    409,
    expect.objectContaining({ code: 'RESTORE_REFUSED' }),
  ]);
});

async function filesOf(path: string, suffix: string): Promise<string[]> {
  const entries = await readdir(path, { recursive: true });
  return entries
    .filter((name) => name.endsWith(suffix))
    .map((name) => join(path, name))
    .sort();
}
