import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { freePorts } from '../../test/free-ports.ts';
import { silentLog } from '../coordination/contract.suite.ts';
import { EmbeddedCoordinator } from '../coordination/embedded-server.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { systemClock } from '../core/clock.ts';
import { resolveOptions } from '../config/resolve.ts';
import type { Log } from '../node/log.ts';
import type { PlacementPlan, PlacementView } from '../node/placement-control.ts';
import { PlacementRegistry } from '../node/placement-registry.ts';
import { runStorageNode } from '../node/storage-daemon.ts';
import { storageNodeOptions } from '../node/storage-settings.ts';
import { commandLine } from './main.ts';
import type { CliContext } from './context.ts';
import { errorText } from './error-text.ts';
import { exitCodeOf } from './exit-codes.ts';
import { placement as placementCommand } from './placement-command.ts';

/** Storage nodes without PostgreSQL, as an operator has them in his hands. */
const NAMES = ['s1', 's2', 's3', 's4', 's5'];
const TOKEN = 'a-token-of-the-test';

interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const log: Log = { ...silentLog, debug: () => {} };
let base: string;
let tokenFile: string;
let coordinator: EmbeddedCoordinator;
let urls: ReadonlyMap<string, string>;
const nodes = new Map<string, { readonly stop: AbortController; readonly ended: Promise<void> }>();

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'varve-test-placement-'));
  tokenFile = join(base, 'token');
  await writeFile(tokenFile, TOKEN, { mode: 0o600 });
  await mkdir(join(base, 'coordinator'));
  coordinator = await EmbeddedCoordinator.start(
    { folder: join(base, 'coordinator') },
    { clock: systemClock, log: silentLog },
  );
  const ports = await freePorts(NAMES.length);
  urls = new Map(NAMES.map((name, i) => [name, `http://127.0.0.1:${ports[i]}`]));
  await Promise.all(['s1', 's2', 's3', 's4'].map((name) => serve(name)));
}, 60_000);

afterAll(async () => {
  await Promise.all([...nodes.keys()].map(end));
  await coordinator.close();
  await rm(base, { recursive: true });
});

async function end(name: string): Promise<void> {
  const node = nodes.get(name);
  node?.stop.abort();
  await node?.ended;
}

/** Resolves when the node is ready. */
async function serve(name: string, shardCount = 16): Promise<void> {
  const text = JSON.stringify({
    name,
    kind: 'storage',
    folder: join(base, name),
    httpPort: Number(new URL(urls.get(name) ?? '').port),
    coordinatorKind: 'embedded',
    coordinator: coordinator.url,
    storageTokenFile: tokenFile,
    memoryMb: 64,
    shardCount,
  });
  const options = resolveOptions('node', { flags: {}, environment: {}, file: { path: name, text } });
  const stop = new AbortController();
  let ended: Promise<void> = Promise.resolve();
  await new Promise<void>((resolve, reject) => {
    const report = ({ type }: { readonly type: string }): void => void (type === 'ready' && resolve());
    ended = runStorageNode({ log, clock: systemClock, report }, storageNodeOptions(options), stop.signal);
    ended.catch(reject);
  });
  nodes.set(name, { stop, ended });
}

/** A command line as a process would take it. */
async function varve(args: readonly string[]): Promise<CommandResult> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const context = {
    environment: {},
    stdin: Object.assign(new PassThrough(), { isTTY: false }),
    stdout,
    stderr,
    script: '',
  } as unknown as CliContext;
  let code = 0;
  try {
    const line = commandLine(async (_, flags, given) => {
      code = await placementCommand(context, flags, given);
    }, 'placement');
    await line.parseAsync([...args], { from: 'user' });
  } catch (error) {
    stderr.write(`${errorText(error)}\n`);
    code = exitCodeOf(error);
  }
  const read = (stream: PassThrough): string => ((stream.read() as Buffer | null) ?? '').toString();
  return { code, stdout: read(stdout), stderr: read(stderr) };
}

/** Asks all of them: the first that answers is enough. */
const placement = (...args: string[]): Promise<CommandResult> =>
  varve(['placement', ...args, '--url', [...urls.values()].join(','), '--storage-token-file', tokenFile]);

