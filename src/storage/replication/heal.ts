import type { Clock } from '../../core/clock.ts';
import { mergeColumns, NO_COLUMNS, type Columns } from '../engine/columns.ts';
import type { SeriesBatch, SeriesBits } from '../engine/replica-access.ts';
import { idleLimited } from './idle-limit.ts';
import { compareLabelBytes } from './label-order.ts';
import { LEAST_VERSION, survivors, type LocalReplica } from './local-replica.ts';
import { missingFrom } from './merge-columns.ts';
import { recordsOf } from './replicated-read.ts';
import type { ReplicaAddress, ReplicaDelete, ReplicaTransport } from './replica-transport.ts';

export interface HealRange {
  readonly namespace: string;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly shards: readonly number[];
}

/** Samples that are written at once. */
const MOST_SAMPLES = 20_000;

/** Goes through the same series here and there, and takes what is missing here. Returns how many samples that were. */
export async function healFrom(
  deps: { readonly local: LocalReplica; readonly transport: ReplicaTransport; readonly clock: Clock },
  peer: ReplicaAddress & { readonly behind: readonly ReplicaDelete[] },
  options: { readonly range: HealRange; readonly signal: AbortSignal; readonly timeoutMs: number },
): Promise<number> {
  const { range, signal, timeoutMs } = options;
  const { namespace, startNs, endNs, shards } = range;
  const { local, transport, clock } = deps;
  const question = { kind: 'read', namespace, matchers: [], shards } as const;
  const asked = { ...question, startNs: String(startNs), endNs: String(endNs) };
  const limit = { who: `replica ${peer.id}`, timeoutMs, clock };
  const answer = idleLimited(transport.ask(peer, asked, signal), limit);
  const theirs = wholeSeries(recordsOf(answer));
  const mine = wholeSeries(
    local.replica.readBatches(namespace, { matchers: [], startNs, endNs, shards, signal, ordered: true }),
  );
  const behind = peer.behind.filter((deletion) => deletion.namespace === namespace);
  const writes = new HealWrites(local, namespace);
  try {
    let own = await mine.next();
    for await (const { id, columns } of theirs) {
      while (!own.done && compareLabelBytes(own.value.id, id) < 0) own = await mine.next();
      const isSame = !own.done && compareLabelBytes(own.value.id, id) === 0;
      const missing = missingFrom(isSame && !own.done ? own.value.columns : NO_COLUMNS, columns);
      if (missing.times.length > 0) await writes.add(id, missing, behind);
    }
    await writes.flush();
  } finally {
    await mine.return();
  }
  return writes.samples;
}

/** Batches of one series put together: of one block they are few. */
async function* wholeSeries(batches: AsyncIterable<SeriesBatch>): AsyncGenerator<SeriesBatch, void, void> {
  let id: Uint8Array | undefined;
  let columns: Columns = NO_COLUMNS;
  for await (const batch of batches) {
    if (id && Buffer.compare(id, batch.id) === 0) {
      columns = mergeColumns(columns, copyOf(batch.columns));
      continue;
    }
    if (id) yield { id, columns };
    id = batch.id;
    columns = copyOf(batch.columns);
  }
  if (id) yield { id, columns };
}

function copyOf({ times, bits, overwrites }: Columns): Columns {
  return { times: times.slice(), bits: bits.slice(), overwrites };
}

/** What is missing, by the version that it has there. */
class HealWrites {
  samples = 0;
  readonly #local: LocalReplica;
  readonly #namespace: string;
  readonly #series = new Map<bigint, SeriesBits[]>();
  #waiting = 0;

  constructor(local: LocalReplica, namespace: string) {
    this.#local = local;
    this.#namespace = namespace;
  }

  async add(id: Uint8Array, columns: Columns, behind: readonly ReplicaDelete[]): Promise<void> {
    for (const [version, places] of placesByVersion(columns)) {
      const bits: SeriesBits = {
        labels: id,
        times: BigInt64Array.from(places, (place) => columns.times[place] as bigint),
        bits: BigUint64Array.from(places, (place) => columns.bits[place] as bigint),
      };
      const left = behind.length === 0 ? [bits] : survivors([bits], behind);
      const list = this.#series.get(version) ?? [];
      list.push(...left);
      this.#series.set(version, list);
      for (const { times } of left) this.#waiting += times.length;
    }
    if (this.#waiting >= MOST_SAMPLES) await this.flush();
  }

  async flush(): Promise<void> {
    for (const [version, series] of this.#series) {
      if (series.length === 0) continue;
      const { samples } = await this.#local.heal(this.#namespace, series, version);
      this.samples += samples;
    }
    this.#series.clear();
    this.#waiting = 0;
  }
}

function placesByVersion({ times, overwrites }: Columns): Map<bigint, number[]> {
  const versions = new Map(overwrites.map(({ place, version }) => [place, version]));
  const places = new Map<bigint, number[]>();
  for (let place = 0; place < times.length; place++) {
    const version = versions.get(place) ?? LEAST_VERSION;
    const list = places.get(version) ?? [];
    list.push(place);
    places.set(version, list);
  }
  return places;
}
