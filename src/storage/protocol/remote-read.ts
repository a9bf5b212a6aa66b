import { VarveError } from '../../core/errors.ts';
import { labelMatcher, type LabelMatcher, type MatchOperator } from '../index/matcher.ts';
import { ByteReader } from '../kernel/byte-reader.ts';
import { KernelFault } from '../kernel/kernel-fault.ts';
import { BYTES, fieldsOf, VARINT, type Field } from '../kernel/protobuf-reader.ts';
import type { ProtocolKernel } from './protocol-kernel.ts';
import { endOfMs, startOfMs } from './time-text.ts';

/** How the samples of an answer are packed. */
export type ReadResponseType = 'samples' | 'chunks';

export interface RemoteReadQuery {
  readonly matchers: readonly LabelMatcher[];
  /** [start, end) in nanoseconds: what the message says in milliseconds, both included. */
  readonly startNs: bigint;
  readonly endNs: bigint;
}

export interface RemoteReadRequest {
  readonly queries: readonly RemoteReadQuery[];
  readonly responseType: ReadResponseType;
}

/** A request may ask for so much: what Prometheus sends has one query. */
const MAX_QUERIES = 64;
const MAX_MATCHERS = 1000;
const OPERATORS: readonly MatchOperator[] = ['=', '!=', '=~', '!~'];
const RESPONSE_TYPES: readonly ReadResponseType[] = ['samples', 'chunks'];

/**
 * The body of a remote read request (prometheus.ReadRequest in snappy's block format). Hints are not looked at: they
 * only say what the caller will do with the samples.
 * @throws READ_INVALID when it is none, SELECTOR_INVALID for a matcher
 */
export function decodeReadRequest(kernel: ProtocolKernel, body: Uint8Array): RemoteReadRequest {
  const message = readable('the body is no snappy block', () => kernel.decodeSnappy(body));
  return readable('the body is no prometheus.ReadRequest', () => {
    const queries: RemoteReadQuery[] = [];
    const accepted: number[] = [];
    for (const field of fieldsOf(message, { 1: BYTES })) {
      if (field.number === 1) queries.push(decodeQuery(field.content));
      else if (field.number === 2) accepted.push(...varintsOf(field));
      if (queries.length > MAX_QUERIES) throw invalid(`there are more than ${MAX_QUERIES} queries`);
    }
    return { queries, responseType: negotiate(accepted) };
  });
}

/** The first one that both sides know; senders older than the choice want samples. */
function negotiate(accepted: readonly number[]): ReadResponseType {
  if (accepted.length === 0) return 'samples';
  for (const type of accepted) {
    const known = RESPONSE_TYPES[type];
    if (known !== undefined) return known;
  }
  throw invalid(`none of the accepted response types (${accepted.join(', ')}) is known`);
}

function decodeQuery(message: Uint8Array): RemoteReadQuery {
  let [startMs, endMs] = [0n, 0n];
  const matchers: LabelMatcher[] = [];
  for (const { number, integer, content } of fieldsOf(message, { 1: VARINT, 2: VARINT, 3: BYTES })) {
    if (number === 1) startMs = BigInt.asIntN(64, integer);
    else if (number === 2) endMs = BigInt.asIntN(64, integer);
    else if (number === 3) matchers.push(decodeMatcher(content));
    if (matchers.length > MAX_MATCHERS) throw invalid(`a query has more than ${MAX_MATCHERS} matchers`);
  }
  return { matchers, startNs: startOfMs(startMs), endNs: endOfMs(endMs) };
}

function decodeMatcher(message: Uint8Array): LabelMatcher {
  let type = 0n;
  let [name, value] = ['', ''];
  for (const field of fieldsOf(message, { 1: VARINT, 2: BYTES, 3: BYTES })) {
    if (field.number === 1) type = field.integer;
    else if (field.number === 2) name = Buffer.from(field.content).toString();
    else if (field.number === 3) value = Buffer.from(field.content).toString();
  }
  const operator = OPERATORS[Number(type)];
  if (operator === undefined) throw invalid(`a matcher has type ${type}, which is none`);
  return labelMatcher(name, operator, value);
}

/** A repeated number, packed or not. */
function varintsOf({ wireType, integer, content }: Field): number[] {
  if (wireType === VARINT) return [Number(integer)];
  if (wireType !== BYTES) throw new KernelFault('BAD_WIRE_TYPE');
  const reader = new ByteReader(content);
  const numbers: number[] = [];
  while (reader.left > 0) numbers.push(Number(reader.varint()));
  return numbers;
}

function readable<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof KernelFault) throw invalid(`${what}: ${error.message}`);
    throw error;
  }
}

function invalid(why: string): VarveError {
  return new VarveError('READ_INVALID', `the remote read request cannot be read: ${why}`);
}
