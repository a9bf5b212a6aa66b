import { fileURLToPath } from 'node:url';
import { Command, CommanderError, Option } from 'commander';
import { ARGUMENTS, COMMANDS, GROUPS, type Command as CommandName } from '../config/commands.ts';
import type { OptionSpec } from '../config/option.ts';
import { defaultTextOf, environmentNameOf, flagOf, optionsOf, type OptionName } from '../config/options.ts';
import type { CliContext, Flags } from './context.ts';
import { errorText } from './error-text.ts';
import { ExitCode, exitCodeOf } from './exit-codes.ts';

type Run = (context: CliContext, flags: Flags, given: readonly string[]) => Promise<number>;

/** Loaded when they are needed: `varve --help` need not read everything. */
const RUNS: Readonly<Record<CommandName, () => Promise<Run>>> = {
  up: async () => (await import('./up-command.ts')).up,
  node: async () => (await import('./node-command.ts')).node,
  status: async () => (await import('./status-command.ts')).status,
  plan: async () => (await import('./plan-command.ts')).plan,
  sql: async () => (await import('./sql-command.ts')).sql,
  'data-node': async () => (await import('./data-node-command.ts')).dataNode,
  cluster: async () => (await import('./cluster-command.ts')).cluster,
  'storage serve': async () => (await import('./storage-command.ts')).serve,
  'storage inspect': async () => (await import('./storage-command.ts')).inspect,
  'storage verify': async () => (await import('./storage-command.ts')).verify,
  'storage export': async () => (await import('./storage-command.ts')).exportSamples,
  namespace: async () => (await import('./namespace-command.ts')).namespace,
  placement: async () => (await import('./placement-command.ts')).placement,
  bootstrap: async () => (await import('./bootstrap-command.ts')).bootstrap,
  backup: async () => (await import('./backup-command.ts')).backup,
  restore: async () => (await import('./restore-command.ts')).restore,
  explain: async () => (await import('./explain-command.ts')).explain,
  doctor: async () => (await import('./doctor-command.ts')).doctor,
};

/** Runs one command line and gives its exit code. Errors are printed; none is thrown. */
export async function main(args: readonly string[]): Promise<number> {
  const context: CliContext = {
    environment: process.env,
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    script: fileURLToPath(
      new URL(`entry${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url),
    ),
  };
  let exitCode: number = ExitCode.ok;
  const program = commandLine(async (name, flags, given) => {
    exitCode = await (await RUNS[name]())(context, flags, given);
  }, args[0]);
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    context.stderr.write(`${errorText(error)}\n`);
    return exitCodeOf(error);
  }
}

/** The commands and their flags, made from the table of options; `only`: no flags but those of this command, if it is one. */
export function commandLine(
  run: (name: CommandName, flags: Flags, given: readonly string[]) => Promise<void>,
  only = '',
): Command {
  const isNamed = Object.hasOwn(COMMANDS, only) || Object.hasOwn(GROUPS, only);
  const program = new Command('varve')
    .description('A distributed time-series database on PostgreSQL whose nodes bring themselves up.')
    .exitOverride()
    .showHelpAfterError('(varve COMMAND --help lists the flags of a command)');
  for (const [name, description] of Object.entries(COMMANDS) as [CommandName, string][]) {
    const [first, second] = name.split(' ') as [string, string?];
    const group = second === undefined ? program : groupOf(program, first as keyof typeof GROUPS);
    const command = group.command(second ?? first).description(description);
    command.exitOverride().allowExcessArguments(false);
    command.action(() => run(name, givenFlags(command), command.args));
    if (isNamed && first !== only) continue;
    for (const [option, spec] of optionsOf(name)) command.addOption(flagOption(option, spec));
    for (const argument of ARGUMENTS[name] ?? []) command.argument(argument);
  }
  return program;
}

/** Made with the first of its commands. */
function groupOf(program: Command, name: keyof typeof GROUPS): Command {
  const known = program.commands.find((command) => command.name() === name);
  return known ?? program.command(name).description(GROUPS[name]).exitOverride();
}

function flagOption(name: OptionName, spec: OptionSpec<unknown>): Option {
  const flag = spec.default === true ? flagOf(name).replace('--', '--no-') : flagOf(name);
  const value = spec.kind.placeholder === '' ? '' : ` <${spec.kind.placeholder}>`;
  const short = spec.short === undefined ? '' : `-${spec.short}, `;
  const fallback = spec.kind.placeholder === '' ? undefined : defaultTextOf(spec);
  const notes = [
    ...(fallback === undefined ? [] : [`default: ${fallback}`]),
    ...(spec.flagOnly ? [] : [environmentNameOf(name)]),
  ];
  const help =
    spec.default === true ? `Do not ${spec.help.charAt(0).toLowerCase()}${spec.help.slice(1)}` : spec.help;
  return new Option(`${short}${flag}${value}`, notes.length > 0 ? `${help} (${notes.join('; ')})` : help);
}

/** Those that stand on the command line. */
function givenFlags(command: Command): Flags {
  return Object.fromEntries(
    Object.entries(command.opts()).filter(([name]) => command.getOptionValueSource(name) === 'cli'),
  );
}
