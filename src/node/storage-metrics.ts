import type { Registry } from 'prom-client';
import type { EngineStatus, NamespaceStatus } from '../storage/engine/storage-engine.ts';
import { figure } from './figure.ts';

type Read = (namespace: NamespaceStatus) => number;

const NAMESPACE_GAUGES: readonly (readonly [name: string, help: string, read: Read])[] = [
  ['series', 'Series that are in memory.', ({ series }) => series],
  ['samples_written_total', 'Samples taken since the start.', ({ samplesWritten }) => Number(samplesWritten)],
  ['open_blocks', 'Blocks with samples that are in no fileset yet.', ({ openBlocks }) => openBlocks.length],
  [
    'open_samples',
    'Samples that are in no fileset yet.',
    ({ openBlocks }) => openBlocks.reduce((sum, { samples }) => sum + samples, 0),
  ],
  ['filesets', 'Filesets on the disk.', ({ filesets }) => filesets],
  ['fileset_bytes', 'Bytes of filesets on the disk.', ({ filesetBytes }) => filesetBytes],
  [
    'quarantined_filesets',
    'Filesets that were put aside because they are damaged.',
    ({ quarantined }) => quarantined,
  ],
  ['tombstones', 'Deletions that are not worked into filesets yet.', ({ tombstones }) => tombstones],
  ['cache_bytes', 'Columns of files that are kept in memory.', ({ cache }) => cache.bytes],
  ['cache_hits_total', 'Columns that were found in memory.', ({ cache }) => cache.hits],
  ['cache_misses_total', 'Columns that had to be read from files.', ({ cache }) => cache.misses],
  [
    'shards_bootstrapped',
    'Shards that serve.',
    ({ shards }) => shards.filter(({ state }) => state === 'bootstrapped').length,
  ],
];

const ENGINE_GAUGES: readonly (readonly [
  name: string,
  help: string,
  read: (status: EngineStatus) => number,
])[] = [
  ['ready', '1 when everything is bootstrapped.', ({ state }) => (state === 'ready' ? 1 : 0)],
  ['memory_used_bytes', 'Of series and open blocks.', ({ memory }) => memory.usedBytes],
  ['memory_limit_bytes', 'What they may use.', ({ memory }) => memory.limitBytes],
  [
    'memory_refusing',
    '1 while writes that need memory are refused.',
    ({ memory }) => (memory.refusing ? 1 : 0),
  ],
  ['log_bytes', 'Commit log behind the newest snapshot.', ({ log }) => log.bytes],
  ['log_writing', '1 while the commit log takes writes.', ({ log }) => (log.state === 'writing' ? 1 : 0)],
  ['snapshot_failures_total', 'Snapshots that could not be taken.', ({ snapshots }) => snapshots.failures],
  [
    'last_snapshot_timestamp_seconds',
    'When the newest snapshot was taken; 0 when none was.',
    ({ snapshots }) => Number((snapshots.lastAtNs ?? 0n) / 1_000_000n) / 1000,
  ],
  [
    'bootstrap_attempts_total',
    'Attempts to bootstrap since the start.',
    ({ bootstrapRuns }) => bootstrapRuns.length,
  ],
  ['disk_free_bytes', 'What an ordinary user could still write.', ({ disk }) => disk.freeBytes],
  ['disk_full', '1 while writes are refused because the disk is full.', ({ disk }) => (disk.full ? 1 : 0)],
];

/** The figures of a storage engine for `/metrics`, read when they are asked for; none while it is not open. */
export function storageMetrics(registry: Registry, status: () => EngineStatus | undefined): void {
  for (const [name, help, read] of ENGINE_GAUGES) {
    figure(registry, { name: `varve_storage_${name}`, help }, () => {
      const now = status();
      return now ? [[{}, read(now)]] : [];
    });
  }
  const namespaces = (): readonly NamespaceStatus[] => status()?.namespaces ?? [];
  for (const [name, help, read] of NAMESPACE_GAUGES) {
    figure(registry, { name: `varve_storage_namespace_${name}`, help, labelNames: ['namespace'] }, () =>
      namespaces().map((each) => [{ namespace: each.options.name }, read(each)]),
    );
  }
  figure(
    registry,
    {
      name: 'varve_storage_namespace_rejected_samples_total',
      help: 'Samples that were not taken, by why.',
      labelNames: ['namespace', 'reason'],
    },
    () =>
      namespaces().flatMap(({ options, rejected }) =>
        Object.entries(rejected).map(
          ([reason, count]) => [{ namespace: options.name, reason }, count] as const,
        ),
      ),
  );
}
