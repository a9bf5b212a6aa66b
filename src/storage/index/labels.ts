import { isUtf8 } from 'node:buffer';
import { VarveError } from '../../core/errors.ts';
import { ByteWriter } from './byte-writer.ts';

/** The labels of a series may have this many bytes in canonical form, as the kernel's series table has it. */
export const MAX_LABEL_BYTES = 65_000;

/** A series may have this many labels. */
export const MAX_LABELS = 256;

const LABEL_TAG = 0x0a;
const NAME_TAG = 0x0a;
const VALUE_TAG = 0x12;

export type LabelPair = readonly [name: string, value: string];

/**
 * Canonical label bytes, which are the ID of a series: the labels as a Prometheus series message has them (each as
 * field 1, in it the name as field 1 and the value as field 2, all lengths minimal), in ascending order of the bytes
 * of their names. No name stands twice, and none and no value is empty: an empty value is an absent label.
 * @throws SERIES_INVALID when a name is empty or stands twice, or there is none, or too many or too long
 */
export function encodeLabels(labels: Iterable<LabelPair>): Uint8Array {
  const pairs = [...labels]
    .filter(([, value]) => value !== '')
    .map(([name, value]) => [Buffer.from(name), Buffer.from(value)] as const)
    .sort(([a], [b]) => Buffer.compare(a, b));
  const out = new ByteWriter();
  for (const [name, value] of pairs) writeLabel(out, name, value);
  const bytes = out.take();
  checkLabels(bytes, 0, bytes.length);
  return bytes;
}

/** Writes one label as canonical bytes have it. */
export function writeLabel(out: ByteWriter, name: Uint8Array, value: Uint8Array): void {
  out.uint8(LABEL_TAG);
  out.uvarint(2 + uvarintBytes(name.length) + name.length + uvarintBytes(value.length) + value.length);
  out.uint8(NAME_TAG);
  out.uvarint(name.length);
  out.bytes(name);
  out.uint8(VALUE_TAG);
  out.uvarint(value.length);
  out.bytes(value);
}

/** The labels in canonical bytes, in their order. @throws SERIES_INVALID when they are not canonical */
export function decodeLabels(bytes: Uint8Array): LabelPair[] {
  checkLabels(bytes, 0, bytes.length);
  const texts: string[] = [];
  const cursor = new LabelCursor();
  cursor.reset(bytes, 0, bytes.length);
  while (cursor.next()) texts.push(textOf(bytes, cursor.start, cursor.stop));
  return Array.from(
    { length: texts.length / 2 },
    (_, i) => [texts[2 * i] ?? '', texts[2 * i + 1] ?? ''] as const,
  );
}

/** Walks over names and values in turn, without making anything. One may be used again and again. */
export class LabelCursor {
  /** Of the text that `next` has found. */
  start = 0;
  stop = 0;
  /** True when the bytes are not built as canonical labels are. */
  broken = false;
  #bytes: Uint8Array = new Uint8Array(0);
  #end = 0;
  /** Where the label ends whose name was found last; 0 when a name comes next. */
  #labelEnd = 0;
  #at = 0;

  reset(bytes: Uint8Array, start: number, end: number): void {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
    this.#labelEnd = 0;
    this.broken = false;
  }

  next(): boolean {
    if (this.#labelEnd > 0) {
      const labelEnd = this.#labelEnd;
      this.#labelEnd = 0;
      return this.#enter(VALUE_TAG, labelEnd) && this.#leave(this.stop === labelEnd);
    }
    if (this.#at >= this.#end || !this.#enter(LABEL_TAG, this.#end)) return false;
    const labelEnd = this.stop;
    this.#at = this.start;
    this.#labelEnd = labelEnd;
    return this.#enter(NAME_TAG, labelEnd) && this.#leave(true);
  }

  #leave(isWhole: boolean): boolean {
    this.#at = this.stop;
    this.broken = !isWhole;
    return isWhole;
  }

