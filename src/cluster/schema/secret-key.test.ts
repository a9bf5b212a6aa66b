import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { openSecretKey, SecretKey } from './secret-key.ts';

const key = new SecretKey(Buffer.alloc(32, 1));
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}key-`));
});
afterEach(() => rm(folder, { recursive: true }));

test('what is sealed does not show, and opens at its place only', () => {
  const sealed = key.seal('geheim ü', 'role b1');
  expect(sealed).not.toContain('geheim');
  expect(sealed).not.toBe(key.seal('geheim ü', 'role b1'));
  expect(key.unseal(sealed, 'role b1')).toBe('geheim ü');
  expect(() => key.unseal(sealed, 'role b2')).toThrow(/role b2 cannot be unsealed/);
  expect(() => new SecretKey(Buffer.alloc(32, 2)).unseal(sealed, 'role b1')).toThrow(/unsealed/);
});

test.each(['', 'v1.', 'v2.AAAA', 'v1.AAAA', 'v1.!!!!'])('%j is no sealed text', (text) => {
  expect(() => key.unseal(text, 'x')).toThrow(expect.objectContaining({ code: 'SECRET_UNREADABLE' }));
});

test('of many who make the key file at once all get the same key', async () => {
  const path = join(folder, 'key');
  const keys = await Promise.all(Array.from({ length: 8 }, () => openSecretKey(path, { create: true })));
  expect(new Set(keys.map(({ fingerprint }) => fingerprint)).size).toBe(1);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readFile(path, 'utf8')).toMatch(/^[0-9a-f]{64}\n$/);
});

test('a key file that is missing, open or no key is refused', async () => {
  const path = join(folder, 'key');
  const refused = expect.objectContaining({ code: 'SECRET_KEY_INVALID' });
  await expect(openSecretKey(path, { create: false })).rejects.toThrow(refused);
  await writeFile(path, 'ab'.repeat(32), { mode: 0o600 });
  await openSecretKey(path, { create: false });
  await chmod(path, 0o640);
  await expect(openSecretKey(path, { create: false })).rejects.toThrow(refused);
  await chmod(path, 0o600);
  await writeFile(path, 'no key');
  await expect(openSecretKey(path, { create: false })).rejects.toThrow(refused);
});
