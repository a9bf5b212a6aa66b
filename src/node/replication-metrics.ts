import type { Registry } from 'prom-client';
import type { ReplicationStatus } from '../storage/replication/replication.ts';
import { figure, type FigureValue } from './figure.ts';

type Read = (status: ReplicationStatus) => number;

const FIGURES: readonly (readonly [name: string, help: string, read: Read])[] = [
  [
    'writes_total',
    'Writes and deletions that this node took for all replicas.',
    ({ writes }) => writes.writes,
  ],
  ['writes_failed_total', 'Those that too few replicas took.', ({ writes }) => writes.failed],
  ['writes_missed_total', 'Replicas that missed an acknowledged one: hinted.', ({ writes }) => writes.missed],
  ['reads_total', 'Reads of several replicas.', ({ reads }) => reads.reads],
  ['reads_failed_total', 'Those that failed.', ({ reads }) => reads.failed],
  [
    'reads_replaced_total',
    'Replicas that did not answer a read, or broke off.',
    ({ reads }) => reads.replaced,
  ],
  ['replicas_down', 'Replicas that do not answer.', ({ down }) => down.length],
  ['repair_running', '1 while replicas are compared.', ({ repair }) => (repair.running ? 1 : 0)],
  ['repair_rounds_total', 'Comparisons of everything.', ({ repair }) => repair.rounds],
  ['repair_blocks', 'Blocks of the round that runs, or the last one.', ({ repair }) => repair.blocks],
  ['repair_blocks_done', 'Of these, compared.', ({ repair }) => repair.blocksDone],
  [
    'repair_shards_read_total',
    'Shards of blocks that were read, because files could not tell or their turn had come.',
    ({ repair }) => repair.shardsRead,
  ],
  [
    'repair_differences_total',
    'Shards of blocks that another replica had otherwise.',
    ({ repair }) => repair.differences,
  ],
  [
    'repair_samples_total',
    'Samples that were taken from other replicas.',
    ({ repair }) => repair.samplesHealed,
  ],
  ['repair_deletions_total', 'Deletions that were heard of late.', ({ repair }) => repair.deletionsHealed],
  ['repair_failures_total', 'Comparisons that failed.', ({ repair }) => repair.failures],
];

const HINTS: readonly (readonly [
  name: string,
  help: string,
  read: (hints: ReplicationStatus['hints'][number]) => number,
])[] = [
  ['hints_bytes', 'What is kept for a replica.', ({ bytes }) => bytes],
  ['hints_added_total', 'Writes that a replica missed.', ({ added }) => added],
  ['hints_replayed_total', 'Those that were brought to it.', ({ replayed }) => replayed],
  [
    'hints_dropped_total',
    'Those that there was no room for: the repair brings them.',
    ({ dropped }) => dropped,
  ],
  ['hints_expired_total', 'Those that were too old: the repair brings them.', ({ expired }) => expired],
];

/** The figures of replication for `/metrics`; none while the node is alone. */
export function replicationMetrics(registry: Registry, status: () => ReplicationStatus | undefined): void {
  for (const [name, help, read] of FIGURES) {
    figure(registry, { name: `varve_storage_replication_${name}`, help }, (): FigureValue[] => {
      const now = status();
      return now ? [[{}, read(now)]] : [];
    });
  }
  for (const [name, help, read] of HINTS) {
    figure(
      registry,
      { name: `varve_storage_replication_${name}`, help, labelNames: ['replica'] },
      (): FigureValue[] => (status()?.hints ?? []).map((one) => [{ replica: one.replica }, read(one)]),
    );
  }
}
