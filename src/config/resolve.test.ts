import { describe, expect, test } from 'vitest';
import type { VarveError } from '../core/errors.ts';
import { COMMANDS, type Command } from './commands.ts';
import { environmentNameOf, flagOf, OPTIONS, optionsOf, type OptionName } from './options.ts';
import { resolveOptions, suspiciousVariables, type Sources } from './resolve.ts';

const file = (values: object, path = 'varve.json') => ({ path, text: JSON.stringify(values) });

function refusal(command: Command, sources: Sources): VarveError {
  try {
    resolveOptions(command, sources);
  } catch (error) {
    return error as VarveError;
  }
  throw new Error('was not refused');
}

describe('a setting is taken from', () => {
  const all: Sources = {
    flags: { portBase: '7001' },
    environment: { VARVE_PORT_BASE: '7002' },
    file: file({ portBase: 7003 }),
  };
  const without = (...sources: (keyof Sources)[]): Sources =>
    Object.fromEntries(Object.entries(all).filter(([name]) => !sources.includes(name as keyof Sources)));

  test.each([
    ['the flag first', all, 7001],
    ['then the environment', without('flags'), 7002],
    ['then the file', without('flags', 'environment'), 7003],
    ['the default last', without('flags', 'environment', 'file'), undefined],
    [
      'the file when the variable is empty',
      { ...without('flags'), environment: { VARVE_PORT_BASE: '' } },
      7003,
    ],
  ])('%s', (_, sources, expected) => {
    expect(resolveOptions('up', sources).portBase).toBe(expected);
  });
});

test('defaults and the kinds of values arrive as their types', () => {
  const up = resolveOptions('up', {
    flags: { access: '1', metrics: false },
    environment: { VARVE_STOP_TIMEOUT: '2m' },
  });
  expect(up).toMatchObject({
    dir: 'varve-data',
    access: 1,
    metrics: false,
    stopTimeout: 120_000,
    json: false,
  });
  expect(up.data).toBeUndefined();
});

describe('refuses, naming source and rule:', () => {
  test.each<[string, Command, Sources, string, string?]>([
    [
      'a flag',
      'up',
      { flags: { portBase: 'x' } },
      '--port-base must be a whole number from 1024 to 65000, not "x"',
    ],
    [
      'a negative number',
      'up',
      { flags: { data: '-1' } },
      '--data must be a whole number from 0 to 256, not "-1"',
    ],
    [
      'a fraction',
      'up',
      { file: file({ data: 1.5 }) },
      'varve.json: "data" must be a whole number from 0 to 256, not 1.5',
    ],
    [
      'a variable',
      'up',
      { environment: { VARVE_METRICS: 'perhaps' } },
      'environment variable VARVE_METRICS must be true or false, not "perhaps"',
    ],
    [
      'a time without unit',
      'up',
      { file: file({ stopTimeout: 30 }) },
      'varve.json: "stopTimeout" must be a time with its unit, such as 250ms, 5s, 2m or 1h, not 30',
    ],
    [
      'a value outside of a closed set',
      'node',
      { file: file({ kind: 'boss' }) },
      'varve.json: "kind" must be one of access, data, storage, not "boss"',
    ],
    [
      'an unknown key',
      'up',
      { file: file({ portbase: 7000 }) },
      'varve.json: "portbase" is not a setting of varve up',
      'Did you mean "portBase"?',
    ],
    [
      'a key of another command',
      'up',
      { file: file({ pgPort: 7000 }) },
      'varve.json: "pgPort" is not a setting of varve up',
    ],
    [
      'a file that is no object',
      'up',
      { file: { path: 'a.json', text: '[1]' } },
      'a.json must be one JSON object',
    ],
  ])('%s', (_, command, sources, message, hint) => {
    const error = refusal(command, sources);
    expect(error.code).toBe('CONFIG_INVALID');
    expect(error.message).toBe(message);
    if (hint) expect(error.hint).toBe(hint);
  });

  test('a file that is not JSON, without quoting its content', () => {
    const error = refusal('node', {
      file: { path: 'a.json', text: '{"postgres": "postgres://u:secret@h", }' },
    });
    expect(error.message).toMatch(/^a\.json is not valid JSON/);
    expect(`${error.message}${error.detail}${error.hint}`).not.toContain('secret');
  });

  test('a wrong secret value, without showing it', () => {
    const error = refusal('node', { flags: { postgres: 'postgres:/u:secret@h' } });
    expect(error.message).toMatch(/^--postgres must be embedded, system/);
    expect(`${error.message}${error.detail}`).not.toContain('secret');
  });

  test('everything that is wrong at once', () => {
    const error = refusal('up', { flags: { data: 'many' }, file: file({ acess: 1, stopTimeout: '5' }) });
    expect([error.message, error.detail].join('\n').match(/acess|--data|stopTimeout/g)).toHaveLength(3);
  });
});

test('a mistyped variable is pointed out, a foreign one is not', () => {
  expect(
    suspiciousVariables({ VARVE_PORTBASE: '1', VARVE_SERVICE_HOST: 'x', PATH: '/bin', VARVE_DIR: 'd' }),
  ).toEqual(['VARVE_PORTBASE is not a setting; VARVE_PORT_BASE is']);
});

test('every option belongs to a command, and no two share a flag, a variable or a letter in one command', () => {
  for (const command of Object.keys(COMMANDS) as Command[]) {
    const options = optionsOf(command);
    for (const spelled of [
      options.map(([name]) => flagOf(name)),
      options.map(([name]) => environmentNameOf(name)),
      options.flatMap(([, spec]) => spec.short ?? []),
    ]) {
      expect(new Set(spelled).size).toBe(spelled.length);
    }
  }
  for (const name of Object.keys(OPTIONS) as OptionName[])
    expect(OPTIONS[name].commands.length).toBeGreaterThan(0);
});

test('every default obeys its own rule, in the form in which it is documented', () => {
  for (const command of Object.keys(COMMANDS) as Command[]) {
    for (const [name, spec] of optionsOf(command)) {
      if (spec.default === undefined) continue;
      const shown = spec.kind.show?.(spec.default) ?? JSON.stringify(spec.default).replaceAll('"', '');
      expect([name, spec.kind.read(shown)]).toEqual([name, spec.default]);
    }
  }
});
