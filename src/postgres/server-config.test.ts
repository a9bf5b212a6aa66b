import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { localeArguments } from './init-database.ts';
import { parsePidFile } from './postmaster.ts';
import {
  configChange,
  configuredPort,
  DEFAULT_HBA,
  parseSettings,
  settingsText,
  writeConfig,
} from './server-config.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-config-'));
  await writeFile(join(folder, 'postgresql.conf'), "# initdb's\nport = 5432\n");
});
afterEach(() => rm(folder, { recursive: true }));

describe('settings', () => {
  it('are read as they were written, whatever they hold', () => {
    const name = fc.stringMatching(/^[a-z_][a-z0-9_.]*$/);
    const value = fc.string().filter((text) => !/[\0\r\n]/.test(text));
    fc.assert(
      fc.property(fc.dictionary(name, value, { noNullPrototype: true }), (settings) => {
        expect(parseSettings(settingsText(settings))).toEqual(settings);
      }),
    );
  });

  it.each([
    ['a line break in a value', { port: "1'\nfsync = 'off" }],
    ['a name that is none', { "port = '1'\nx": '1' }],
    ['an empty name', { '': '1' }],
  ])('with %s are refused', (_what, settings) => {
    expect(() => settingsText(settings)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});

describe('the configuration', () => {
  const wanted = { settings: { port: '20001', work_mem: '8MB' }, hba: DEFAULT_HBA, ident: [] };

  it('is all new in a fresh data folder, and unchanged once it is written', async () => {
    expect(await configChange(folder, wanted)).toEqual({ settings: ['port', 'work_mem'], access: true });
    await writeConfig(folder, wanted, undefined);
    expect(await configChange(folder, wanted)).toEqual({ settings: [], access: false });
    expect(await configuredPort(folder)).toBe(20_001);
  });

  it('names what is added, changed and removed', async () => {
    await writeConfig(folder, wanted, undefined);
    const next = {
      settings: { port: '20001', work_mem: '9MB', fsync: 'off' },
      hba: ['local all all reject'],
      ident: [],
    };
    expect(await configChange(folder, next)).toEqual({ settings: ['fsync', 'work_mem'], access: true });
    expect(await configChange(folder, { ...wanted, settings: { port: '20001' } })).toEqual({
      settings: ['work_mem'],
      access: false,
    });
  });

  it('is included once, after what initdb wrote, and closed to others', async () => {
    await writeConfig(folder, wanted, undefined);
    await writeConfig(folder, wanted, undefined);
    const text = await readFile(join(folder, 'postgresql.conf'), 'utf8');
    expect(text).toBe("# initdb's\nport = 5432\n\ninclude 'varve.conf'\n");
    for (const name of ['varve.conf', 'pg_hba.conf']) {
      expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
    }
  });

  it('is written again when somebody took the include out', async () => {
    await writeConfig(folder, wanted, undefined);
    await writeFile(join(folder, 'postgresql.conf'), '');
    expect((await configChange(folder, wanted)).settings).toEqual(['port', 'work_mem']);
  });
});

describe('postmaster.pid', () => {
  const lines = ['4711', '/data', '1700000000', '20001', '/socket', '127.0.0.1', '  123 456', 'ready   '];
  it.each([
    ['a whole one', lines, { pid: 4711, startedAt: 1_700_000_000, port: 20_001, status: 'ready' }],
    ['one of a server that starts', lines.with(7, 'starting'), { status: 'starting' }],
    ['one that is half written', lines.slice(0, 2), { pid: 4711, port: 0, status: '' }],
    ['one of a standalone backend', lines.with(0, '-4711'), undefined],
    ['an empty one', [], undefined],
    ['garbage', ['x', 'y'], undefined],
  ])('%s', (_what, text, found) => {
    if (found === undefined) expect(parsePidFile(text.join('\n'))).toBeUndefined();
    else expect(parsePidFile(text.join('\n'))).toMatchObject(found);
  });
});

describe('initdb’s locale', () => {
  it.each([
    [16, { locale: 'de_DE.UTF-8' }, ['--locale-provider=libc', '--locale=de_DE.UTF-8']],
    [17, { localeProvider: 'builtin' as const }, ['--locale-provider=builtin', '--builtin-locale=C.UTF-8']],
    [16, { localeProvider: 'icu' as const, locale: 'und' }, ['--locale-provider=icu', '--icu-locale=und']],
    [15, { encoding: 'SQL_ASCII', locale: 'C' }, ['--encoding=SQL_ASCII', '--locale=C']],
  ])('of %i with %j has %j', (major, options, expected) => {
    expect(localeArguments(major, options)).toEqual(expect.arrayContaining(expected));
  });
});
