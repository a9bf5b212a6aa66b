import { ByteReader } from './byte-reader.ts';
import { KernelFault } from './kernel-fault.ts';
import { BYTES, fieldsOf } from './protobuf-reader.ts';
import {
  type WalkedRequest,
  type WalkedSeries,
  type WalkLimits,
  encodeLabels,
  readSample,
} from './remote-write.ts';

/**
 * The plain counterpart of `assembly/remote-write-2.ts`: what is in the body of a remote write 2.0 request
 * (io.prometheus.write.v2.Request).
 */
export interface WalkLimits2 extends WalkLimits {
  readonly maxSymbols: number;
  /** Of all series together. */
  readonly maxLabelBytes: number;
}

/** @throws KernelFault */
export function walkWriteRequest2(body: Uint8Array, limits: WalkLimits2): WalkedRequest {
  const symbols: Uint8Array[] = [];
  for (const { number, content } of fieldsOf(body, { 4: BYTES })) {
    if (number !== 4) continue;
    if (symbols.length === limits.maxSymbols) throw new KernelFault('TOO_LARGE');
    symbols.push(content);
  }
  const series: WalkedSeries[] = [];
  let [samples, exemplars, histograms, labelBytes] = [0, 0, 0, 0];
  for (const { number, content } of fieldsOf(body, { 5: BYTES })) {
    if (number !== 5) continue;
    if (series.length === limits.maxSeries) throw new KernelFault('TOO_LARGE');
    const labels: Uint8Array[] = [];
    const times: bigint[] = [];
    const values: bigint[] = [];
    let name: Uint8Array | undefined;
    for (const field of fieldsOf(content, { 2: BYTES })) {
      if (field.number === 1) {
        for (const symbol of symbolsOf(field, symbols)) {
          if (name === undefined) name = symbol;
          else {
            const label = encodeLabels([{ name, value: symbol }]);
            labelBytes += label.length;
            if (labelBytes > limits.maxLabelBytes) throw new KernelFault('TOO_LARGE');
            labels.push(label);
            name = undefined;
          }
        }
      } else if (field.number === 2) {
        if (samples++ === limits.maxSamples) throw new KernelFault('TOO_LARGE');
        const { time, value } = readSample(field.content);
        times.push(time);
        values.push(value);
      } else if (field.number === 3) histograms++;
      else if (field.number === 4) exemplars++;
    }
    if (name !== undefined) throw new KernelFault('BAD_COUNT');
    series.push({ labels: Uint8Array.from(Buffer.concat(labels)), times, values });
  }
  return { series, exemplars, histograms };
}

/** The symbols that a field of references names, packed or not. */
function* symbolsOf(
  field: { readonly wireType: number; readonly integer: bigint; readonly content: Uint8Array },
  symbols: readonly Uint8Array[],
): Generator<Uint8Array> {
  if (field.wireType !== 0 && field.wireType !== BYTES) throw new KernelFault('BAD_WIRE_TYPE');
  const reader = new ByteReader(field.content);
  for (let isFirst = field.wireType === 0; isFirst || reader.left > 0; isFirst = false) {
    const symbol = symbols[Number(isFirst ? field.integer : reader.varint())];
    if (symbol === undefined) throw new KernelFault('BAD_REFERENCE');
    yield symbol;
  }
}
