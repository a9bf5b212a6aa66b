/**
 * The placement algorithm at 1,000 instances × 65,536 shards × 3 replicas: how long each change takes to plan, how
 * many replicas have to be filled anew for it, and how far the instance furthest from its share is off.
 */
import { gunzipSync } from 'node:zlib';
import {
  addInstance,
  initialPlacement,
  removeInstance,
  replaceInstance,
  type NewInstance,
} from '../src/placement/change-placement.ts';
import { checkPlacement } from '../src/placement/check-placement.ts';
import { decodePlacement, encodePlacement } from '../src/placement/placement-codec.ts';
import type { Placement } from '../src/placement/placement.ts';
import { quotas } from '../src/placement/quotas.ts';

const INSTANCES = 1000;
const SHARDS = 65_536;
const REPLICAS = 3;
const REPEATS = 5;

const instance = (id: string, isolationGroup: string): NewInstance => ({
  id,
  isolationGroup,
  weight: 1,
  endpoint: `http://${id}.example:8080`,
});

function timed<T>(what: string, run: () => T): T {
  const times: number[] = [];
  let result: T | undefined;
  const before = process.cpuUsage();
  for (let i = 0; i < REPEATS; i += 1) {
    const startMs = performance.now();
    result = run();
    times.push(performance.now() - startMs);
  }
  const { user, system } = process.cpuUsage(before);
  times.sort((a, b) => a - b);
  const median = times[Math.floor(times.length / 2)] ?? 0;
  const cpuMs = (user + system) / 1000 / REPEATS;
  process.stdout.write(
    `${what.padEnd(20)} ${median.toFixed(0).padStart(6)} ms (slowest ${times.at(-1)?.toFixed(0)} ms; CPU ${cpuMs.toFixed(0)} ms each)\n`,
  );
  return result as T;
}

function report(before: Placement, after: Placement): void {
  const findings = checkPlacement(after);
  if (findings.length > 0) throw new Error(`not a placement: ${findings[0]}`);
  const had = new Map(
    before.instances.map(({ id, shards }) => [id, new Set(shards.map((shard) => shard.id))]),
  );
  let filled = 0;
  for (const { id, shards } of after.instances)
    for (const shard of shards) if (!had.get(id)?.has(shard.id)) filled += 1;
  const staying = after.instances.filter(({ isLeaving }) => !isLeaving);
  const shares = quotas(staying, after);
  const off = staying.map(({ id, shards }) => {
    const counted = shards.filter(({ state }) => state !== 'leaving').length;
    const { floor = 0, ceil = 0 } = shares.get(id) ?? {};
    return Math.max(0, floor - counted, counted - ceil);
  });
  process.stdout.write(
    `  replicas filled anew ${filled}, furthest from its share ${Math.max(...off)} shards\n`,
  );
}

for (const groups of [INSTANCES, 10]) {
  process.stdout.write(
    `${INSTANCES} instances in ${groups} isolation groups, ${SHARDS} shards, ${REPLICAS} replicas\n`,
  );
  const instances = Array.from({ length: INSTANCES }, (_, i) =>
    instance(`n${String(i).padStart(4, '0')}`, `g${i % groups}`),
  );
  const startMs = performance.now();
  const first = initialPlacement({ instances, shardCount: SHARDS, replicaFactor: REPLICAS });
  process.stdout.write(
    `${'first placement'.padEnd(20)} ${(performance.now() - startMs).toFixed(0).padStart(6)} ms\n`,
  );
  const before: Placement = {
    ...first,
    instances: first.instances.map((one) => ({
      ...one,
      shards: one.shards.map(({ id }) => ({ id, state: 'available' })),
    })),
    everAvailable: Array.from({ length: SHARDS }, (_, shard) => shard),
  };
  const newcomer = instance('x', groups === INSTANCES ? 'x' : 'g3');
  report(
    before,
    timed('add', () => addInstance(before, newcomer)),
  );
  process.stdout.write(`  fair share ${Math.ceil((SHARDS * REPLICAS) / (INSTANCES + 1))}\n`);
  report(
    before,
    timed('remove', () => removeInstance(before, 'n0007')),
  );
  report(
    before,
    timed('replace', () =>
      replaceInstance(before, 'n0007', instance('x', before.instances[7]?.isolationGroup ?? 'x')),
    ),
  );
  const value = timed('encode', () => encodePlacement(before));
  timed('decode and check', () => decodePlacement(value));
  process.stdout.write(`  ${value.length} bytes, ${gunzipSync(value).length} before compression\n`);
}
