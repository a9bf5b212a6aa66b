import type { FileSystem } from '../../core/file-system.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import type { FileDamageError } from '../fileset/fileset-damage.ts';
import type { HybridClock } from './hybrid-clock.ts';
import type { Namespace } from './namespace.ts';
import type { ColumnCodec } from './sealed-series.ts';

/** What the exchange of data between nodes sees of an engine. */
export interface PeerView {
  readonly fs: FileSystem;
  readonly codec: () => ColumnCodec;
  readonly clock: HybridClock;
  readonly namespace: (name: string) => Namespace | undefined;
  readonly topology: () => TopologySnapshot;
  /** The log has been read: the memory has what it had. */
  readonly isOpen: () => boolean;
  /** What another node asked for met damage in files here. */
  readonly onDamage: (namespace: string, error: FileDamageError) => void;
  /** An attempt has found nobody who has all of the shard: it waits for another one. */
  readonly isWaiting: (namespace: string, shard: number) => boolean;
}
