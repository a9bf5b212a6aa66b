import { createInterface } from 'node:readline/promises';
import { VarveError } from '../core/errors.ts';
import type { CliContext } from './context.ts';

/** Shows what would be done, and asks. @throws INVALID_ARGUMENT where nobody sits who could answer */
export async function isSure(context: CliContext, lines: readonly string[]): Promise<boolean> {
  context.stderr.write(`${lines.join('\n')}\n`);
  if (!context.stdin.isTTY) {
    throw new VarveError('INVALID_ARGUMENT', 'Nothing was changed. Add --yes to do it');
  }
  const terminal = createInterface({ input: context.stdin, output: context.stderr });
  const answer = await terminal.question('Type yes to do it: ');
  terminal.close();
  return answer.trim() === 'yes';
}
