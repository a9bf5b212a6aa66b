import { resolve } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { storageClients } from '../node/storage-access.ts';
import { restoredLines } from '../node/storage-backup-lines.ts';
import { RestoreJob } from '../node/storage-restore-job.ts';
import { tokenOf } from '../node/storage-settings.ts';
import { print, teller } from './backup-command.ts';
import { isSure } from './confirm.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

/** `varve restore FOLDER [BACKUP]`: namespaces of a backup into the storage nodes that run, on every replica. */
export async function restore(
  context: CliContext,
  flags: Flags,
  [path, backup]: readonly string[],
): Promise<number> {
  const options = settings(context, 'restore', flags);
  if (path === undefined) {
    throw new VarveError('INVALID_ARGUMENT', 'varve restore needs the folder of the backups', {
      hint: 'varve restore --help lists the flags, docs/backup.md explains them.',
    });
  }
  using signals = stopSignals();
  const job = await RestoreJob.open(
    {
      path: resolve(path),
      backup,
      clients: await storageClients(options),
      token: tokenOf(options.storageTokenFile),
      namespaces: options.namespace?.split(','),
      into: options.into,
      overwrite: options.overwrite,
      onProgress: teller(context, options),
    },
    signals.stop,
  );
  const lines = await job.plan();
  if (!options.yes && !(await isSure(context, lines))) return ExitCode.no;
  const namespaces = await job.run();
  print(context, options, { backup: job.backup, namespaces }, namespaces.flatMap(restoredLines));
  return ExitCode.ok;
}
