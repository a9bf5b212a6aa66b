import { spawn } from 'node:child_process';
import { closeSync, openSync, renameSync, statSync } from 'node:fs';
import type { ProcessHandle } from '../core/supervised-process.ts';

export interface NodeProgram {
  /** Node itself, and the script that understands `node --config FILE`. */
  readonly execPath: string;
  readonly script: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

const LOG_MAX_BYTES = 10 * 1024 * 1024;

/** A daemon is idle most of the time: V8 need not let 48 MB of young objects gather before it looks. */
export const MEMORY_FLAGS = ['--max-semi-space-size=1'];

/**
 * Starts the process of one node: in a group of its own, so that Ctrl-C at the terminal reaches only the
 * supervisor, with its output in a log file and an IPC channel by whose end it notices that we are gone.
 */
export function spawnNode(
  program: NodeProgram,
  files: { readonly config: string; readonly log: string },
  onMessage: (message: unknown) => void,
): ProcessHandle {
  const log = openLog(files.log);
  try {
    const args = [...MEMORY_FLAGS, program.script, 'node', '--config', files.config];
    const child = spawn(program.execPath, args, {
      detached: true,
      stdio: ['ignore', log, log, 'ipc'],
      env: program.environment,
    });
    child.on('message', onMessage);
    return {
      pid: child.pid ?? 0,
      exited: new Promise((resolve) => {
        child.once('exit', (code, signal) => resolve({ code, signal }));
        // Not started at all: there will be no exit.
        child.once('error', () => resolve({ code: null, signal: null }));
      }),
      send: (message) => void (child.connected && child.send(message as object)),
      kill: (signal) => void child.kill(signal),
    };
  } finally {
    closeSync(log);
  }
}

/** A log that has grown large is moved aside at the next start, so there are two at the most. */
function openLog(path: string): number {
  const { size } = statSync(path, { throwIfNoEntry: false }) ?? { size: 0 };
  if (size > LOG_MAX_BYTES) renameSync(path, `${path}.1`);
  return openSync(path, 'a', 0o600);
}
