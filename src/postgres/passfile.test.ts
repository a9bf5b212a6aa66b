import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findPassword, writePassfileEntry } from './passfile.ts';

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-passfile-'));
  path = join(folder, 'pass');
});
afterEach(() => rm(folder, { recursive: true }));

const key = { host: 'dn1', port: 5432, database: 'metrics', user: 'alice' };

describe('findPassword', () => {
  it.each([
    ['an exact line', 'dn1:5432:metrics:alice:secret', 'secret'],
    ['wildcards', '*:*:*:*:secret', 'secret'],
    ['the first of two that match', '*:*:*:alice:first\ndn1:5432:metrics:alice:second', 'first'],
    ['past comments and empty lines', '# dn1:5432:metrics:alice:no\n\ndn1:*:*:*:yes', 'yes'],
    ['past short lines', 'dn1:5432:metrics\ndn1:*:*:*:yes', 'yes'],
    ['with escapes in the password', String.raw`*:*:*:*:a\:b\\c`, String.raw`a:b\c`],
    ['with a bare colon in the password', '*:*:*:*:a:b', 'a:b'],
    ['with a carriage return', '*:*:*:*:secret\r\n', 'secret'],
    ['not of another user', 'dn1:5432:metrics:bob:secret', undefined],
    ['not of another port', 'dn1:5433:metrics:alice:secret', undefined],
    ['not by an escaped star', String.raw`dn1:\*:metrics:alice:secret`, undefined],
    ['not when nothing matches', '', undefined],
  ])('takes %s', async (_what, text, password) => {
    await writeFile(path, text, { mode: 0o600 });
    expect(await findPassword(path, key)).toBe(password);
  });

  it.each([
    ['localhost:5432:metrics:alice:secret', 'secret'],
    ['/run/pg:5432:metrics:alice:secret', 'secret'],
    ['127.0.0.1:5432:metrics:alice:secret', undefined],
  ])('for a unix socket has %j as %j', async (text, password) => {
    await writeFile(path, text, { mode: 0o600 });
    expect(await findPassword(path, { ...key, host: '/run/pg' })).toBe(password);
  });

  it('matches an IPv6 host that is escaped', async () => {
    await writeFile(path, String.raw`\:\:1:*:*:*:secret`, { mode: 0o600 });
    expect(await findPassword(path, { ...key, host: '::1' })).toBe('secret');
  });

  it('finds nothing where there is no file', async () => {
    expect(await findPassword(path, key)).toBeUndefined();
  });

  it.each([0o640, 0o604, 0o644])('refuses a file of mode %o, and names the remedy', async (mode) => {
    await writeFile(path, '*:*:*:*:secret');
    await chmod(path, mode);
    await expect(findPassword(path, key)).rejects.toMatchObject({
      code: 'PASSFILE_INVALID',
      hint: expect.stringContaining('chmod 0600') as string,
    });
  });

  it('refuses a folder', async () => {
    await expect(findPassword(folder, key)).rejects.toMatchObject({ code: 'PASSFILE_INVALID' });
  });
});

describe('writePassfileEntry', () => {
  it('makes the file 0600 and what it wrote is found again, whatever it holds', async () => {
    const odd = { host: '::1', port: 1, database: 'a:b\\', user: '*x' };
    await writePassfileEntry(path, odd, ':\\:');
    expect(await findPassword(path, odd)).toBe(':\\:');
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  it('replaces its own line and leaves the others', async () => {
    await writeFile(path, '# mine\n*:*:*:*:general\ndn1:5432:metrics:alice:old\n', { mode: 0o600 });
    await writePassfileEntry(path, key, 'new');
    expect(await readFile(path, 'utf8')).toBe('# mine\n*:*:*:*:general\ndn1:5432:metrics:alice:new\n');
  });

  it('puts a new line before a general one that would hide it', async () => {
    await writeFile(path, '*:*:*:*:general\n', { mode: 0o600 });
    await writePassfileEntry(path, key, 'special');
    expect(await findPassword(path, key)).toBe('special');
  });

  it('loses none of many writes at once', async () => {
    const users = Array.from({ length: 20 }, (_, i) => `u${i}`);
    await Promise.all(users.map((user) => writePassfileEntry(path, { ...key, user }, `p-${user}`)));
    for (const user of users) expect(await findPassword(path, { ...key, user })).toBe(`p-${user}`);
  });

  it('refuses a line break', async () => {
    await expect(writePassfileEntry(path, key, 'a\nb')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});