async function view(): Promise<PlacementView> {
  return JSON.parse((await placement('show', '--json')).stdout) as PlacementView;
}

/** Of each instance: shards that are initializing, available and leaving. */
async function counts(): Promise<Record<string, string>> {
  const { placement: shown } = await view();
  return Object.fromEntries(
    (shown?.instances ?? []).map(({ node, shards }) => [
      node,
      `${shards.initializing}/${shards.available}/${shards.leaving}`,
    ]),
  );
}

/** The coordinator may learn of a node a moment after it is ready. */
const filled = { timeout: 40_000, interval: 200 };
const known = { timeout: 10_000, interval: 200 };

test('nodes stand alone until a placement is made, whose shards are soon available', async () => {
  const none = await placement('show');
  expect([none.code, none.stdout]).toEqual([
    3,
    'There is no placement yet: each storage node stands alone.\n',
  ]);
  const early = await placement('add', 's1', '--yes');
  expect([early.code, early.stderr]).toEqual([1, expect.stringContaining('varve placement init')]);

  const plan = async (): Promise<CommandResult> => placement('plan', 'init', 's1,s2,s3', '--replicas', '2');
  await expect.poll(plan, known).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(
      /32 replicas are filled, with 0 B of filesets\.\nShards: s1 0 → 10, s2 0 → 11, s3 0 → 11/,
    ),
  });
  const unsure = await placement('init', 's1,s2,s3', '--replicas', '2');
  expect([unsure.code, unsure.stderr]).toEqual([
    2,
    expect.stringContaining('Nothing was changed. Add --yes to do it'),
  ]);
  expect((await view()).placement).toBeNull();

  expect((await placement('init', 's1,s2,s3', '--replicas', '2', '--yes')).code).toBe(0);
  await expect.poll(counts, known).toEqual({ s1: '0/10/0', s2: '0/11/0', s3: '0/11/0' });
  const { changes, placement: shown } = await view();
  expect(changes).toEqual([
    { version: 1, at: expect.any(String), by: userInfo().username, what: 'made with s1, s2, s3' },
  ]);
  expect(shown?.shards.every(({ everAvailable, instances }) => everAvailable && instances.length === 2)).toBe(
    true,
  );
  const again = await placement('init', 's1,s2', '--yes');
  expect([again.code, again.stderr]).toEqual([1, expect.stringContaining('there is a placement already')]);
});

test('a dry run says what would move, and moves nothing', async () => {
  const { stdout } = await placement('plan', 'add', 's4', '--weight', '2', '--json');
  const plan = JSON.parse(stdout) as PlacementPlan;
  expect(plan.instances).toEqual([
    { node: 's1', before: 10, after: 6 },
    { node: 's2', before: 11, after: 7 },
    { node: 's3', before: 11, after: 7 },
    { node: 's4', before: 0, after: 12 },
  ]);
  expect(plan.moves).toHaveLength(12);
  expect(plan.moves.every(({ to, from, bytes }) => to === 's4' && from !== null && bytes === 0)).toBe(true);
  expect(plan.silent).toEqual([]);
  expect((await view()).placement?.instances).toHaveLength(3);
  const text = await placement('plan', 'remove', 's1');
  expect(text.stdout).toMatch(
    /10 replicas are filled, with 0 B of filesets\.\nShards: s1 10 → 0, s2 11 → 16, s3 11 → 16/,
  );
});

