import type { CliContext, Flags } from './context.ts';

export async function status(_context: CliContext, _flags: Flags): Promise<number> {
  return 0;
}
