import { resolve } from 'node:path';
import { systemClock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { Options } from '../config/options.ts';
import { bytesText } from '../run/figures.ts';
import { listBackups, pruneBackups, takeBackup, verifyBackups } from '../node/storage-backup-job.ts';
import {
  backupJson,
  createdLines,
  listingLines,
  prunedLines,
  verifiedLines,
} from '../node/storage-backup-lines.ts';
import { storageClients } from '../node/storage-access.ts';
import { tokenOf } from '../node/storage-settings.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { stopSignals } from './stop-signals.ts';

type BackupOptions = Options<'backup'>;

interface Call {
  readonly context: CliContext;
  readonly options: BackupOptions;
  readonly path: string;
  readonly id: string | undefined;
}

/** `varve backup ACTION FOLDER`: backups of namespaces in a folder of this machine. */
export async function backup(
  context: CliContext,
  flags: Flags,
  [action, folder, id]: readonly string[],
): Promise<number> {
  const options = settings(context, 'backup', flags);
  if (folder === undefined) throw usage(`varve backup ${action ?? ''} needs the folder of the backups`);
  if (id !== undefined && action !== 'verify') throw usage(`"${id}" is too much`);
  const call = { context, options, path: resolve(folder), id };
  switch (action) {
    case 'create':
      return await create(call);
    case 'list':
      return await list(call);
    case 'verify':
      return await verify(call);
    case 'prune':
      return await prune(call);
    default:
      throw usage(`there is no varve backup ${action ?? ''}`.trimEnd());
  }
}

async function create({ context, options, path }: Call): Promise<number> {
  using signals = stopSignals();
  const report = await takeBackup(
    path,
    {
      clients: await storageClients(options),
      token: tokenOf(options.storageTokenFile),
      namespaces: options.namespace?.split(','),
      level: options.consistency,
      onProgress: teller(context, options),
    },
    signals.stop,
  );
  const { manifest, kept, written, sentBytes } = report;
  print(context, options, { ...backupJson(manifest), kept, written, sentBytes }, createdLines(report));
  return ExitCode.ok;
}

async function list({ context, options, path }: Call): Promise<number> {
  const listing = await listBackups(path);
  const { backups, damages } = listing;
  print(context, options, { backups: backups.map(backupJson), damages }, listingLines(listing));
  return damages.length === 0 ? ExitCode.ok : ExitCode.no;
}

async function verify({ context, options, path, id }: Call): Promise<number> {
  using signals = stopSignals();
  const verified = await verifyBackups(path, id, signals.stop);
  print(context, options, verified, verifiedLines(verified));
  return verified.damages.length === 0 ? ExitCode.ok : ExitCode.no;
}

async function prune({ context, options, path }: Call): Promise<number> {
  const { keep } = options;
  if (keep === undefined) throw usage('varve backup prune needs --keep, the number of backups that stay');
  const pruned = await pruneBackups(path, keep);
  print(context, options, pruned, prunedLines(pruned));
  return ExitCode.ok;
}

const TELL_MS = 2000;

/** Tells people now and then how far it is. */
export function teller(
  context: CliContext,
  { json }: { readonly json: boolean },
): (progress: { namespace: string; done: number; total: number; sentBytes: number }) => void {
  let toldMs = systemClock.monotonicMs();
  return ({ namespace, done, total, sentBytes }) => {
    const nowMs = systemClock.monotonicMs();
    if (json || nowMs - toldMs < TELL_MS) return;
    toldMs = nowMs;
    context.stderr.write(`${namespace}: ${done} of ${total} filesets, ${bytesText(sentBytes)} sent\n`);
  };
}

export function print(
  context: CliContext,
  { json }: { readonly json: boolean },
  data: unknown,
  lines: readonly string[],
): void {
  context.stdout.write(`${json ? JSON.stringify(data, null, 2) : lines.join('\n')}\n`);
}

function usage(message: string): VarveError {
  return new VarveError('INVALID_ARGUMENT', message, {
    hint: 'varve backup --help lists actions and flags, docs/backup.md explains them.',
  });
}
