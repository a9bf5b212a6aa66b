import { afterEach, expect, test } from 'vitest';
import { SampleLedger, WriteRefused, type PreparedWrite, type Sample } from '../../test/sample-ledger.ts';
import { SeededRandom, seedCount } from '../../test/seeded-random.ts';
import { StorageNodes, type StorageNode } from '../../test/storage-nodes.ts';

/**
 * Whole clusters of real processes, by seed: writes that are late, sent twice or corrections, while nodes are killed and
 * restarted, cut off, added, replaced and taken out. `src/storage/sim` does the same with thousands of seeds and
 * simulated nodes; here disk, network, processes and time are real. A seed says what is done, not how it falls out.
 */
const NODES = 5;
const REPLICAS = 3;
const STEPS = Number(process.env['VARVE_STEPS'] ?? 40);
const SERIES = 40;
const STEP_MS = 400;

let cluster: StorageNodes | undefined;
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
  cluster = undefined;
});

type Trouble = 'killed' | 'stopped' | 'cut';

class Run {
  /** Nodes forget stamps when they restart: see _Which value stays_ in docs/replication.md. */
  readonly ledger = new SampleLedger('default', { mayComeBack: true });
  readonly steps: string[] = [];
  readonly #cluster: StorageNodes;
  readonly #random: SeededRandom;
  #troubled: { readonly node: StorageNode; readonly trouble: Trouble } | undefined;
  #writing: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(cluster: StorageNodes, seed: number) {
    this.#cluster = cluster;
    this.#random = new SeededRandom(seed);
  }

  /** Clients that write until `end`. */
  begin(): void {
    this.#writing = Promise.all([0, 1].map((client) => this.#write(client))).then(() => {});
  }

  async step(): Promise<void> {
    const random = this.#random;
    if (this.#troubled && random.chance(0.4)) await this.recover();
    else if (!this.#troubled && random.chance(0.5)) await this.#beginTrouble();
    else if (random.chance(0.4)) await this.#change();
    await new Promise((resolve) => setTimeout(resolve, STEP_MS * random.next()));
  }

  async recover(): Promise<void> {
    const troubled = this.#troubled;
    this.#troubled = undefined;
    if (!troubled) return;
    const { node, trouble } = troubled;
    this.steps.push(`${node.id} is back`);
    if (trouble === 'cut') node.link.reopen();
    else await node.start({ untilListening: true });
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#writing;
    await this.recover();
    for (const node of this.#cluster.nodes) if (!node.isUp) await node.start({ untilListening: true });
  }

  async #beginTrouble(): Promise<void> {
    const node = this.#random.pick(this.#cluster.nodes as [StorageNode, ...StorageNode[]]);
    const trouble = this.#random.pick<Trouble>(['killed', 'killed', 'stopped', 'cut']);
    this.#troubled = { node, trouble };
    this.steps.push(`${node.id} is ${trouble}`);
    if (trouble === 'cut') node.link.breakAll(true);
    else await node.end(trouble === 'killed' ? 'SIGKILL' : 'SIGTERM');
  }

  /** Also while another change is under way, or a node is in trouble. */
  async #change(): Promise<void> {
    const random = this.#random;
    const { instances } = await this.#cluster.placement();
    const members = instances.filter(({ isLeaving }) => !isLeaving).map(({ id }) => id);
    const inside = this.#cluster.nodes.filter(({ id }) => members.includes(id));
    const outside = this.#cluster.nodes.filter((node) => !members.includes(node.id) && node.isUp);
    const node = random.pick(inside as [StorageNode, ...StorageNode[]]);
    const [comes] = outside;
    const which = random.pick(['add', 'remove', 'replace']);
    try {
      if (which === 'add' && comes) await this.#cluster.add(comes);
      else if (which === 'remove' && members.length > REPLICAS) await this.#cluster.remove(node);
      else if (which === 'replace' && comes) await this.#cluster.replace(node, comes);
      else return;
      this.steps.push(`${which} ${comes?.id ?? ''} ${which === 'add' ? '' : node.id}`);
    } catch (error) {
      this.steps.push(`${which} was refused: ${String(error)}`);
    }
  }

  async #write(client: number): Promise<void> {
    const random = new SeededRandom(this.#random.below(1e9));
    while (!this.#ended) {
      const timeMs = Math.floor(Date.now() / 1000 - random.below(4)) * 1000;
      // No two clients write the same series: then the last that was acknowledged is the one that stays.
      const chosen = new Set(
        Array.from({ length: 1 + random.below(15) }, () => `${client}-${random.below(SERIES)}`),
      );
      const write = this.ledger.prepare([...chosen].map((series): Sample => ({ series, timeMs })));
      await this.#offer(write, random);
      if (random.chance(0.1)) await this.#offer(write, random);
      await new Promise((resolve) => setTimeout(resolve, 5 + random.below(20)));
    }
  }

  /** Until one takes it, three times at most: what nobody has acknowledged may be there or not. */
  async #offer(write: PreparedWrite, random: SeededRandom): Promise<void> {
    for (let i = 0; i < 3; i++) {
      const node = random.pick(this.#cluster.nodes as [StorageNode, ...StorageNode[]]);
      try {
        await this.ledger.send(node, write);
        return;
      } catch (error) {
        if (error instanceof WriteRefused && error.status === 400) throw error;
      }
    }
  }
}

const seeds = Array.from({ length: seedCount(3) }, (_, i) => Number(process.env['VARVE_SEED'] ?? 1) + i);

test.each(seeds)(
  'what was acknowledged is read from every node, and replicas become equal, whatever happened to processes and links: seed %i',
  { timeout: 600_000 },
  async (seed) => {
    cluster = await StorageNodes.open('chaos', {
      count: NODES,
      shardCount: 16,
      flags: {
        'replica-timeout': '1s',
        'peer-timeout': '2s',
        'read-consistency': 'majority',
        'repair-interval': '5s',
        'snapshot-interval': '3s',
      },
    });
    await cluster.begin(NODES - 1, REPLICAS);
    await cluster.node(NODES).start();
    const run = new Run(cluster, seed);
    const said = (): string => `VARVE_SEED=${seed} VARVE_SEEDS=0.34: ${run.steps.join('; ')}`;
    run.begin();
    try {
      for (let i = 0; i < STEPS; i++) await run.step();
    } finally {
      await run.end();
    }
    await cluster.settled().catch((error: unknown) => {
      throw new Error(said(), { cause: error });
    });
    for (const node of cluster.nodes) {
      await expect.poll(() => node.status().then(({ reason }) => reason), { timeout: 30_000 }).toBeNull();
      expect(run.ledger.faults(await node.exportedAtLast()), `${node.id}; ${said()}`).toEqual([]);
    }
    expect(run.ledger.size).toBeGreaterThan(100);
    // Hints first; what was lost with them is healed once it is a minute old.
    const system = cluster;
    await expect
      .poll(() => system.lacking(run.ledger, REPLICAS), { timeout: 180_000, interval: 1000, message: said() })
      .toBe(0);
    for (const node of cluster.nodes) {
      expect(run.ledger.faults(await node.exportedAtLast()), `${node.id}, at the end; ${said()}`).toEqual([]);
    }
  },
);