  /** Reads tag and length of a field that ends at `end` or before. */
  #enter(tag: number, end: number): boolean {
    const bytes = this.#bytes;
    let at = this.#at;
    this.broken = true;
    if (at + 2 > end || bytes[at++] !== tag) return false;
    let length = bytes[at++] as number;
    for (let shift = 7, last = length; last >= 0x80; shift += 7) {
      last = bytes[at++] as number;
      // One number has one form, and none that is allowed has more than three bytes.
      if (at > end || last === 0 || shift > 14) return false;
      length = (length & ((1 << shift) - 1)) | (last << shift);
    }
    this.start = at;
    this.stop = at + length;
    this.broken = this.stop > end;
    return !this.broken;
  }
}

/** @throws SERIES_INVALID unless `bytes[start, end)` are canonical label bytes; returns the number of labels */
export function checkLabels(bytes: Uint8Array, start: number, end: number): number {
  if (end - start > MAX_LABEL_BYTES) {
    throw invalid(`they have ${end - start} bytes, more than ${MAX_LABEL_BYTES}`);
  }
  const cursor = new LabelCursor();
  cursor.reset(bytes, start, end);
  let count = 0;
  let previousStart = 0;
  let previousStop = 0;
  while (cursor.next()) {
    checkText(bytes, cursor, 'name');
    if (count > 0 && !isBefore(bytes, previousStart, previousStop, cursor)) {
      throw invalid(`label name ${quoted(bytes, cursor)} stands twice or out of order`);
    }
    previousStart = cursor.start;
    previousStop = cursor.stop;
    if (!cursor.next()) break;
    checkText(bytes, cursor, 'value');
    count++;
  }
  if (cursor.broken) throw invalid('the bytes are not those of labels');
  if (count === 0) throw invalid('there is no label');
  if (count > MAX_LABELS) throw invalid(`there are ${count} labels, more than ${MAX_LABELS}`);
  return count;
}

function checkText(bytes: Uint8Array, { start, stop }: LabelCursor, what: string): void {
  if (start === stop) throw invalid(`a label ${what} is empty`);
  if (!isText(bytes, start, stop)) throw invalid(`a label ${what} is not UTF-8`);
}

/** Whether bytes are UTF-8. */
export function isText(bytes: Uint8Array, start: number, stop: number): boolean {
  for (let at = start; at < stop; at++) {
    if ((bytes[at] as number) >= 0x80) return isUtf8(bytes.subarray(start, stop));
  }
  return true;
}

function invalid(what: string): VarveError {
  return new VarveError('SERIES_INVALID', `the labels of a series are not valid: ${what}`, {
    hint: 'Labels are sorted by name, each name once, neither name nor value empty.',
  });
}

function quoted(bytes: Uint8Array, { start, stop }: LabelCursor): string {
  return JSON.stringify(textOf(bytes, start, Math.min(stop, start + 200)));
}

/** Whether `bytes[start, stop)` comes before the text at the cursor; a prefix comes before what it begins. */
function isBefore(bytes: Uint8Array, start: number, stop: number, cursor: LabelCursor): boolean {
  let other = cursor.start;
  for (let at = start; at < stop && other < cursor.stop; at++, other++) {
    const difference = (bytes[at] ?? 0) - (bytes[other] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return stop - start < cursor.stop - cursor.start;
}

function uvarintBytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : 3;
}

/** The text of UTF-8 bytes. */
export function textOf(bytes: Uint8Array, start: number, stop: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, stop - start).toString();
}

/** Sorts texts by the bytes of their UTF-8, which is by code point, as Prometheus does. In place. */
export function sortTexts(texts: string[]): string[] {
  // By UTF-16 units the order differs only where characters beyond U+FFFF meet those from U+E000 on.
  if (!texts.some((text) => /[\ud800-\udfff]/.test(text))) return texts.sort();
  return texts
    .map((text) => Buffer.from(text))
    .sort((a, b) => Buffer.compare(a, b))
    .map((bytes, index) => (texts[index] = bytes.toString()));
}
