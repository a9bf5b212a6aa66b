import { gunzipSync, gzipSync } from 'node:zlib';
import * as z from 'zod';
import { messageOf, VarveError } from '../core/errors.ts';
import { checkPlacement } from './check-placement.ts';
import { MAX_SHARDS } from './change-placement.ts';
import type { PlacedInstance, PlacedShard, Placement } from './placement.ts';

/**
 * A placement as the value of one key. JSON that people can read, in which sets of shards are runs: `0-31`, `0 4 9-12`
 * (each number is the distance from the end of the run before, so `9-12` behind `0 4` is 15 to 18: small numbers
 * compress well). Behind 64 KiB it is compressed with gzip, whose first two bytes tell it apart.
 */
const PLAIN_BYTES = 65_536;
/** Against a value that is small and unpacks to a lot. */
const MAX_TEXT_BYTES = 16 * 1024 * 1024;
const FORMAT = 1;

const instanceValue = z.strictObject({
  id: z.string(),
  group: z.string(),
  weight: z.int().min(1),
  endpoint: z.string(),
  leaving: z.literal(true).optional(),
  /** Shards by state. `from`: initializing ones by their source, those without one under the empty name. */
  available: z.string().optional(),
  left: z.string().optional(),
  from: z.record(z.string(), z.string()).optional(),
});

const placementValue = z.strictObject({
  format: z.literal(FORMAT),
  version: z.int().min(1),
  replicaFactor: z.int().min(1),
  shardCount: z.int().min(1).max(MAX_SHARDS),
  everAvailable: z.string(),
  instances: z.array(instanceValue),
});

export function encodePlacement(placement: Placement): Buffer {
  const { version, replicaFactor, shardCount, everAvailable, instances } = placement;
  const text = JSON.stringify({
    format: FORMAT,
    version,
    replicaFactor,
    shardCount,
    everAvailable: runsText(everAvailable),
    instances: instances.map(instanceJson),
  } satisfies z.input<typeof placementValue>);
  const plain = Buffer.from(text);
  return plain.length > PLAIN_BYTES ? gzipSync(plain, { level: 9 }) : plain;
}

/** @throws PLACEMENT_UNREADABLE for what is no placement, or one that contradicts itself */
export function decodePlacement(value: Uint8Array): Placement {
  try {
    const isPacked = value[0] === 0x1f && value[1] === 0x8b;
    const plain = isPacked ? gunzipSync(value, { maxOutputLength: MAX_TEXT_BYTES }) : value;
    const parsed = placementValue.parse(JSON.parse(Buffer.from(plain).toString()));
    const { version, replicaFactor, shardCount } = parsed;
    const read = (text: string | undefined): number[] => runsOf(text ?? '', shardCount);
    const placement: Placement = {
      version,
      replicaFactor,
      shardCount,
      everAvailable: read(parsed.everAvailable),
      instances: parsed.instances.map((one) => instanceOf(one, read)),
    };
    const [finding] = checkPlacement(placement);
    if (finding !== undefined) throw new Error(finding);
    return placement;
  } catch (error) {
    throw new VarveError('PLACEMENT_UNREADABLE', `the stored placement cannot be used: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function instanceJson(instance: PlacedInstance): z.input<typeof instanceValue> {
  const { id, isolationGroup: group, weight, endpoint, isLeaving, shards } = instance;
  const available: number[] = [];
  const left: number[] = [];
  const from = new Map<string, number[]>();
  for (const { id: shard, state, sourceId = '' } of shards) {
    if (state === 'available') available.push(shard);
    else if (state === 'leaving') left.push(shard);
    else {
      const filled = from.get(sourceId) ?? [];
      filled.push(shard);
      from.set(sourceId, filled);
    }
  }
  return {
    id,
    group,
    weight,
    endpoint,
    ...(isLeaving ? { leaving: true } : {}),
    ...(available.length > 0 ? { available: runsText(available) } : {}),
    ...(left.length > 0 ? { left: runsText(left) } : {}),
    ...(from.size > 0
      ? { from: Object.fromEntries([...from].map(([source, filled]) => [source, runsText(filled)])) }
      : {}),
  };
}

function instanceOf(
  { id, group, weight, endpoint, leaving, available, left, from = {} }: z.output<typeof instanceValue>,
  read: (text: string | undefined) => number[],
): PlacedInstance {
  const shards: PlacedShard[] = [
    ...read(available).map((shard) => ({ id: shard, state: 'available' as const })),
    ...read(left).map((shard) => ({ id: shard, state: 'leaving' as const })),
    ...Object.entries(from).flatMap(([sourceId, text]) =>
      read(text).map((shard) => ({
        id: shard,
        state: 'initializing' as const,
        ...(sourceId === '' ? {} : { sourceId }),
      })),
    ),
  ];
  return {
    id,
    isolationGroup: group,
    weight,
    endpoint,
    ...(leaving ? { isLeaving: true as const } : {}),
    shards: shards.sort((a, b) => a.id - b.id),
  };
}

/** Ascending numbers as runs, each counted from behind the run before. */
function runsText(numbers: readonly number[]): string {
  const runs: string[] = [];
  let behind = 0;
  for (let i = 0; i < numbers.length;) {
    const first = numbers[i] ?? 0;
    let end = i + 1;
    while (end < numbers.length && numbers[end] === first + (end - i)) end += 1;
    const from = first - behind;
    runs.push(end === i + 1 ? String(from) : `${from}-${from + end - i - 1}`);
    behind = first + (end - i);
    i = end;
  }
  return runs.join(' ');
}

function runsOf(text: string, shardCount: number): number[] {
  const numbers: number[] = [];
  let behind = 0;
  for (const run of text === '' ? [] : text.split(' ')) {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(run);
    if (!match) throw new Error(`"${run.slice(0, 20)}" is no run of shards`);
    const first = behind + Number(match[1]);
    const last = behind + Number(match[2] ?? match[1]);
    if (last < first || last >= shardCount) throw new Error(`"${run}" is beyond the shards that there are`);
    for (let number = first; number <= last; number += 1) numbers.push(number);
    behind = last + 1;
  }
  return numbers;
}
