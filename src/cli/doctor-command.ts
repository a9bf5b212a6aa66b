import { systemClock } from '../core/clock.ts';
import { coordinatorOptions } from '../node/coordinator-options.ts';
import { examine, findingLines } from '../node/doctor-finding.ts';
import { machineChecks } from '../node/doctor-machine.ts';
import { examineServer } from '../node/doctor-server.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { logger } from './logger.ts';

/** Of this machine, or, when `--postgres` is a URL, of that server. */
export async function doctor(context: CliContext, flags: Flags): Promise<number> {
  const options = settings(context, 'doctor', flags);
  const { dir, json, postgres = 'auto' } = options;
  const isUrl = postgres.includes('://');
  const findings = isUrl
    ? await examineServer(postgres, options)
    : await examine(
        machineChecks(
          { clock: systemClock, log: logger({ level: 'silent' }) },
          {
            dir,
            programs: postgres,
            coordinator: coordinatorOptions(options),
          },
        ),
      );
  context.stdout.write(
    json ? `${JSON.stringify({ findings }, null, 2)}\n` : `${findingLines(findings).join('\n')}\n`,
  );
  return findings.some(({ state }) => state === 'fail') ? ExitCode.no : ExitCode.ok;
}
