import { describe, expect, test } from 'vitest';
import { ARGUMENTS, COMMANDS, type Command } from '../config/commands.ts';
import { flagOf, optionsOf } from '../config/options.ts';
import { VarveError } from '../core/errors.ts';
import { errorText } from './error-text.ts';
import { ExitCode, exitCodeOf } from './exit-codes.ts';
import { commandLine } from './main.ts';

type Call = [name: string, flags: Readonly<Record<string, unknown>>, given: readonly string[]];

async function parse(...args: string[]): Promise<Call> {
  let call: Call | undefined;
  const program = commandLine((...each) => {
    call = each;
    return Promise.resolve();
  });
  for (const command of [
    program,
    ...program.commands,
    ...program.commands.flatMap(({ commands }) => commands),
  ])
    command.configureOutput({ writeErr: () => {}, writeOut: () => {} });
  await program.parseAsync(args, { from: 'user' });
  if (!call) throw new Error('no command was run');
  return call;
}

describe('the command line', () => {
  test('has a flag for every option of every command', async () => {
    for (const command of Object.keys(COMMANDS) as Command[]) {
      const given = (ARGUMENTS[command] ?? []).some((argument) => argument.startsWith('<')) ? ['list'] : [];
      for (const [name, spec] of optionsOf(command)) {
        const isFlag = spec.kind.placeholder === '';
        const flag = spec.default === true ? flagOf(name).replace('--', '--no-') : flagOf(name);
        const [called, flags] = await parse(
          ...command.split(' '),
          ...given,
          flag,
          ...(isFlag ? [] : ['value']),
        );
        expect([called, flags]).toEqual([command, { [name]: isFlag ? spec.default !== true : 'value' }]);
      }
    }
  });

  test('gives only what was said, so that other sources count', async () => {
    expect(await parse('up')).toEqual(['up', {}, []]);
    expect(await parse('up', '--port-base', '7000', '--no-metrics')).toEqual([
      'up',
      { portBase: '7000', metrics: false },
      [],
    ]);
    expect(await parse('sql', '-c', 'select 1')).toEqual(['sql', { command: 'select 1' }, []]);
  });

  test('passes on what stands behind a command', async () => {
    expect(await parse('data-node', 'add', 'dn1', 'host', '--port', '5')).toEqual([
      'data-node',
      { port: '5' },
      ['add', 'dn1', 'host'],
    ]);
  });

  test('knows the actions of a group, each with its own flags', async () => {
    expect(await parse('storage', 'export', '--match', 'up')).toEqual([
      'storage export',
      { match: 'up' },
      [],
    ]);
    const flagsOf = (action: string): string[] =>
      commandLine(() => Promise.resolve(), 'storage')
        .commands.find((command) => command.name() === 'storage')
        ?.commands.find((command) => command.name() === action)
        ?.options.map(({ long }) => long ?? '') ?? [];
    expect(flagsOf('verify').sort()).toEqual(['--config', '--dir', '--json', '--node']);
    expect(flagsOf('serve')).not.toContain('--match');
    expect(flagsOf('inspect')).not.toContain('--memory-mb');
    await expect(parse('storage', 'verify', '--memory-mb', '5')).rejects.toThrow(
      "unknown option '--memory-mb'",
    );
    await expect(parse('storage', 'verfy')).rejects.toThrow("unknown command 'verfy'");
  });

  test.each([
    [['up', '--foo']],
    [['storage']],
    [['up', 'surplus']],
    [['nonsense']],
    [['data-node']],
    [['up', '--dir']],
  ])('refuses %j', async (args) => {
    await expect(parse(...args)).rejects.toThrow();
  });
});

const systemError = (code: string): Error =>
  Object.assign(new Error(`${code}: open '/x'`), { code, syscall: 'open' });

describe('an error is shown', () => {
  test('with message, detail, hint and code, without a stack', () => {
    const error = new VarveError('PORT_IN_USE', 'port 1 is in use', {
      detail: 'a\nb',
      hint: 'Choose another.',
    });
    expect(errorText(error).split('\n')).toEqual([
      'varve: port 1 is in use',
      '  a',
      '  b',
      'hint: Choose another.',
      '(PORT_IN_USE; see docs/errors.md)',
    ]);
  });

  test('of the operating system with a hint, without a stack', () => {
    expect(errorText(systemError('EACCES'))).toBe(
      "varve: EACCES: open '/x'\nhint: Run it as the user to whom this belongs, or choose another folder with --dir.",
    );
    expect(errorText(systemError('EWHATEVER'))).toBe("varve: EWHATEVER: open '/x'");
  });

  test('that is a bug with its stack', () => {
    expect(errorText(new TypeError('x is undefined'))).toMatch(
      /bug in Varve\nTypeError: x is undefined\n +at /,
    );
  });

  test.each([
    ['configuration', new VarveError('CONFIG_INVALID', 'x'), ExitCode.usage],
    ['an operating error', new VarveError('PORT_IN_USE', 'x'), ExitCode.failed],
    ['the operating system', systemError('ENOSPC'), ExitCode.failed],
    ['a bug', new TypeError('x'), ExitCode.bug],
  ])('and makes the exit code: %s', (_, error, code) => {
    expect(exitCodeOf(error)).toBe(code);
  });
});
