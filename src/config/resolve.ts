import { VarveError } from '../core/errors.ts';
import { nearestName } from './nearest.ts';
import { COMMANDS, type Command } from './commands.ts';
import type { OptionSpec } from './option.ts';
import { environmentNameOf, flagOf, optionsOf, type OptionName, type Options } from './options.ts';

/** Where settings come from, strongest first. */
export interface Sources {
  /** By option name, as parsed from the command line. */
  readonly flags?: Readonly<Record<string, unknown>>;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** The configuration file's text, with its path for messages. */
  readonly file?: { readonly path: string; readonly text: string } | undefined;
}

/**
 * The settings of `command`: flag before environment before file before default. Every value has been
 * checked.
 * @throws CONFIG_INVALID naming each wrong setting with its source and the rule it breaks
 */
export function resolveOptions<C extends Command>(command: C, sources: Sources): Options<C> {
  const problems: Problem[] = [];
  const file = readFile(command, sources, problems);
  const values: Record<string, unknown> = {};
  for (const [name, spec] of optionsOf(command)) {
    const found = lookUp(name, spec, sources, file);
    if (found === undefined) {
      values[name] = spec.default;
      continue;
    }
    values[name] = spec.kind.read(found.value);
    if (values[name] === undefined) problems.push({ text: broken(found.source, spec, found.value) });
  }
  const [first, ...others] = problems;
  if (first) {
    throw new VarveError('CONFIG_INVALID', first.text, {
      detail: others.length > 0 ? others.map(({ text }) => `Also: ${text}`).join('\n') : undefined,
      hint: [first, ...others].find(({ hint }) => hint)?.hint ?? 'docs/configuration.md lists every setting.',
    });
  }
  return values as Options<C>;
}

/** Variables that look like a mistyped setting. Others that start with `VARVE_` may belong to someone else. */
export function suspiciousVariables(environment: Readonly<Record<string, string | undefined>>): string[] {
  const known = (Object.keys(COMMANDS) as Command[]).flatMap((command) =>
    optionsOf(command).map(([name]) => environmentNameOf(name)),
  );
  return Object.keys(environment).flatMap((name) => {
    if (!name.startsWith('VARVE_') || known.includes(name)) return [];
    const meant = nearestName(
      name.slice('VARVE_'.length),
      known.map((other) => other.slice('VARVE_'.length)),
    );
    return meant ? [`${name} is not a setting; VARVE_${meant} is`] : [];
  });
}

interface Problem {
  readonly text: string;
  readonly hint?: string | undefined;
}

type Json = Readonly<Record<string, unknown>>;

function readFile(command: Command, { file }: Sources, problems: Problem[]): { path: string; values: Json } {
  if (!file) return { path: '', values: {} };
  const values = parse(file, problems);
  const known = optionsOf(command)
    .filter(([, spec]) => !spec.flagOnly)
    .map(([name]) => name);
  for (const key of Object.keys(values)) {
    if ((known as string[]).includes(key)) continue;
    const nearest = nearestName(key, known);
    problems.push({
      text: `${file.path}: "${key}" is not a setting of varve ${command}`,
      hint: nearest ? `Did you mean "${nearest}"?` : `Known are: ${known.join(', ')}.`,
    });
  }
  return { path: file.path, values };
}

function parse(file: { path: string; text: string }, problems: Problem[]): Json {
  try {
    const value: unknown = JSON.parse(file.text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
    problems.push({ text: `${file.path} must be one JSON object` });
  } catch (error) {
    // V8 quotes the text around the place, which could show a secret: keep the reason, drop the quotation.
    const reason = (error as Error).message.replace(/,? *(\.\.\.)?".*$/s, '');
    problems.push({ text: `${file.path} is not valid JSON (${reason})` });
  }
  return {};
}

function lookUp(
  name: OptionName,
  spec: OptionSpec<unknown>,
  sources: Sources,
  file: { path: string; values: Json },
): { source: string; value: unknown } | undefined {
  const flag = sources.flags?.[name];
  if (flag !== undefined) return { source: flagOf(name), value: flag };
  if (spec.flagOnly) return undefined;
  const variable = environmentNameOf(name);
  const fromEnvironment = sources.environment?.[variable];
  // An empty variable is how shells and service files say "not set".
  if (fromEnvironment !== undefined && fromEnvironment !== '') {
    return { source: `environment variable ${variable}`, value: fromEnvironment };
  }
  const fromFile = file.values[name];
  return fromFile === undefined ? undefined : { source: `${file.path}: "${name}"`, value: fromFile };
}

function broken(source: string, spec: OptionSpec<unknown>, value: unknown): string {
  const shown = spec.secret ? '' : `, not ${JSON.stringify(value)}`;
  return `${source} must be ${spec.kind.rule}${shown}`;
}
