import { expect, onTestFinished, test } from 'vitest';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { VarveError } from '../../core/errors.ts';
import { readWholeFile } from '../../core/file-system.ts';
import { BLOCK_NS, dump, HOUR_NS, MINUTE_NS, write } from '../engine/engine.suite.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { filesetPath } from '../fileset/fileset-id.ts';
import { labelMatcher } from '../index/matcher.ts';
import { PeerCluster, type ClusterOptions } from '../peers/peer-cluster.suite.ts';
import { BackupFolder } from './backup-folder.ts';
import { FOLDER, restore, restoreServer, take, versionedDump, writeBits } from './backup.suite.ts';
import { verifyBackup } from './verify-backup.ts';

const OLD = { name: 'default', retentionNs: 48n * HOUR_NS, coldWritesEnabled: true } as const;
const NAMES = Array.from({ length: 24 }, (_, i) => `m${i}`);
const NODES = ['a', 'b', 'c'];

async function folderOfBackups(): Promise<{ fs: SimulatedDisk; folder: BackupFolder }> {
  const fs = new SimulatedDisk({ seed: 5 });
  await fs.makeFolder(FOLDER);
  await fs.syncFolder('/');
  return { fs, folder: new BackupFolder(fs, FOLDER) };
}

/** Nodes that are new, and have all shards. */
async function begun(nodes: readonly string[], options: ClusterOptions = {}): Promise<PeerCluster> {
  const cluster = new PeerCluster({ namespaces: [OLD], ...options });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  for (const node of nodes) await cluster.start(node);
  const states = Object.fromEntries(nodes.map((node) => [node, 'initializing' as const]));
  await cluster.place(states, { isNew: true });
  for (const node of nodes) await cluster.engine(node).ready();
  await cluster.place(Object.fromEntries(nodes.map((node) => [node, 'available' as const])));
  for (const node of nodes) await cluster.engine(node).ready();
  return cluster;
}

const at = (minutes: number): bigint => BLOCK_NS + BigInt(minutes) * MINUTE_NS;
const bitsOf = (value: number): bigint => new BigUint64Array(new Float64Array([value]).buffer)[0] as bigint;

/** Closed blocks that agree and that do not, open ones, corrections, odd values, deletions. */
async function filled(cluster: PeerCluster): Promise<void> {
  const closed = NAMES.map((name, i) => [name, at(-130), BigInt(i)] as const);
  const stamps = cluster.engine('a').replica;
  for (const [name, time, value] of closed) {
    const stamp = stamps.nextStamp();
    for (const node of NODES) await writeBits(cluster.engine(node), name, [[time, value]], stamp);
  }
  // NaN with a payload, and minus nothing.
  for (const node of NODES) {
    await writeBits(cluster.engine(node), 'odd', [
      [at(-129), 0x7ff8_0000_dead_beefn],
      [at(-128), 0x8000_0000_0000_0000n],
    ]);
  }
  for (const node of NODES) await cluster.engine(node).flush({ force: true });
  // What one of them has missed, as a majority has acknowledged it.
  await writeBits(cluster.engine('b'), 'missed', [[at(-127), bitsOf(7)]]);
  await writeBits(cluster.engine('c'), 'missed', [[at(-127), bitsOf(7)]]);
  // Corrections, of which one has missed the last.
  const [first, second] = [stamps.nextStamp(), stamps.nextStamp()];
  for (const node of NODES) await writeBits(cluster.engine(node), 'm1', [[at(-130), bitsOf(41)]], first);
  for (const node of ['a', 'c'])
    await writeBits(cluster.engine(node), 'm1', [[at(-130), bitsOf(42)]], second);
  for (const name of NAMES) {
    const stamp = stamps.nextStamp();
    for (const node of NODES) await writeBits(cluster.engine(node), name, [[at(10), bitsOf(1.5)]], stamp);
  }
  for (const node of NODES) {
    const selectors = [[labelMatcher('__name__', '=', 'm2')]];
    await cluster.engine(node).deleteSeries('default', { selectors, startNs: 0n, endNs: at(0) });
  }
}