test('a node is added, replaced and removed while every sample stays readable', async () => {
  const headers = { authorization: `Bearer ${TOKEN}` };
  const nowMs = Date.now();
  const lines = Array.from({ length: 200 }, (_, i) => `m,n=${i} v=${i} ${nowMs}`).join('\n');
  const written = await fetch(`${urls.get('s2')}/write?precision=ms`, {
    method: 'POST',
    body: lines,
    headers,
  });
  expect(written.status).toBe(204);
  const readable = async (name: string): Promise<number> => {
    const match = encodeURIComponent('{__name__!=""}');
    const answer = await fetch(`${urls.get(name)}/api/v1/export?match[]=${match}`, { headers });
    return (await answer.text()).split('\n').filter((line) => line !== '').length;
  };
  expect(await readable('s1')).toBe(200);

  expect((await placement('add', 's4', '--yes')).code).toBe(0);
  await expect.poll(counts, filled).toEqual({ s1: '0/8/0', s2: '0/8/0', s3: '0/8/0', s4: '0/8/0' });
  expect(await Promise.all(['s1', 's4'].map(readable))).toEqual([200, 200]);

  expect((await placement('remove', 's2', '--yes')).code).toBe(0);
  await expect.poll(counts, filled).toEqual({ s1: '0/11/0', s3: '0/11/0', s4: '0/10/0' });
  expect(await Promise.all(['s1', 's4'].map(readable))).toEqual([200, 200]);

  expect((await placement('replace', 's4', 's2', '--yes')).code).toBe(0);
  await expect.poll(counts, filled).toEqual({ s1: '0/11/0', s2: '0/10/0', s3: '0/11/0' });
  expect(await Promise.all(['s1', 's2'].map(readable))).toEqual([200, 200]);
  expect((await view()).changes.map(({ what }) => what)).toEqual([
    's2 takes the place of s4',
    's2 was taken out',
    's4 was added',
    'made with s1, s2, s3',
  ]);
});

test('changes are refused with what to do', async () => {
  const refusals: [string[], number, string][] = [
    [['add', 's9', '--yes'], 1, 'the coordinator knows no node s9'],
    [['add', 's9', '--endpoint', urls.get('s4') ?? '', '--yes'], 1, 'is answered by node s4, not by s9'],
    [['add', 's1', '--yes'], 1, 'instance s1 is in the placement already'],
    [['remove', 's9', '--yes'], 1, 'There are s1, s2, s3'],
    [['replace', 's1', '--yes'], 2, 'needs a second name'],
    [['remove'], 2, 'needs the name of a node'],
    [['move', 's1'], 2, 'there is no varve placement move'],
  ];
  for (const [args, code, text] of refusals) {
    expect(await placement(...args)).toMatchObject({ code, stderr: expect.stringContaining(text) });
  }
  const token = await varve(['placement', 'show', '--url', urls.get('s1') ?? '']);
  expect([token.code, token.stderr]).toEqual([
    1,
    expect.stringContaining('the bearer token is missing or wrong'),
  ]);
});

test('names of the registry of data nodes are left to it', async () => {
  await using client = openCoordinator(
    { kind: 'embedded', url: coordinator.url },
    { clock: systemClock, log: silentLog },
  );
  const registry = new PlacementRegistry(client);
  const { version } = await registry.read();
  expect(await registry.write({ names: { s3: ['varve'], s4: ['varve'] }, replicas: null }, version)).toBe(
    true,
  );
  const added = await placement('add', 's4', '--yes');
  expect([added.code, added.stderr]).toEqual([
    1,
    expect.stringContaining('belongs to the registry of data nodes'),
  ]);
  const removed = await placement('remove', 's3', '--yes');
  expect([removed.code, removed.stderr]).toEqual([
    1,
    expect.stringContaining("SELECT delete_data_node('s3')"),
  ]);
  expect((await view()).owned).toEqual(['s3', 's4']);
  const owned = await registry.read();
  expect(await registry.write({ names: {}, replicas: null }, owned.version)).toBe(true);
});

test('a node with another number of shards stays out', async () => {
  await serve('s5', 32);
  const text = 'node s5 has 32 shards, and the placement 16';
  const add = async (): Promise<string> => (await placement('add', 's5', '--yes')).stderr;
  await expect.poll(add, known).toContain(text);
});

test('a node that is down stays in, and the others answer for the placement', async () => {
  await end('s1');
  const { placement: shown } = await view();
  expect(shown?.instances.map(({ node }) => node)).toEqual(['s1', 's2', 's3']);
  const { silent, bytes } = JSON.parse(
    (await placement('plan', 'remove', 's1', '--json')).stdout,
  ) as PlacementPlan;
  expect([silent.map(({ node }) => node), bytes]).toEqual([['s1'], 0]);
  await serve('s1');
  await expect.poll(counts, known).toEqual({ s1: '0/11/0', s2: '0/10/0', s3: '0/11/0' });
});
