import { setMaxListeners } from 'node:events';
import { readFileSync } from 'node:fs';
import type { FileSystem } from '../../core/file-system.ts';
import { labelMatcher } from '../index/matcher.ts';
import { encodeLabels } from '../index/labels.ts';
import type { Engine } from '../engine/engine.ts';
import { keyOf, labelsOf } from '../engine/engine.suite.ts';
import { ColumnCodec } from '../engine/sealed-series.ts';
import { Kernel, KERNEL_FILE } from '../kernel/kernel.ts';
import { PeerClient } from '../peers/peer-client.ts';
import type { PeerCluster } from '../peers/peer-cluster.suite.ts';
import type { PeerRequest } from '../peers/peer-transport.ts';
import { namespaceSettings, type NamespaceSettings } from '../protocol/namespace-json.ts';
import { encodeDeletions } from '../replication/deletion-ledger.ts';
import type { ReplicaTransport } from '../replication/replica-transport.ts';
import type { BackupCluster } from './backup-cluster.ts';
import type { BackupFolder } from './backup-folder.ts';
import { RestoreBackup, type RestoreReport } from './restore-backup.ts';
import type { RestoreTarget } from './send-filesets.ts';
import { RestoreMarks } from './restore-mark.ts';
import { BodyParts, encodeRestoredHead } from './restore-messages.ts';
import { RestoreSeal } from './restore-seal.ts';
import { RestoreServer } from './restore-server.ts';
import { TakeBackup, type BackupReport } from './take-backup.ts';

export const FOLDER = '/backups';
const NEVER = new AbortController().signal;
setMaxListeners(0, NEVER);
let stagings = 0;
const codec = new ColumnCodec(new Kernel(readFileSync(KERNEL_FILE), { limitBytes: 256 * 1024 * 1024 }));

/** Nobody has deleted anything that others do not know. */
const agreed: ReplicaTransport = {
  write: () => Promise.reject(new Error('a backup writes nothing')),
  delete: () => Promise.resolve(),
  handOver: () => Promise.reject(new Error('a backup hands nothing over')),
  // oxlint-disable-next-line require-yield
  async *ask() {
    yield encodeDeletions([]);
  },
};

export function clusterOf(nodes: readonly string[], shardCount: number): BackupCluster {
  return {
    version: 1,
    shardCount,
    replicaFactor: nodes.length,
    endpoints: new Map(nodes.map((node) => [node, node])),
    replicas: Array.from({ length: shardCount }, () => nodes.map((node) => ({ node, state: 'available' }))),
  };
}

export interface TakeOptions {
  readonly fs: FileSystem;
  readonly folder: BackupFolder;
  readonly id: string;
  readonly nodes: readonly string[];
  readonly level?: 'one' | 'majority' | 'all';
  /** What becomes of a request on its way. */
  readonly fault?: (node: string, request: PeerRequest) => void;
}

export async function take(cluster: PeerCluster, options: TakeOptions): Promise<BackupReport> {
  const { fs, folder, id, nodes, level = 'majority', fault } = options;
  const { clock } = cluster;
  const client = new PeerClient(
    {
      transport: {
        call: async (node, request) => {
          fault?.(node, request);
          return await cluster.serve(node, request);
        },
      },
      clock,
      random: () => 0.5,
    },
    { timeoutMs: 10_000, tries: 2 },
  );
  await folder.prepare();
  const backup = new TakeBackup(
    { fs, clock, client, replicas: agreed, codec: () => codec, onProgress: () => {} },
    folder,
    {
      id,
      cluster: clusterOf(nodes, cluster.shardCount),
      level,
      namespaces: settingsOf(cluster.engine(nodes[0] ?? '')),
    },
    NEVER,
  );
  return await backup.run();
}

function settingsOf(engine: Engine): { readonly name: string; readonly settings: NamespaceSettings }[] {
  return engine.namespaces().map((options) => ({ name: options.name, settings: namespaceSettings(options) }));
}

export async function restoreServer(engine: Engine): Promise<RestoreServer> {
  const { peerView } = engine;
  const view = { ...peerView, folder: '/engine', serially: engine.serially.bind(engine) };
  return new RestoreServer({
    view,
    marks: await RestoreMarks.open(peerView.fs, '/engine'),
    seal: new RestoreSeal(),
  });
}