test('what three replicas have together is in a new cluster after a restore, with versions and odd values', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  const { manifest, written } = await take(source, { fs, folder, id: 'one', nodes: NODES });
  expect(written).toBeGreaterThan(4);
  const target = await begun(['x', 'y']);
  const report = await restore(target, { fs, folder, id: 'one', nodes: ['x', 'y'] });
  expect(report.taken).toBe(2 * written);
  const restored = await versionedDump(target.engine('x'));
  // A replica that missed nothing: c.
  expect(restored).toEqual(await versionedDump(source.engine('c')));
  expect(restored['odd']).toEqual([`${at(-129)}=7ff80000deadbeef`, `${at(-128)}=8000000000000000`]);
  expect(restored['m1']?.[0]).toMatch(new RegExp(`^${at(-130)}=${bitsOf(42).toString(16)}@\\d+$`));
  expect(restored['m2']).toEqual([`${at(10)}=${bitsOf(1.5).toString(16)}`]);
  expect(await versionedDump(target.engine('y'))).toEqual(restored);
  const samples = Object.values(restored).flat().length;
  expect(report.samples).toBe(samples);
  expect(manifest.namespaces[0]?.filesets.reduce((sum, one) => sum + one.samples, 0)).toBe(samples);
  // What is written from now on wins, and a restart has it all.
  await write(target.engine('x'), 'm1', [[at(-130), 43]]);
  await target.kill('x');
  await target.start('x');
  await target.tell('x');
  await target.engine('x').ready();
  const after = await dump(target.engine('x'));
  expect(after['m1']?.[0]).toBe(`${at(-130)}=${bitsOf(43).toString(16)}`);
  expect({ ...after, m1: [] }).toEqual({ ...(await dump(target.engine('y'))), m1: [] });
});

test('only what has changed is sent again, and backups share the rest until nobody needs it', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  const first = await take(source, { fs, folder, id: 'one', nodes: NODES });
  source.clock.advance(MINUTE_NS);
  const again = await take(source, { fs, folder, id: 'two', nodes: NODES });
  expect([again.written, again.kept]).toEqual([0, first.written]);
  // All of it in files that agree: nothing has to be looked at.
  for (const node of NODES) {
    await writeBits(source.engine(node), 'missed', [[at(-127), bitsOf(7)]], 5n);
    await writeBits(
      source.engine(node),
      'm1',
      [[at(-130), bitsOf(44)]],
      source.engine('a').replica.nextStamp() + 10n ** 9n,
    );
  }
  for (const node of NODES) await write(source.engine(node), 'late', [[at(1), 1]]);
  source.clock.advance(MINUTE_NS);
  const third = await take(source, { fs, folder, id: 'three', nodes: NODES });
  expect(third.written).toBeGreaterThan(0);
  expect(third.kept).toBeGreaterThan(0);
  const pruned = await folder.prune(1);
  expect(pruned.backups).toEqual(['one', 'two']);
  expect(pruned.filesets).toBe(third.written);
  expect((await folder.list()).backups.map(({ id }) => id)).toEqual(['three']);
  const found = [];
  for await (const damage of verifyBackup(fs, folder, third.manifest.namespaces)) found.push(damage);
  expect(found).toEqual([]);
  const target = await begun(['x']);
  await restore(target, { fs, folder, id: 'three', nodes: ['x'] });
  expect((await dump(target.engine('x')))['late']).toBeDefined();
});

test('files that agree on all replicas are not read at all the second time', async () => {
  const source = await begun(NODES);
  for (const node of NODES) {
    for (const name of NAMES) await write(source.engine(node), name, [[at(-130), 1]]);
    await source.engine(node).flush({ force: true });
  }
  const { fs, folder } = await folderOfBackups();
  await take(source, { fs, folder, id: 'one', nodes: NODES });
  const asked: string[] = [];
  const report = await take(source, {
    fs,
    folder,
    id: 'two',
    nodes: NODES,
    fault: (_, request) => void asked.push(request.kind),
  });
  expect([new Set(asked), report.written, report.sentBytes]).toEqual([new Set(['shards']), 0, 0]);
});

