import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BootstrapMessage, BootstrapProcessOptions } from '../../../test/bootstrap-process.ts';
import { bootstrap, GroupStage, quiet } from '../../../test/group-nodes.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { sampleOf } from '../../../test/seeded-sample.ts';
import {
  ETCD_TEST_MIN_TTL_MS,
  EtcdServers,
  findEtcd,
  skipWithoutEtcd,
} from '../../coordination/etcd-process.suite.ts';
import { openCoordinator } from '../../coordination/open-coordinator.ts';
import { systemClock } from '../../core/clock.ts';
import { groupIdentity } from '../ddl/install.ts';
import { GroupContext } from './context.ts';
import { groupBootstrapSteps } from './group-steps.ts';

let stage: GroupStage;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}bootstrap-`));
  stage = await GroupStage.open(3);
});

afterAll(async () => {
  await stage[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** A daemon under a supervisor: when it ends before its bootstrap has, it is started again. */
class SupervisedNode implements AsyncDisposable {
  readonly done: Promise<void>;
  /** Told of each step as it begins. */
  onStep: (step: string) => void = () => {};
  readonly #file: string;
  #process: ChildProcess | undefined;
  #stopped = false;

  constructor(file: string, options: BootstrapProcessOptions) {
    this.#file = file;
    this.done = this.#supervise(options);
  }

  kill(): void {
    this.#process?.kill('SIGKILL');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    this.kill();
    await this.done.catch(() => {});
  }

  async #supervise(options: BootstrapProcessOptions): Promise<void> {
    await writeFile(this.#file, JSON.stringify(options));
    for (let life = 1; !this.#stopped; life += 1) {
      const end = await this.#live();
      if (end === 'done') return;
      // A server or the coordinator was killed under it: it says so and ends, as a daemon does.
      if (life === 12) throw new Error(`${options.bootstrap.node} does not come up: ${end}`);
    }
  }

  async #live(): Promise<string> {
    const script = fileURLToPath(new URL('../../../test/bootstrap-process.ts', import.meta.url));
    const child = fork(script, [this.#file], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#process = child;
    const gone = once(child, 'exit');
    const told = new Promise<string>((resolve) => {
      child.on('message', (message: BootstrapMessage) => {
        if ('step' in message) this.onStep(message.step);
        else if ('done' in message) resolve('done');
        else resolve(message.error);
      });
    });
    const end = await Promise.race([told, gone.then(() => 'killed')]);
    // One that is done stays alive, as a daemon does, until it is disposed of.
    if (end === 'done') return end;
    child.kill('SIGKILL');
    await gone;
    return end;
  }
}

interface Blow {
  readonly victim: number;
  readonly step: string;
  readonly what: 'node' | 'server' | 'both' | 'coordinator';
}

const STEPS = groupBootstrapSteps().flatMap(({ name }) => [`${name} checking`, `${name} running`]);
const BLOWS: Blow[] = [0, 1, 2].flatMap((victim) =>
  STEPS.flatMap((step) =>
    (['node', 'server', 'both', 'coordinator'] as const).map((what) => ({ victim, step, what })),
  ),
);

test(
  'processes killed at any step of the bootstrap, then restarted: one group',
  { timeout: 7_200_000 },
  async () => {
    let run = 0;
    for (const blow of sampleOf(BLOWS, 2)) {
      const cluster = `blow-${(run += 1)}`;
      const nodes = [0, 1, 2].map((i) => supervised(i, cluster));
      try {
        await survive(nodes, blow);
        await expectOneGroup(cluster);
      } catch (error) {
        throw new Error(`after ${JSON.stringify(blow)}`, { cause: error });
      } finally {
        await Promise.all(nodes.map((node) => node[Symbol.asyncDispose]()));
      }
      await stage.clean();
    }
  },
);

function supervised(index: number, cluster: string): SupervisedNode {
  const server = stage.servers.own[index];
  if (!server) throw new Error('no such server');
  return new SupervisedNode(join(folder, `${cluster}-${index}.json`), {
    cluster,
    coordinator: { kind: 'embedded', url: stage.coordinatorUrl, timeoutMs: 3000 },
    admin: server.admin(),
    bootstrap: stage.options(index),
  });
}

async function survive(nodes: readonly SupervisedNode[], { victim, step, what }: Blow): Promise<void> {
  const node = nodes[victim];
  if (!node) throw new Error('no such node');
  let blow: Promise<void> | undefined;
  node.onStep = (begun) => {
    // A step that is not this node's part never begins; then nothing is killed, and nothing has to be survived.
    if (begun !== step || blow) return;
    if (what === 'node' || what === 'both') node.kill();
    if (what === 'server' || what === 'both') blow = stage.servers.crash(victim);
    else if (what === 'coordinator') blow = stage.restartCoordinator();
    else blow = Promise.resolve();
  };
  await Promise.all(nodes.map(({ done }) => done));
  await blow;
}

async function expectOneGroup(cluster: string): Promise<void> {
  const contexts = [0, 1, 2].map((i) => stage.node(i, { cluster }));
  try {
    const [first] = contexts as [GroupContext];
    const group = (await first.keys.group.read())?.value;
    expect(group?.state).toBe('complete');
    const members = [...(await first.keys.members.list()).values()].map(({ value }) => value.state);
    expect(members).toEqual(['member', 'member', 'member']);
    for (const context of contexts) {
      expect((await context.onSelf('varve', groupIdentity))?.groupUuid).toBe(group?.uuid);
      await first.mesh.barrier(
        context.self,
        contexts.filter((to) => to !== context).map(({ self }) => self),
        { database: 'varve', timeoutMs: 30_000 },
      );
    }
  } finally {
    await Promise.all(contexts.map((context) => context[Symbol.asyncDispose]()));
  }
}

const etcd = findEtcd();
if (etcd === undefined) skipWithoutEtcd('bootstrap of a group with etcd');
else {
  test('a group comes up with etcd, which is killed in the middle and comes back', async () => {
    await using servers = await EtcdServers.start(etcd, 1);
    const contexts = [0, 1, 2].map((i) => {
      const coordinator = openCoordinator(
        { kind: 'etcd', url: servers.urls.join(','), timeoutMs: 3000, minTtlMs: ETCD_TEST_MIN_TTL_MS },
        { clock: systemClock, log: quiet },
      );
      const context = new GroupContext(stage.deps(i, 'with-etcd', coordinator), stage.options(i));
      return { coordinator, context };
    });
    try {
      const running = Promise.allSettled(contexts.map(({ context }) => bootstrap(context)));
      // As soon as there is a group.
      while (!(await contexts[0]?.context.keys.group.read())) await systemClock.sleep(10);
      await servers.kill(0);
      await servers.start(0);
      for (const result of await running) if (result.status === 'rejected') throw result.reason;
      const keys = contexts[0]?.context.keys;
      expect((await keys?.group.read())?.value.state).toBe('complete');
      expect([...((await keys?.members.list())?.values() ?? [])].map(({ value }) => value.state)).toEqual([
        'member',
        'member',
        'member',
      ]);
    } finally {
      for (const { context, coordinator } of contexts) {
        await context[Symbol.asyncDispose]();
        await coordinator[Symbol.asyncDispose]();
      }
      await stage.clean();
    }
  });
}
