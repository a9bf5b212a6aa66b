import { createInterface } from 'node:readline';
import { SqlClient, sqlErrorLines } from '../node/sql-client.ts';
import { splitScript } from '../node/sql-split.ts';
import { SystemAccess } from '../node/system-access.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';

export async function sql(context: CliContext, flags: Flags): Promise<number> {
  const options = settings(context, 'sql', flags);
  if (options.command !== undefined) return runStatements(context, options, [options.command]);
  if (!context.stdin.isTTY) {
    const { statements, rest } = splitScript(await readAll(context.stdin));
    return runStatements(context, options, rest === '' ? statements : [...statements, rest]);
  }
  await using client = await connect(context, options);
  return await converse(context, client, options.database);
}

/** A node of a system, and the database there. */
export interface Where {
  readonly dir: string;
  readonly node: string | undefined;
  readonly database: string;
}

/** Stops at the first error, which makes the exit code. */
export async function runStatements(
  context: CliContext,
  where: Where,
  statements: readonly string[],
): Promise<number> {
  await using client = await connect(context, where);
  for (const statement of statements) {
    if (!(await runOne(context, client, statement))) return ExitCode.failed;
  }
  return ExitCode.ok;
}

async function connect(context: CliContext, { dir, node, database }: Where): Promise<SqlClient> {
  const system = await SystemAccess.find(dir);
  return SqlClient.open(await system.endpoints(node, database), (lines) => print(context.stderr, lines));
}

async function runOne(
  context: CliContext,
  client: SqlClient,
  statement: string,
  signal?: AbortSignal,
): Promise<boolean> {
  try {
    print(context.stdout, await client.run(statement, signal));
    return true;
  } catch (error) {
    print(context.stderr, signal?.aborted ? ['cancelled'] : sqlErrorLines(error));
    return false;
  }
}

const HELP = ['Statements end with a semicolon. Ctrl-C cancels, \\q or Ctrl-D leaves. For more, use psql.'];

/** Reads statements from a terminal. Ctrl-C cancels the one that runs, or what was typed so far. */
async function converse(context: CliContext, client: SqlClient, database: string): Promise<number> {
  const lines = createInterface({ input: context.stdin, output: context.stdout, terminal: true });
  let typed = '';
  let running: AbortController | undefined;
  const prompt = (): void => {
    lines.setPrompt(`${database}${typed === '' ? '=' : '-'}${client.inTransaction ? '*' : ''}> `);
    lines.prompt();
  };
  lines.on('SIGINT', () => {
    if (running) return running.abort();
    typed = '';
    context.stdout.write('^C\n');
    prompt();
  });
  print(context.stdout, HELP);
  prompt();
  for await (const line of lines) {
    const command = typed === '' || line.trim() === '\\q' ? line.trim() : '';
    if (command === '\\q' || command === 'exit' || command === 'quit') break;
    if (command.startsWith('\\')) print(context.stdout, HELP);
    else {
      const { statements, rest } = splitScript(`${typed}${line}\n`);
      typed = rest === '' ? '' : `${rest}\n`;
      for (const statement of statements) {
        running = new AbortController();
        const done = await runOne(context, client, statement, running.signal);
        running = undefined;
        if (!done) break;
      }
    }
    if (client.closed) {
      print(context.stderr, ['the connection is lost']);
      lines.close();
      return ExitCode.failed;
    }
    prompt();
  }
  lines.close();
  return ExitCode.ok;
}

async function readAll(stream: NodeJS.ReadStream): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks).toString();
}

function print(stream: NodeJS.WriteStream, lines: readonly string[]): void {
  if (lines.length > 0) stream.write(`${lines.join('\n')}\n`);
}