test('a backup needs a majority of each shard, or says so; what it had by then is used by the next', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  const down = (node: string): void => {
    if (node !== 'b') throw new VarveError('PEER_UNAVAILABLE', 'it is down');
  };
  const refused = take(source, { fs, folder, id: 'none', nodes: NODES, fault: down });
  await expect(refused).rejects.toThrow(/2 replicas of shard 0 .*a: .*it is down.*b: whole/);
  expect((await folder.list()).backups).toEqual([]);
  const one = await take(source, { fs, folder, id: 'one', nodes: NODES, level: 'one', fault: down });
  expect(one.written).toBeGreaterThan(0);
  // One that goes away in the middle is left behind; when a second one goes, too few are left.
  let pages = 0;
  const interrupted = take(source, {
    fs,
    folder,
    id: 'half',
    nodes: NODES,
    level: 'all',
    fault: (node, { kind }) => {
      if (kind === 'series' && node === 'c' && ++pages > 2) down('c');
    },
  });
  await expect(interrupted).rejects.toMatchObject({ code: 'BACKUP_INCOMPLETE' });
  expect((await folder.list()).backups.map(({ id }) => id)).toEqual(['one']);
  const whole = await take(source, {
    fs,
    folder,
    id: 'whole',
    nodes: NODES,
    fault: (node, { kind }) => {
      if (kind === 'series' && node === 'c') down('c');
    },
  });
  expect(whole.manifest.namespaces[0]?.filesets.length).toBeGreaterThan(0);
});

test('a restore that breaks off, with a node that is killed, goes on where it was', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  const { written } = await take(source, { fs, folder, id: 'one', nodes: NODES });
  const target = await begun(['x', 'y']);
  const breaking = restore(target, {
    fs,
    folder,
    id: 'one',
    nodes: ['x', 'y'],
    onSend: (sent) => {
      if (sent >= 5) throw new Error('killed');
    },
  });
  await expect(breaking).rejects.toThrow('killed');
  await target.kill('x');
  await target.start('x');
  await target.tell('x');
  await target.engine('x').ready();
  const marked = (await restoreServer(target.engine('x'))).look('default');
  expect([marked.backup, marked.isEmpty]).toEqual(['one', Object.keys(marked.filesets).length === 0]);
  const other = await take(source, { fs, folder, id: 'two', nodes: NODES });
  const wrong = restore(target, { fs, folder, id: other.manifest.id, nodes: ['x', 'y'] });
  await expect(wrong).rejects.toMatchObject({ code: 'RESTORE_TARGET_NOT_EMPTY' });
  const report = await restore(target, { fs, folder, id: 'one', nodes: ['x', 'y'] });
  expect(report.present).toBeGreaterThan(0);
  expect(report.taken + report.present).toBe(2 * written);
  expect(await versionedDump(target.engine('x'))).toEqual(await versionedDump(source.engine('c')));
  expect(await versionedDump(target.engine('y'))).toEqual(await versionedDump(source.engine('c')));
  // It has ended: from now on this is a namespace as any other.
  const late = restore(target, { fs, folder, id: 'one', nodes: ['x', 'y'] });
  await expect(late).rejects.toMatchObject({ code: 'RESTORE_TARGET_NOT_EMPTY' });
});

test('a node whose disk is full says so, and takes the rest when there is room', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  await take(source, { fs, folder, id: 'one', nodes: NODES });
  const target = await begun(['x']);
  const disk = target.disk('x');
  const options = { fs, folder, id: 'one', nodes: ['x'] };
  const { capacityBytes } = disk;
  const full = restore(target, {
    ...options,
    onSend: (sent) => {
      if (sent === 3) disk.capacityBytes = 0;
    },
  });
  await expect(full).rejects.toThrow(/the disk of this node is full/);
  disk.capacityBytes = capacityBytes;
  await restore(target, options);
  expect(await versionedDump(target.engine('x'))).toEqual(await versionedDump(source.engine('c')));
});

test('a namespace that has samples is left alone, or made anew when that is said', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  await take(source, { fs, folder, id: 'one', nodes: NODES });
  const target = await begun(['x']);
  const engine = target.engine('x');
  await write(engine, 'mine', [[at(1), 1]]);
  const options = { fs, folder, id: 'one', nodes: ['x'] };
  await expect(restore(target, options)).rejects.toThrow('namespace default has samples already (on x)');
  expect(Object.keys(await dump(engine))).toEqual(['mine']);
  const others = namespaceOptions(OLD);
  const namespaces = {
    remove: async () => await engine.applyNamespaces([]),
    create: async (name: string) => {
      await engine.applyNamespaces([...engine.namespaces(), { ...others, name }]);
      await engine.ready();
    },
  };
  await restore(target, { ...options, into: 'copy', namespaces });
  expect(await versionedDump(engine, 'copy')).toEqual(await versionedDump(source.engine('c')));
  await restore(target, { ...options, overwrite: true, namespaces });
  expect(await versionedDump(engine)).toEqual(await versionedDump(source.engine('c')));
});

