import { readFileSync } from 'node:fs';
import { messageOf, VarveError } from '../core/errors.ts';
import { resolveOptions, suspiciousVariables } from '../config/resolve.ts';
import type { Command } from '../config/commands.ts';
import type { Options } from '../config/options.ts';

/** What commands see of the process that they run in. */
export interface CliContext {
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  /** The script that a supervised node is started with. */
  readonly script: string;
}

export type Flags = Readonly<Record<string, unknown>>;

/**
 * The settings of a command from flags, environment and the file that `--config` names.
 * @throws CONFIG_INVALID
 */
export function settings<C extends Command>(context: CliContext, command: C, flags: Flags): Options<C> {
  for (const warning of suspiciousVariables(context.environment)) {
    context.stderr.write(`varve: ${warning}\n`);
  }
  const path = flags['config'];
  const file = typeof path === 'string' ? { path, text: readConfig(path) } : undefined;
  return resolveOptions(command, { flags, environment: context.environment, file });
}

function readConfig(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new VarveError('CONFIG_INVALID', `the configuration file cannot be read: ${messageOf(error)}`);
  }
}
