import { spawn } from 'node:child_process';
import { open } from 'node:fs/promises';
import { VarveError } from '../core/errors.ts';
import type { ServerFolder } from './server-folder.ts';

const OUTPUT_MAX_CHARACTERS = 16_384;

/** Under this name the program finds the file that is its `input`, even where it cannot reach that. */
export const INPUT_PATH = '/dev/fd/4';

export interface ProgramOptions {
  readonly folder: ServerFolder;
  readonly dataDir: string;
  /** A file that belongs to the server's user. */
  readonly input?: string | undefined;
  /** What it reads from its standard input, of which nobody else sees anything. */
  readonly stdin?: string | undefined;
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

/**
 * Runs one of PostgreSQL's programs to its end, in a process group of its own, which an abort or the deadline
 * kills as a whole.
 * @throws POSTGRES_START with the end of its output when it fails
 */
export async function runProgram(
  path: string,
  args: readonly string[],
  options: ProgramOptions,
): Promise<void> {
  const { folder, dataDir, signal, timeoutMs } = options;
  signal.throwIfAborted();
  await using data = await open(dataDir, 'r');
  await using input = options.input === undefined ? undefined : await open(options.input, 'r');
  const child = spawn(path, args, {
    ...folder.spawnOptions(dataDir),
    detached: true,
    stdio: [
      options.stdin === undefined ? 'ignore' : 'pipe',
      'pipe',
      'pipe',
      data.fd,
      ...(input ? [input.fd] : []),
    ],
  });
  // One that ends without having read it all says itself what is wrong.
  child.stdin?.on('error', () => {}).end(options.stdin);
  let output = '';
  const collect = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-OUTPUT_MAX_CHARACTERS);
  };
  child.stdout?.on('data', collect);
  child.stderr?.on('data', collect);
  let late = false;
  const kill = (): void => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
  };
  const timer = setTimeout(() => {
    late = true;
    kill();
  }, timeoutMs);
  signal.addEventListener('abort', kill, { once: true });
  try {
    const ended = await new Promise<string | undefined>((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('close', (code, by) => resolve(code === 0 ? undefined : `exit ${code ?? by ?? ''}`));
    });
    signal.throwIfAborted();
    if (ended === undefined) return;
    throw new VarveError(
      'POSTGRES_START',
      `${path} failed: ${late ? `not done in ${timeoutMs} ms` : ended}`,
      {
        detail: output.trim() || undefined,
      },
    );
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', kill);
  }
}
