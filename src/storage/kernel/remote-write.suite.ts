import { ByteWriter } from './byte-writer.ts';
import { encodeLabels } from './remote-write.ts';

export interface SeriesToWrite {
  readonly labels: readonly (readonly [string, string])[];
  readonly samples: readonly { readonly ms: bigint; readonly bits: bigint }[];
}

export function bytesField(number: number, content: Uint8Array): Uint8Array {
  const writer = new ByteWriter();
  writer.varint(number * 8 + 2);
  writer.varint(content.length);
  writer.append(content);
  return writer.toBytes();
}

export function encodeSample({ ms, bits }: { ms: bigint; bits: bigint }): Uint8Array {
  const writer = new ByteWriter();
  writer.byte(0x09);
  writer.littleEndian64(bits);
  writer.byte(0x10);
  writer.varint(ms);
  return bytesField(2, writer.toBytes());
}

export function labelBytes(labels: readonly (readonly [string, string])[]): Uint8Array {
  return encodeLabels(
    labels.map(([name, value]) => ({ name: Buffer.from(name), value: Buffer.from(value) })),
  );
}

export function encodeSeries({ labels, samples }: SeriesToWrite): Uint8Array {
  return bytesField(1, Buffer.concat([labelBytes(labels), ...samples.map(encodeSample)]));
}

/** The body of a remote write 1.0 request. */
export function encodeWriteRequest(series: readonly SeriesToWrite[]): Uint8Array {
  return Buffer.concat(series.map(encodeSeries));
}

function varints(numbers: readonly number[]): Uint8Array {
  const writer = new ByteWriter();
  for (const number of numbers) writer.varint(number);
  return writer.toBytes();
}

/** The body of a remote write 2.0 request. */
export function encodeWriteRequest2(series: readonly SeriesToWrite[]): Uint8Array {
  const symbols = [
    '',
    ...new Set(series.flatMap(({ labels }) => labels.flat()).filter((text) => text !== '')),
  ];
  return Buffer.concat([
    ...symbols.map((symbol) => bytesField(4, Buffer.from(symbol))),
    ...series.map(({ labels, samples }) => {
      const references = varints(labels.flat().map((text) => symbols.indexOf(text)));
      return bytesField(5, Buffer.concat([bytesField(1, references), ...samples.map(encodeSample)]));
    }),
  ]);
}
