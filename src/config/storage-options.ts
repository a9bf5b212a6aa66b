import { STORAGE_QUESTIONS } from './commands.ts';
import { choice, count, duration, flag, httpUrls, path, text } from './kinds.ts';
import { option } from './option.ts';

/** Settings of the storage engine that data nodes and storage nodes have, and of those who look after one. */
export const STORAGE_OPTIONS = {
  storage: option(flag, {
    commands: ['up', 'node'],
    default: true,
    help: 'Run the storage engine for metrics on data nodes, beside their PostgreSQL.',
  }),
  storageNodes: option(count(1, 1000), {
    commands: ['node'],
    default: 3,
    help: 'On access nodes: for so many storage engines of data nodes the first placement of shards waits, up to 30 s from the first one on. `varve up` sets it to the number of data nodes.',
  }),
  httpHost: option(text, {
    commands: ['node', 'storage serve'],
    default: '127.0.0.1',
    help: 'Address on which HTTP is served. Beyond this machine it needs `storageTokenFile`.',
  }),
  storageTokenFile: option(path, {
    commands: ['up', 'node', 'storage serve', 'storage export', ...STORAGE_QUESTIONS],
    help: 'File with the bearer token that requests to the storage engine have to carry. Without it there is none, and HTTP is served on this machine only.',
  }),
  logMode: option(choice('behind', 'sync'), {
    commands: ['up', 'node', 'storage serve'],
    default: 'behind',
    help: 'When a write is acknowledged: `behind`, once it is with the operating system (survives kill -9, is on the disk soon after); `sync`, once the disk has it (survives power loss).',
  }),
  shardCount: option(count(1, 4096), {
    commands: ['up', 'node', 'storage serve'],
    default: 32,
    help: 'Number of shards of a new storage engine; kept from then on.',
  }),
  memoryMb: option(count(64, 4000), {
    commands: ['up', 'node', 'storage serve'],
    default: 512,
    help: 'Memory of the storage engine for series and open blocks. When it is used up, writes that need more are told to come back later.',
  }),
  snapshotInterval: option(duration, {
    commands: ['up', 'node', 'storage serve'],
    default: 300_000,
    help: 'How often what is only in memory and log is written to snapshots, after which the log is shortened.',
  }),
  maxLogMb: option(count(16, 1_000_000), {
    commands: ['up', 'node', 'storage serve'],
    default: 512,
    help: 'A snapshot is taken early when the log is larger than this.',
  }),
  bootstrapOrder: option(choice('default', 'prefer_peers', 'exclude_commitlog'), {
    commands: ['up', 'node', 'storage serve'],
    default: 'default',
    help: 'Where a storage node looks first for the data of its shards: `default`, its files, its log, its peers; `prefer_peers`, its files, its peers, its log; `exclude_commitlog`, its files and its peers, because its log is not trusted to have everything.',
  }),
  bootstrapConsistency: option(choice('none', 'one', 'unstrictMajority', 'majority', 'all'), {
    commands: ['up', 'node', 'storage serve'],
    default: 'majority',
    help: 'How many other replicas have to give what they have of a shard before it counts as all: `majority`, more than half of all replicas; `all`, all others; `one` and `unstrictMajority`, one if no more answer; `none`, none (data may be missing then, and nobody is told).',
  }),
  peerTimeout: option(duration, {
    commands: ['up', 'node', 'storage serve'],
    default: 15_000,
    help: 'How long one request of a bootstrap to another node may take; after three the node is left behind for a while.',
  }),
  maxBodyMb: option(count(1, 1024), {
    commands: ['up', 'node', 'storage serve'],
    default: 32,
    help: 'The largest body of a request to the storage engine, also when decompressed from gzip.',
  }),
  maxReadSamples: option(count(1000, 100_000_000_000), {
    commands: ['up', 'node', 'storage serve'],
    default: 50_000_000,
    help: 'The most samples that one read may give.',
  }),
  maxReads: option(count(1, 1000), {
    commands: ['up', 'node', 'storage serve'],
    default: 10,
    help: 'Reads that run at the same time; others wait for their turn.',
  }),
  readTimeout: option(duration, {
    commands: ['up', 'node', 'storage serve'],
    default: 120_000,
    help: 'How long a read may take, waiting included.',
  }),
  writeConsistency: option(choice('one', 'majority', 'all'), {
    commands: ['up', 'node', 'storage serve'],
    default: 'majority',
    help: 'How many replicas have to have a write of metrics before it is acknowledged. The others get it, too, as soon as they can.',
  }),
  readConsistency: option(choice('one', 'unstrictMajority', 'majority', 'all'), {
    commands: ['up', 'node', 'storage serve'],
    default: 'unstrictMajority',
    help: 'How many replicas a read of metrics asks and merges. `unstrictMajority` asks a majority and is content with fewer, which it says in a warning.',
  }),
  replicaTimeout: option(duration, {
    commands: ['up', 'node', 'storage serve'],
    default: 10_000,
    help: 'A replica that does not answer for so long is taken to have missed a write, and is left out of a read.',
  }),
  hintMaxMb: option(count(0, 1_000_000), {
    commands: ['up', 'node', 'storage serve'],
    default: 1024,
    help: 'Room on the disk for what one replica misses while it is away. What does not fit is left to the repair.',
  }),
  hintMaxAge: option(duration, {
    commands: ['up', 'node', 'storage serve'],
    default: 10_800_000,
    help: 'What a replica missed longer ago than this is not brought to it any more, but left to the repair.',
  }),
  repairInterval: option(duration, {
    commands: ['up', 'node', 'storage serve'],
    default: 3_600_000,
    help: 'How often a node compares its metrics with those of the other replicas, and takes what it lacks; 0 for never.',
  }),
  url: option(httpUrls, {
    commands: ['storage export', ...STORAGE_QUESTIONS],
    defaultText: 'that of a data node of the system in `--dir`',
    help: 'HTTP address of the storage node to ask.',
    flagOnly: true,
  }),
  endpoint: option(httpUrls, {
    commands: ['placement'],
    defaultText: 'what the coordinator knows of it',
    help: 'With add and replace: where the HTTP of the node that comes in is.',
    flagOnly: true,
  }),
  isolationGroup: option(text, {
    commands: ['placement'],
    defaultText: 'the node itself',
    help: 'With add and replace: what fails together with the node, a rack or a zone. No two replicas of a shard are in one group.',
    flagOnly: true,
  }),
  weight: option(count(1, 1_000_000), {
    commands: ['placement'],
    default: 1,
    help: 'With add and replace: the share of shards is proportional to it.',
    flagOnly: true,
  }),
  replicas: option(count(1, 5), {
    commands: ['placement'],
    defaultText: '3, or as many as there are isolation groups',
    help: 'With init: replicas of each shard.',
    flagOnly: true,
  }),
  namespace: option(text, {
    commands: ['storage inspect', 'storage export', 'bootstrap', 'backup', 'restore'],
    help: 'With storage export: the namespace, `default` unless given. With storage inspect and bootstrap: only this one. With backup and restore: only these, separated by commas.',
    flagOnly: true,
  }),
  match: option(text, {
    commands: ['storage export'],
    defaultText: 'every series',
    help: 'The selector of the series, as PromQL has them.',
    flagOnly: true,
  }),
  start: option(text, {
    commands: ['storage export'],
    help: 'The first instant, in seconds since 1970 or RFC 3339.',
    flagOnly: true,
  }),
  end: option(text, { commands: ['storage export'], help: 'The last instant.', flagOnly: true }),
  consistency: option(choice('one', 'majority', 'all'), {
    commands: ['backup'],
    default: 'majority',
    help: 'With create: how many replicas have to give what they have of a shard. With fewer than a majority the backup may lack what was acknowledged.',
    flagOnly: true,
  }),
  keep: option(count(0, 1_000_000), {
    commands: ['backup'],
    help: 'With prune: so many of the newest backups stay.',
    flagOnly: true,
  }),
  into: option(text, {
    commands: ['restore'],
    defaultText: 'the name that it had',
    help: 'Another name for the namespace that is restored.',
    flagOnly: true,
  }),
  overwrite: option(flag, {
    commands: ['restore'],
    default: false,
    help: 'Delete what a namespace has that is restored. Without, one that has samples is left alone.',
    flagOnly: true,
  }),
  for: option(duration, {
    commands: ['bootstrap'],
    default: 3_600_000,
    help: 'With skip-peer: for how long.',
    flagOnly: true,
  }),
  retention: option(text, {
    commands: ['namespace'],
    help: 'How long samples are kept (`48h`, `30d`). Settings that are left out stay as they are; of a new namespace they are: 48h, blocks of 2h, samples up to 10m late and 2m early.',
    flagOnly: true,
  }),
  blockSize: option(text, {
    commands: ['namespace'],
    help: 'The span of one block; cannot change once there is data.',
    flagOnly: true,
  }),
  indexBlockSize: option(text, {
    commands: ['namespace'],
    help: 'The span of one block of the index, a multiple of the block size; cannot change once there is data.',
    flagOnly: true,
  }),
  bufferPast: option(text, {
    commands: ['namespace'],
    help: 'How late a sample may come.',
    flagOnly: true,
  }),
  bufferFuture: option(text, {
    commands: ['namespace'],
    help: 'How far ahead of the clock a sample may be.',
    flagOnly: true,
  }),
  coldWrites: option(choice('on', 'off'), {
    commands: ['namespace'],
    help: 'Take samples that come later than that, as far as the retention goes.',
    flagOnly: true,
  }),
  cachePolicy: option(choice('none', 'all', 'recentlyRead', 'lru'), {
    commands: ['namespace'],
    help: 'What of the files is kept in memory.',
    flagOnly: true,
  }),
  maxSeries: option(count(1, 2_147_483_647), {
    commands: ['namespace'],
    help: 'New series beyond this many are refused.',
    flagOnly: true,
  }),
} as const;
