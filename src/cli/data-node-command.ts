import { dataNodeStatement } from '../node/data-node-statement.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { runStatements } from './sql-command.ts';

/** `varve data-node ACTION NAME HOST`: the SQL functions for those who are at a shell. */
export async function dataNode(context: CliContext, flags: Flags, given: readonly string[]): Promise<number> {
  const options = settings(context, 'data-node', flags);
  const [action, name, host] = given;
  const statement = dataNodeStatement({ ...options, action, name, host });
  return runStatements(context, { dir: options.dir, node: options.node, database: options.database }, [
    statement,
  ]);
}
