import type { SealedInput } from '../engine/block-writer.ts';
import type { ColumnCodec } from '../engine/sealed-series.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import { mergeReplicas } from '../replication/merge-columns.ts';
import { openColumns, sealColumns } from './block-content.ts';
import type { PeerClient } from './peer-client.ts';
import { decodeSeriesPage, type PeerSeries } from './peer-messages.ts';
import type { PeerBlockId } from './peer-transport.ts';

export interface MergeDeps {
  readonly client: PeerClient;
  readonly codec: () => ColumnCodec;
  readonly signal: AbortSignal;
  /** Told of what came over the network. */
  readonly onBytes: (bytes: number) => void;
}

export interface MergedSeries {
  readonly id: Buffer;
  /** Valid until the next one is asked for. */
  readonly columns: SealedInput;
  /** Peers had different samples of it. */
  readonly isMerged: boolean;
}

const PAGE_BYTES = 1024 * 1024;
/** Differing series are asked for together, but no more than this of what is ready waits for them. */
const WAITING_SERIES = 512;
const WAITING_BYTES = 4 * 1024 * 1024;
const IDS_A_CALL = 128;

/** A series of which it is known who has what. */
interface Waiting {
  readonly id: Buffer;
  readonly columns: SealedInput | undefined;
  /** The others whose samples are needed. */
  readonly from: readonly string[];
}

/**
 * A shard's block as all of the peers together have it, in the order of ids. The first peer sends samples, the others
 * checksums; only where these differ, or the first has not got a series, others are asked for samples. Holds a page of
 * each peer at a time.
 * @throws PeerFailure when one of them cannot go on
 */
export async function* mergedSeries(
  deps: MergeDeps,
  block: PeerBlockId,
  nodes: readonly string[],
): AsyncGenerator<MergedSeries, void, void> {
  const streams = nodes.map((node, place) => new PeerStream(deps, block, { node, hasColumns: place === 0 }));
  await Promise.all(streams.map(async (stream) => await stream.next()));
  let waiting: Waiting[] = [];
  let bytes = 0;
  for (;;) {
    const heads = streams.filter(({ head }) => head !== undefined);
    const least = heads.reduce<Buffer | undefined>(
      (id, { head }) => (head && (!id || Buffer.compare(head.id, id) < 0) ? head.id : id),
      undefined,
    );
    if (!least) break;
    const holders = heads.filter(({ head }) => head?.id.equals(least));
    const [first, ...others] = holders;
    const agree = others.every(({ head }) => head && first?.head?.checksum.equals(head.checksum));
    const columns = first?.head?.columns;
    const rest = columns ? others : holders;
    const from = agree ? (columns ? [] : rest.slice(0, 1)) : rest;
    if (columns && from.length === 0 && waiting.length === 0) {
      yield { id: least, columns, isMerged: false };
    } else {
      waiting.push({ id: least, columns, from: from.map(({ node }) => node) });
      bytes += columns?.values.length ?? 0;
      if (waiting.length >= WAITING_SERIES || bytes >= WAITING_BYTES) {
        yield* settled(deps, block, waiting);
        waiting = [];
        bytes = 0;
      }
    }
    // Most steps wait for nothing.
    for (const holder of holders) {
      const turn = holder.next();
      if (turn) await turn;
    }
  }
  yield* settled(deps, block, waiting);
}

async function* settled(
  deps: MergeDeps,
  block: PeerBlockId,
  waiting: readonly Waiting[],
): AsyncGenerator<MergedSeries, void, void> {
  const wanted = new Map<string, Buffer[]>();
  for (const { id, from } of waiting) {
    for (const node of from) {
      const ids = wanted.get(node) ?? [];
      wanted.set(node, ids);
      ids.push(id);
    }
  }
  const found = new Map<string, Map<string, SealedInput>>();
  await Promise.all(
    [...wanted].map(async ([node, ids]) => {
      found.set(node, await columnsOf(deps, block, { node, ids }));
    }),
  );
  for (const { id, columns, from } of waiting) {
    const key = id.toString('latin1');
    const parts = from.flatMap((node) => {
      const part = found.get(node)?.get(key);
      return part ? [{ node, part }] : [];
    });
    const all = columns ? [{ node: '', part: columns }, ...parts] : parts;
    const [only] = all;
    if (all.length === 1 && only) yield { id, columns: only.part, isMerged: false };
    else if (all.length > 1) yield { id, columns: merged(deps, all), isMerged: true };
  }
}

function merged(
  { codec, client }: MergeDeps,
  parts: readonly { readonly node: string; readonly part: SealedInput }[],
): SealedInput {
  const columns = parts.map(({ node, part }) => {
    try {
      return openColumns(codec(), part);
    } catch (error) {
      if (!(error instanceof FormatFault)) throw error;
      throw client.distrust(node, error);
    }
  });
  return sealColumns(codec(), mergeReplicas(columns));
}

async function columnsOf(
  deps: MergeDeps,
  block: PeerBlockId,
  { node, ids }: { readonly node: string; readonly ids: readonly Buffer[] },
): Promise<Map<string, SealedInput>> {
  const { client, signal, onBytes } = deps;
  const found = new Map<string, SealedInput>();
  for (let at = 0; at < ids.length;) {
    const asked = ids.slice(at, at + IDS_A_CALL);
    const bytes = await client.call(node, { kind: 'columns', ...block, ids: asked }, signal);
    onBytes(bytes.length);
    const { series } = decodedBy(client, node, () => decodeSeriesPage(bytes));
    for (const { id, columns } of series) if (columns) found.set(id.toString('latin1'), columns);
    if (series.length === 0) throw client.distrust(node, new Error('it answered nothing'));
    at += series.length;
  }
  return found;
}

/** The series of one peer, page by page. */
class PeerStream {
  readonly node: string;
  head: PeerSeries | undefined;
  readonly #deps: MergeDeps;
  readonly #block: PeerBlockId;
  readonly #hasColumns: boolean;
  #page: readonly PeerSeries[] = [];
  #at = 0;
  #isLast = false;

  constructor(
    deps: MergeDeps,
    block: PeerBlockId,
    { node, hasColumns }: { readonly node: string; readonly hasColumns: boolean },
  ) {
    this.#deps = deps;
    this.#block = block;
    this.node = node;
    this.#hasColumns = hasColumns;
  }

  /** Goes to the next one; a promise when it has to come first. `head` is undefined behind the last. */
  next(): Promise<void> | undefined {
    const last = this.head?.id;
    this.head = this.#page[this.#at++];
    return this.head || this.#isLast ? undefined : this.#nextPage(last);
  }

  async #nextPage(after: Buffer | undefined): Promise<void> {
    const { client, signal, onBytes } = this.#deps;
    const request = {
      kind: 'series' as const,
      ...this.#block,
      after,
      hasColumns: this.#hasColumns,
      maxBytes: PAGE_BYTES,
    };
    const bytes = await client.call(this.node, request, signal);
    onBytes(bytes.length);
    const { series, isLast } = decodedBy(client, this.node, () => decodeSeriesPage(bytes));
    if (series.length === 0 && !isLast) throw client.distrust(this.node, new Error('it answered nothing'));
    this.#page = series;
    this.#isLast = isLast;
    this.#at = 1;
    this.head = series[0];
  }
}

function decodedBy<T>(client: PeerClient, node: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw client.distrust(node, error);
  }
}
