import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { readBrokerPassword, readGroupSecrets } from './group-secrets.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}secrets-`));
});
afterEach(() => rm(folder, { recursive: true }));

async function secretFile(name: string, text: string, mode = 0o600): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, `${text}\n`, { mode });
  return path;
}

test('members with one secret have the same secrets, each for one purpose', async () => {
  const one = await readGroupSecrets(await secretFile('one', 'sixteen letters or more'));
  const other = await readGroupSecrets(await secretFile('other', 'sixteen letters or more'));
  const texts = ({ key, ...rest }: typeof one): string[] => [...Object.values(rest), key.fingerprint];
  expect(texts(other)).toEqual(texts(one));
  expect(new Set(texts(one)).size).toBe(texts(one).length);
});

test('the password of the broker is the same on all members, unless a file has another', async () => {
  const secrets = await readGroupSecrets(await secretFile('group', 'sixteen letters or more'));
  const [first, second] = [join(folder, 'first'), join(folder, 'second')];
  expect(await readBrokerPassword(first, secrets)).toBe(await readBrokerPassword(second, secrets));
  expect((await stat(first)).mode & 0o777).toBe(0o600);
  const own = await secretFile('own', 'the password of the operator');
  expect(await readBrokerPassword(own, secrets)).toBe('the password of the operator');
});

test('a secret that others can read, or that is short, is refused', async () => {
  const open = await secretFile('open', 'sixteen letters or more', 0o644);
  await expect(readGroupSecrets(open)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  const short = await secretFile('short', 'fifteen letters');
  await expect(readGroupSecrets(short)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
});
