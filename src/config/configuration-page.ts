import { ARGUMENTS, COMMANDS, type Command } from './commands.ts';
import type { OptionSpec } from './option.ts';
import { defaultTextOf, environmentNameOf, flagOf, OPTIONS, optionsOf, type OptionName } from './options.ts';

const EXIT_CODES = [
  '## Exit codes',
  '',
  '| code | meaning |',
  '|---|---|',
  '| 0 | Done. Also: a system was stopped as asked. |',
  '| 1 | An operating error; message, detail, hint and code are on standard error. |',
  '| 2 | Wrong usage or configuration; nothing was begun. |',
  '| 3 | The answer is no: `doctor` found a failure, `status` a node that is not ready. |',
  '| 70 | A bug in Varve; the stack is on standard error. |',
];

/** docs/configuration.md, made from the table of options. */
export function configurationPage(): string {
  const lines = [
    '# Configuration',
    '',
    'Made from `src/config/options.ts` by `npm run docs`; do not edit.',
    '',
    'A setting is taken from the first of: its flag, its environment variable, the configuration file (`--config FILE`, one JSON object), its default. A value that breaks its rule is refused with its source; so is an unknown flag or key, with the nearest known name.',
    '',
    'Times are written with their unit (`250ms`, `5s`, `2m`, `1h`), in the file too.',
    '',
  ];
  for (const command of Object.keys(COMMANDS) as Command[]) {
    lines.push(
      `## ${['varve', command, ...(ARGUMENTS[command] ?? [])].join(' ')}`,
      '',
      COMMANDS[command],
      '',
    );
    lines.push('| flag | environment | file | default | meaning |', '|---|---|---|---|---|');
    for (const [name, spec] of optionsOf(command)) lines.push(row(name, spec));
    lines.push('');
  }
  lines.push('## Rules', '', '| setting | must be |', '|---|---|');
  for (const [name, spec] of Object.entries(OPTIONS) as [OptionName, OptionSpec<unknown>][]) {
    lines.push(`| \`${name}\` | ${cell(spec.kind.rule)} |`);
  }
  lines.push('', ...EXIT_CODES);
  return `${lines.join('\n')}\n`;
}

function row(name: OptionName, spec: OptionSpec<unknown>): string {
  const [environment, key] = spec.flagOnly ? ['', ''] : [`\`${environmentNameOf(name)}\``, `\`${name}\``];
  const value = spec.kind.placeholder === '' ? '' : ` ${spec.kind.placeholder.toUpperCase()}`;
  const flag = spec.default === true ? flagOf(name).replace('--', '--no-') : `${flagOf(name)}${value}`;
  const short = spec.short ? `\`-${spec.short}\`, ` : '';
  const fallback = defaultTextOf(spec) ?? '';
  return `| ${short}\`${cell(flag)}\` | ${environment} | ${key} | ${cell(fallback)} | ${cell(spec.help)} |`;
}

function cell(text: string): string {
  return text.replaceAll('|', String.raw`\|`);
}
