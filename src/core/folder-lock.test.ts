import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from './clock.ts';
import { lockFolder, lockHolder, waitForRelease } from './folder-lock.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-lock-'));
});

afterEach(() => rm(folder, { recursive: true }));

/** Another process that holds the folder until it is killed. */
async function otherHolder() {
  const script = `import { lockFolder } from ${JSON.stringify(new URL('folder-lock.ts', import.meta.url).href)};
    await lockFolder(${JSON.stringify(folder)});
    process.on('SIGTERM', () => {});
    console.log('held');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
  });
  await once(child.stdout, 'data');
  return child;
}

test('a second lock is refused and names the holder, until the first is given back', async () => {
  const lock = await lockFolder(folder);
  await expect(lockFolder(folder)).rejects.toMatchObject({
    code: 'FOLDER_IN_USE',
    message: `${folder} is in use by process ${process.pid}`,
  });
  expect(await lockHolder(folder)).toBe(process.pid);
  await lock[Symbol.asyncDispose]();
  expect(await lockHolder(folder)).toBeUndefined();
  await (await lockFolder(folder))[Symbol.asyncDispose]();
});

test('a folder has one lock under all of its names', async () => {
  await using _lock = await lockFolder(folder);
  await expect(lockFolder(join(folder, '.', 'x', '..'))).rejects.toMatchObject({ code: 'FOLDER_IN_USE' });
});

test('a folder that does not exist is made for the owner alone, and has no holder before', async () => {
  const inner = join(folder, 'a', 'b');
  expect(await lockHolder(inner)).toBeUndefined();
  await using _lock = await lockFolder(inner);
  expect(await lockHolder(inner)).toBe(process.pid);
});

test('the lock of a process that was killed is free at once', async () => {
  const child = await otherHolder();
  await expect(lockFolder(folder)).rejects.toMatchObject({
    message: `${folder} is in use by process ${child.pid}`,
  });
  child.kill('SIGKILL');
  await once(child, 'exit');
  await using _lock = await lockFolder(folder);
});

test('a holder that does not end when told is ended by force', async () => {
  const child = await otherHolder();
  const exit = once(child, 'exit');
  const waited = await waitForRelease(systemClock, folder, {
    politeMs: 50,
    forceMs: 150,
    signal: new AbortController().signal,
  });
  expect(waited).toBe(child.pid);
  expect((await exit)[1]).toBe('SIGKILL');
});
