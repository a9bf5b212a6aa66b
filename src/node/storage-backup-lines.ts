import { bytesText } from '../run/figures.ts';
import type { BackupListing, Pruned } from '../storage/backup/backup-folder.ts';
import { figuresOf, type BackupManifest } from '../storage/backup/backup-manifest.ts';
import type { RestoreReport } from '../storage/backup/restore-backup.ts';
import type { BackupReport } from '../storage/backup/take-backup.ts';
import type { FileDamage } from '../storage/fileset/fileset-damage.ts';
import { formatTime } from '../storage/protocol/time-text.ts';
import { textTable } from './text-table.ts';

/** A backup without the list of its filesets. */
export function backupJson(manifest: BackupManifest): object {
  const { id, startedAtNs, endedAtNs, shardCount, namespaces } = manifest;
  return {
    id,
    startedAt: formatTime(startedAtNs),
    endedAt: formatTime(endedAtNs),
    shardCount,
    namespaces: namespaces.map((one) => ({ name: one.name, settings: one.settings, ...figuresOf([one]) })),
  };
}

export function createdLines({ manifest, kept, written, sentBytes }: BackupReport): string[] {
  const { samples, bytes } = figuresOf(manifest.namespaces);
  return [
    `backup ${manifest.id}: everything that was acknowledged before ${formatTime(manifest.startedAtNs)}`,
    `${samples} samples of ${manifest.namespaces.map(({ name }) => name).join(', ')}, ${bytesText(bytes)}: ` +
      `${written} filesets written (${bytesText(sentBytes)} came from nodes), ${kept} were there already`,
  ];
}

export function listingLines({ backups, damages }: BackupListing): string[] {
  const rows = backups.flatMap(({ id, startedAtNs, namespaces }) =>
    namespaces.map((one) => {
      const { filesets, samples, bytes } = figuresOf([one]);
      return [id, formatTime(startedAtNs), one.name, String(filesets), String(samples), bytesText(bytes)];
    }),
  );
  const head = ['backup', 'of', 'namespace', 'filesets', 'samples', 'bytes'];
  return [...textTable(head, rows), ...damages.map(damageText)];
}

export function prunedLines({ backups, filesets }: Pruned): string[] {
  return [
    backups.length === 0 ? 'no backup is too many' : `forgotten: ${backups.join(', ')}`,
    `${filesets} filesets that no backup needs are removed`,
  ];
}

export function restoredLines(report: RestoreReport): string[] {
  const { namespace, samples, taken, present, expired, sentBytes } = report;
  return [
    `namespace ${namespace}: ${samples} samples; over all nodes ${taken} filesets were sent (${bytesText(sentBytes)}), ${present} were there`,
    ...(expired > 0
      ? [`${expired} filesets of the backup are out of the retention of namespace ${namespace}`]
      : []),
  ];
}

export function verifiedLines({
  backups,
  damages,
}: {
  readonly backups: readonly string[];
  readonly damages: readonly FileDamage[];
}): string[] {
  if (damages.length > 0) return damages.map(damageText);
  return [`everything is as it was written: ${backups.join(', ') || 'there is no backup'}`];
}

function damageText({ file, offset, reason }: FileDamage): string {
  return `${file} is damaged at offset ${offset}: ${reason}`;
}
