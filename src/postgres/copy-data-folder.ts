import { chown } from 'node:fs/promises';
import type { Binaries } from './binaries.ts';
import { copyTree } from './copy-tree.ts';
import { runProgram } from './program.ts';
import type { ServerFolder } from './server-folder.ts';
import { quoteIdent, quoteLiteral } from './sql.ts';
import { renewSystemIdentifier } from './system-identifier.ts';

export interface DataFolderCopy {
  /** A data folder that initdb has made and no server has run on. */
  readonly template: string;
  readonly folder: ServerFolder;
  readonly binaries: Binaries;
  readonly superuser: string;
  readonly password: string;
  readonly durable: boolean;
  readonly timeoutMs: number;
}

/** Its errors end it; the statement, which has the password, is in no message. */
const SINGLE_USER = ['--single', '-F', '-c', 'exit_on_error=on', '-c', 'log_min_error_statement=panic'];

/**
 * Makes folder `making`, which is there and empty, what initdb would have made it: a copy with a system identifier and
 * a superuser's password of its own, and as durable. (What stays the same is the secret from which PostgreSQL answers
 * logins of roles that do not exist.)
 * @throws POSTGRES_START when the template is no good
 */
export async function copyDataFolder(
  signal: AbortSignal,
  making: string,
  copy: DataFolderCopy,
): Promise<void> {
  const { template, folder, binaries, superuser, password, durable, timeoutMs } = copy;
  const { runAs: owner } = folder;
  // Closed to the owner meanwhile, who could lead us elsewhere.
  await copyTree(template, making, { owner, signal });
  await renewSystemIdentifier(making);
  if (owner) await chown(making, owner.uid, owner.gid);
  const data = folder.dataArgument(making);
  const run = { folder, dataDir: making, signal, timeoutMs };
  // One line is one statement.
  if (password.includes('\n')) throw new Error('a password of several lines');
  const stdin = `alter role ${quoteIdent(superuser)} password ${quoteLiteral(password)}\n`;
  await runProgram(binaries.postgres, [...SINGLE_USER, '-D', data, 'postgres'], { ...run, stdin });
  if (durable) await runProgram(binaries.initdb, ['--sync-only', `--pgdata=${data}`], run);
}
