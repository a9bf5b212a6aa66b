import { join, resolve } from 'node:path';
import { systemClock } from '../core/clock.ts';
import { runUp } from '../node/up.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { logger } from './logger.ts';
import { chooseRenderer } from './renderer.ts';
import { stopSignals } from './stop-signals.ts';

export async function up(context: CliContext, flags: Flags): Promise<number> {
  const options = settings(context, 'up', flags);
  using signals = stopSignals();
  // Whoever read our output is gone: there is nobody left to run for.
  context.stdout.on('error', () => signals.request());
  const { renderer, interactive } = chooseRenderer(context, options.json);
  try {
    await runUp(
      {
        clock: systemClock,
        log: () => logger({ level: options.logLevel, path: join(resolve(options.dir), 'up.log') }),
        renderer,
        interactive,
        program: {
          execPath: process.execPath,
          script: context.script,
          environment: childEnvironment(context),
        },
      },
      options,
      signals,
    );
    return signals.force.aborted ? ExitCode.failed : ExitCode.ok;
  } finally {
    renderer.close();
  }
}

/** Settings for `up` must not reach the nodes: theirs are in their configuration files. */
function childEnvironment({ environment }: CliContext): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith('VARVE_')));
}
