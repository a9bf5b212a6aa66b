import type { CliContext, Flags } from './context.ts';

export async function sql(_context: CliContext, _flags: Flags): Promise<number> {
  return 0;
}
