import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { MEMORY_FLAGS } from '../src/node/node-process.ts';

const root = fileURLToPath(new URL('../', import.meta.url));

async function node(...args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root });
  return stdout.trim();
}

/** Undefined without a cache, false when V8 took it, true when it did not. */
const isRejected = "require('./dist/bundle/load.js').load().script.cachedDataRejected";

test.each([{ flags: [] }, { flags: MEMORY_FLAGS }])(
  'a process under the flags $flags takes what V8 has compiled before',
  async ({ flags }) => {
    await node('bin/prepare.js');
    expect(await node(...flags, '--print', isRejected)).toBe('false');
  },
);

test('under flags of which nobody knew the bundle is compiled as it is loaded', async () => {
  await node('bin/prepare.js');
  expect(await node('--stack-size=900', '--print', isRejected)).toBe('undefined');
});

test('what the bundle says is not garbled: it is read as one byte a character', async () => {
  await node('bin/prepare.js');
  const beyondAscii = String.raw`/[^\0-\x7f]/.test(require('fs').readFileSync('dist/bundle/program.js', 'utf8'))`;
  expect(await node('--print', beyondAscii)).toBe('false');
});
