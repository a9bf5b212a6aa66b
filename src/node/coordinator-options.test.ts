import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { resolveOptions } from '../config/resolve.ts';
import type { VarveError } from '../core/errors.ts';
import { coordinatorOptions } from './coordinator-options.ts';

describe('the coordinator of a node', () => {
  let folder: string;
  const file = (name: string): string => join(folder, name);
  const url = 'http://10.0.0.1:2379';

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}coordinator-`));
    await Promise.all(['token', 'password', 'ca'].map((name) => writeFile(file(name), `the ${name}\n`)));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const read = (flags: object) =>
    coordinatorOptions(resolveOptions('doctor', { flags: { ...flags }, environment: {}, file: undefined }));

  test('there is none unless one is named', () => {
    expect(read({})).toBeUndefined();
  });

  test("Consul's token comes from its file", () => {
    const given = { coordinator: url, coordinatorKind: 'consul', coordinatorTokenFile: file('token') };
    expect(read(given)).toEqual({ kind: 'consul', url, token: 'the token' });
  });

  test("etcd's user, password and authority come from their files", () => {
    const given = {
      coordinator: url,
      coordinatorKind: 'etcd',
      coordinatorUser: 'varve',
      coordinatorPasswordFile: file('password'),
      coordinatorCaFile: file('ca'),
    };
    expect(read(given)).toEqual({
      kind: 'etcd',
      url,
      user: { name: 'varve', password: 'the password' },
      tls: { ca: 'the ca' },
    });
  });

  test.each<[string, object, RegExp]>([
    ['a user without a password', { coordinatorKind: 'etcd', coordinatorUser: 'varve' }, /go together/],
    ['a token for etcd', { coordinatorKind: 'etcd', coordinatorTokenFile: 'token' }, /is for Consul/],
    ['a user for Consul', { coordinatorKind: 'consul', coordinatorUser: 'varve' }, /not users/],
    [
      'a file that is not there',
      { coordinatorKind: 'consul', coordinatorTokenFile: 'missing' },
      /cannot be read/,
    ],
    ['a key without its certificate', { coordinatorKind: 'etcd', coordinatorKeyFile: 'ca' }, /go together/],
  ])('%s is refused', (_what, given, message) => {
    const flags = Object.fromEntries(
      Object.entries(given).map(([name, value]: [string, string]) => [
        name,
        name.endsWith('File') ? file(value) : value,
      ]),
    );
    const failing = (): unknown => read({ coordinator: url, ...flags });
    expect(failing).toThrow(message);
    expect(failing).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as VarveError);
  });
});
