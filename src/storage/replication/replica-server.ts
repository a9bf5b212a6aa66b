import { VarveError } from '../../core/errors.ts';
import type { MetadataQuery } from '../engine/storage-engine.ts';
import { digestBlocks, encodeDigests } from './block-digests.ts';
import { ColumnsWriter } from './columns-body.ts';
import { encodeDeletions } from './deletion-ledger.ts';
import type { LocalReplica } from './local-replica.ts';
import { matchersOf } from './plain-matchers.ts';
import type { MetadataQuestion, ReplicaQuestion } from './replica-transport.ts';

/** Parts of an answer have about this size. */
const PART_BYTES = 256 * 1024;
const ITEMS = 5000;

const NO_LABELS = new Uint8Array(0);

/** What this node's replicas answer to other nodes. */
export async function* answer(
  local: LocalReplica,
  question: ReplicaQuestion,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const { engine } = local;
  switch (question.kind) {
    case 'read':
      yield* read(local, question, signal);
      return;
    case 'series': {
      const { values, truncated } = await engine.series(question.namespace, metadataQuery(question));
      yield* list(values, truncated);
      return;
    }
    case 'labelNames': {
      const { values, truncated } = await engine.labelNames(question.namespace, metadataQuery(question));
      yield* list(values, truncated);
      return;
    }
    case 'labelValues': {
      const { namespace, label } = question;
      const { values, truncated } = await engine.labelValues(namespace, label, metadataQuery(question));
      yield* list(values, truncated);
      return;
    }
    case 'cardinality':
      yield json(await engine.cardinality(question.namespace, metadataQuery(question)));
      return;
    case 'blocks':
      yield json(blocks(local, question.namespace));
      return;
    case 'digests': {
      const { namespace, startNs, endNs, shards } = question;
      const range = { startNs: BigInt(startNs), endNs: BigInt(endNs), shards };
      yield encodeDigests(await digestBlocks(engine, namespace, { ...range, signal }));
      return;
    }
    case 'sealed': {
      const { namespace, startNs, shards } = question;
      yield json([...local.replica.sealedBlock(namespace, BigInt(startNs), shards)]);
      return;
    }
    case 'deletions':
      yield encodeDeletions(local.ledger.all);
      return;
  }
  throw new VarveError('INVALID_ARGUMENT', 'the question of another node is not known here', {
    hint: 'It may be of a newer version.',
  });
}

async function* read(
  { replica }: LocalReplica,
  question: Extract<ReplicaQuestion, { kind: 'read' }>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const { namespace, matchers, startNs, endNs, shards, maxSeries, maxSamples } = question;
  const batches = replica.readBatches(namespace, {
    matchers: matchersOf(matchers),
    startNs: BigInt(startNs),
    endNs: BigInt(endNs),
    ordered: true,
    signal,
    ...(shards ? { shards } : {}),
    limits: {
      ...(maxSeries === undefined ? {} : { maxSeries }),
      ...(maxSamples === undefined ? {} : { maxSamples }),
    },
  });
  const writer = new ColumnsWriter();
  let last: Uint8Array = NO_LABELS;
  for await (const { id, columns } of batches) {
    // A part stands for itself.
    const goesOn = writer.length > 0 && id === last;
    writer.add(goesOn ? NO_LABELS : id, columns);
    last = id;
    if (writer.length >= PART_BYTES) yield writer.take();
  }
  if (writer.length > 0) yield writer.take();
}

function metadataQuery({ selectors, startNs, endNs, limit, shards }: MetadataQuestion): MetadataQuery {
  return {
    selectors: selectors.map(matchersOf),
    startNs: BigInt(startNs),
    endNs: BigInt(endNs),
    ...(limit === undefined ? {} : { limit }),
    ...(shards ? { shards } : {}),
  };
}

/** Parts of a list, the first of which says whether there were more than the limit. */
function* list(values: readonly unknown[], truncated: boolean): Generator<Uint8Array> {
  yield json({ truncated });
  for (let at = 0; at < values.length; at += ITEMS) yield json(values.slice(at, at + ITEMS));
}

function json(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** Starts of the blocks that a namespace has any sample in. */
function blocks({ replica }: LocalReplica, namespace: string): string[] {
  return replica.blockStarts(namespace).map(String);
}