test('nodes with another number of shards get the same samples, each where it belongs, and a restore goes on there, too', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  await take(source, { fs, folder, id: 'one', nodes: NODES });
  const wanted = await versionedDump(source.engine('c'));
  for (const shardCount of [1, 7]) {
    const target = await begun(['x', 'y'], { shardCount });
    const options = { fs, folder, id: 'one', nodes: ['x', 'y'] };
    const breaking = restore(target, {
      ...options,
      onSend: (sent) => {
        if (sent >= 3) throw new Error('killed');
      },
    });
    await expect(breaking).rejects.toThrow('killed');
    const report = await restore(target, options);
    expect(report.present).toBeGreaterThan(0);
    expect(await versionedDump(target.engine('x'))).toEqual(wanted);
    expect(await versionedDump(target.engine('y'))).toEqual(wanted);
  }
});

test('blocks of another size are refused before anything is changed', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  await take(source, { fs, folder, id: 'one', nodes: NODES });
  const longer = await begun(['x'], { namespaces: [{ name: 'default', blockSizeNs: 4n * HOUR_NS }] });
  await expect(restore(longer, { fs, folder, id: 'one', nodes: ['x'] })).rejects.toThrow(
    'namespace default has blocks of 4h',
  );
  expect((await restoreServer(longer.engine('x'))).look('default').backup).toBeNull();
});

test('damage in a backup is told with its place, whichever file it is in', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  const { manifest } = await take(source, { fs, folder, id: 'one', nodes: NODES });
  const [fileset] = manifest.namespaces[0]?.filesets ?? [];
  if (!fileset) throw new Error('nothing was backed up');
  const id = { ...fileset, namespace: 'default' };
  for (const kind of ['data', 'index', 'info', 'digest', 'checkpoint'] as const) {
    const path = filesetPath(folder.root, id, kind);
    const content = await readWholeFile(fs, path);
    const place = Math.floor(content.length / 2);
    await flip(fs, path, place);
    const found = [];
    for await (const damage of verifyBackup(fs, folder, manifest.namespaces)) found.push(damage);
    expect(found[0]?.file).toContain(`fileset-${fileset.blockStartNs}-`);
    await flip(fs, path, place);
  }
  await flip(fs, `${FOLDER}/backups/one.db`, 40);
  const { backups, damages } = await folder.list();
  expect([backups, damages.map(({ file }) => file)]).toEqual([[], [`${FOLDER}/backups/one.db`]]);
  await expect(folder.get()).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
  await expect(folder.prune(0)).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
  await expect(folder.get('two')).rejects.toMatchObject({ code: 'BACKUP_NOT_FOUND' });
});

test('a power loss during a backup leaves those before it whole, and the next one goes on', async () => {
  const source = await begun(NODES);
  await filled(source);
  const { fs, folder } = await folderOfBackups();
  const { manifest } = await take(source, { fs, folder, id: 'one', nodes: NODES });
  for (const node of NODES) await write(source.engine(node), 'm3', [[at(12), 3]]);
  let asked = 0;
  const dying = take(source, {
    fs,
    folder,
    id: 'two',
    nodes: NODES,
    fault: (_, { kind }) => {
      if (kind === 'series' && ++asked > 3) throw new Error('the power is gone');
    },
  });
  await expect(dying).rejects.toThrow();
  const after = fs.powerLoss(3);
  const left = new BackupFolder(after, FOLDER);
  expect((await left.list()).backups.map(({ id }) => id)).toEqual(['one']);
  for await (const damage of verifyBackup(after, left, manifest.namespaces)) throw new Error(damage.reason);
  await take(source, { fs: after, folder: left, id: 'three', nodes: NODES });
  const target = await begun(['x']);
  await restore(target, { fs: after, folder: left, id: 'three', nodes: ['x'] });
  expect(await versionedDump(target.engine('x'))).toEqual(await versionedDump(source.engine('c')));
});

test('a folder with other things in it becomes none of backups', async () => {
  const { fs, folder } = await folderOfBackups();
  await fs.makeFolder(`${FOLDER}/photos`);
  await expect(folder.prepare()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(folder.list()).rejects.toMatchObject({ code: 'BACKUP_NOT_FOUND' });
});

async function flip(fs: SimulatedDisk, path: string, place: number): Promise<void> {
  await using file = await fs.open(path, 'update');
  const [byte = 0] = await file.read(place, 1);
  await file.write(place, Uint8Array.of(byte ^ 0xff));
}