export interface RestoreOptions {
  readonly fs: FileSystem;
  readonly folder: BackupFolder;
  readonly id: string;
  readonly nodes: readonly string[];
  readonly namespace?: string;
  readonly into?: string;
  readonly overwrite?: boolean;
  /** Before each fileset that is sent; may throw. */
  readonly onSend?: (sent: number) => void;
  /** What happens when a namespace is to be made or deleted: the nodes' list of namespaces. */
  readonly namespaces?: { create(name: string): Promise<void>; remove(name: string): Promise<void> };
}

export async function restore(cluster: PeerCluster, options: RestoreOptions): Promise<RestoreReport> {
  const { fs, folder, id, nodes, namespace = 'default', into = namespace, overwrite = false } = options;
  const manifest = await folder.get(id);
  const found = manifest.namespaces.find(({ name }) => name === namespace);
  if (!found) throw new Error(`the backup has no ${namespace}`);
  let sent = 0;
  const targets = nodes.map((node): RestoreTarget => {
    let opened: { readonly engine: Engine; readonly server: Promise<RestoreServer> } | undefined;
    // One for each start of the node.
    const server = (): Promise<RestoreServer> => {
      const engine = cluster.engine(node);
      if (opened?.engine !== engine) opened = { engine, server: restoreServer(engine) };
      return opened.server;
    };
    return {
      node,
      look: async (name) => (await server()).look(name),
      begin: async (begin) => await (await server()).begin(begin),
      send: async (fileset, content) => {
        options.onSend?.(sent++);
        const head = encodeRestoredHead(fileset);
        async function* body(): AsyncGenerator<Uint8Array, void, void> {
          // In pieces that cross all of its borders.
          const parts: Uint8Array[] = [head];
          for await (const part of content()) parts.push(Buffer.from(part));
          const all = Buffer.concat(parts);
          for (let at = 0; at < all.length; at += 777) yield all.subarray(at, at + 777);
        }
        return await (await server()).take(new BodyParts(body()));
      },
      end: async (begin) => await (await server()).end(begin),
    };
  });
  const job = new RestoreBackup(
    {
      fs,
      clock: cluster.clock,
      targets: new Map(targets.map((target) => [target.node, target])),
      namespaces: {
        list: async () => settingsOf(cluster.engine(nodes[0] ?? '')),
        create: async (name) => await options.namespaces?.create(name),
        remove: async (name) => await options.namespaces?.remove(name),
      },
      codec: () => codec,
      staging: async () => {
        const root = `/staging-${++stagings}`;
        await fs.makeFolder(root);
        return { root, [Symbol.asyncDispose]: async () => {} };
      },
      onProgress: () => {},
    },
    folder,
    { cluster: clusterOf(nodes, cluster.shardCount), manifest, namespace: found, into, overwrite },
    NEVER,
  );
  return await job.run();
}

/** Every sample of a node with its bits and version: `name` → `time=bits@version`. */
export async function versionedDump(
  engine: Engine,
  namespace = 'default',
): Promise<Record<string, string[]>> {
  const found: Record<string, string[]> = {};
  const matchers = [labelMatcher('__name__', '=~', '.+')];
  for await (const series of engine.read(namespace, { matchers, startNs: 0n, endNs: 2n ** 62n })) {
    const samples: string[] = [];
    for await (const { times, bits, overwrites = [] } of series.batches) {
      const versions = new Map(overwrites.map(({ place, version }) => [place, version]));
      for (const [place, time] of times.entries()) {
        const version = versions.get(place);
        samples.push(`${time}=${bits[place]?.toString(16)}${version === undefined ? '' : `@${version}`}`);
      }
    }
    found[keyOf(series.labels)] = samples;
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Samples bit for bit, as another node might have taken them. */
export async function writeBits(
  engine: Engine,
  name: string,
  samples: readonly (readonly [timeNs: bigint, bits: bigint])[],
  stamp: bigint = engine.replica.nextStamp(),
): Promise<void> {
  const times = BigInt64Array.from(samples, ([timeNs]) => timeNs);
  const bits = BigUint64Array.from(samples, ([, value]) => value);
  await engine.replica.writeBits('default', [{ labels: encodeLabels(labelsOf(name)), times, bits }], {
    stamp,
  });
}
