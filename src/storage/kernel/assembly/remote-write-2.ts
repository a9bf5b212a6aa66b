// Prometheus' remote write 2.0: a walk over the body of a request (io.prometheus.write.v2.Request), whose series
// name their labels by places in a table of symbols. The labels are put together as version 1.0 has them.
import { BAD_COUNT, BAD_REFERENCE, BAD_WIRE_TYPE, TOO_LARGE } from './fault';
import { BYTES, VARINT, field, openBytes, openFault, readTag, seekBytes, seekFault, skipField, wireType } from './protobuf';
import { countExemplar, countHistogram, startWalk, walkSample, walkedSamples } from './remote-write';
import { cursor, readVarint, setCursor, varintFault, varintSize } from './varint';

const ENTRY_BYTES: u32 = 16;

const SYMBOLS: u32 = 4;
const TIMESERIES: u32 = 5;
const LABEL_REFERENCES: u32 = 1;
const SAMPLES: u32 = 2;
const HISTOGRAMS: u32 = 3;
const EXEMPLARS: u32 = 4;

/** Eight bytes each: address and size. */
let symbols: usize = 0;
let symbolCount: u32 = 0;
let spareNext: usize = 0;
let spareEnd: usize = 0;
/** The symbol that is the name of the label that is read, or NONE. */
let name: u64 = 0;
const NONE: u64 = u64.MAX_VALUE;

/**
 * Walks the body and returns how many series it holds, or a fault; TOO_LARGE when there are more series, samples
 * or symbols than there is room for, or when the labels need more than `spareBytes`. Entries are those of
 * `walkWriteRequest`; the labels are at `spare`, and 16 bytes behind it may be written.
 */
export function walkWriteRequest2(
  body: usize,
  length: u32,
  entries: usize,
  maxSeries: u32,
  times: usize,
  values: usize,
  maxSamples: u32,
  symbolTable: usize,
  maxSymbols: u32,
  spare: usize,
  spareBytes: u32,
): i32 {
  const end = body + length;
  startWalk(body);
  symbols = symbolTable;
  spareNext = spare;
  spareEnd = spare + spareBytes;
  const missing = readSymbols(end, maxSymbols);
  if (missing != 0) return missing;
  setCursor(body);
  let series: u32 = 0;
  for (let inner = seekBytes(end, TIMESERIES); inner != 0; inner = seekBytes(end, TIMESERIES)) {
    if (series == maxSeries) return TOO_LARGE;
    const entry = entries + series * ENTRY_BYTES;
    const first = walkedSamples();
    store<usize>(entry, spareNext);
    const bad = walkSeries(inner, times, values, maxSamples);
    if (bad != 0) return bad;
    store<usize>(entry, spareNext - load<usize>(entry), 4);
    store<u32>(entry, first, 8);
    store<u32>(entry, walkedSamples() - first, 12);
    series++;
  }
  return seekFault != 0 ? seekFault : series;
}

/** Finds all symbols, wherever they stand. */
function readSymbols(end: usize, maxSymbols: u32): i32 {
  symbolCount = 0;
  for (let inner = seekBytes(end, SYMBOLS); inner != 0; inner = seekBytes(end, SYMBOLS)) {
    if (symbolCount == maxSymbols) return TOO_LARGE;
    const symbol = symbols + (symbolCount << 3);
    store<usize>(symbol, cursor);
    store<usize>(symbol, inner - cursor, 4);
    symbolCount++;
    setCursor(inner);
  }
  return seekFault;
}

function walkSeries(end: usize, times: usize, values: usize, maxSamples: u32): i32 {
  name = NONE;
  while (cursor < end) {
    const fault = readTag(end);
    if (fault != 0) return fault;
    let bad: i32 = 0;
    if (field == LABEL_REFERENCES) {
      if (wireType == VARINT) bad = readReference(end);
      else if (wireType != BYTES) {
        bad = skipField(end);
        return bad != 0 ? bad : BAD_WIRE_TYPE;
      } else {
        const inner = openBytes(end);
        if (inner == 0) return openFault();
        while (cursor < inner && bad == 0) bad = readReference(inner);
      }
    } else if (field == SAMPLES) {
      if (wireType != BYTES) return BAD_WIRE_TYPE;
      const inner = openBytes(end);
      if (inner == 0) return openFault();
      bad = walkSample(inner, times, values, maxSamples);
    } else {
      if (field == HISTOGRAMS) countHistogram();
      if (field == EXEMPLARS) countExemplar();
      bad = skipField(end);
    }
    if (bad != 0) return bad;
  }
  return name == NONE ? 0 : BAD_COUNT;
}

@inline
function readReference(end: usize): i32 {
  const reference = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (reference >= symbolCount) return BAD_REFERENCE;
  if (name == NONE) {
    name = reference;
    return 0;
  }
  const fits = putLabel(symbols + (<usize>name << 3), symbols + (<usize>reference << 3));
  name = NONE;
  return fits ? 0 : TOO_LARGE;
}

function putLabel(nameSymbol: usize, valueSymbol: usize): bool {
  const nameSize = load<u32>(nameSymbol, 4);
  const valueSize = load<u32>(valueSymbol, 4);
  const size = 2 + varintSize(nameSize) + nameSize + varintSize(valueSize) + valueSize;
  if (<u64>spareNext + 1 + varintSize(size) + size > <u64>spareEnd) return false;
  store<u8>(spareNext, 0x0a);
  const text = putText(0x0a, nameSymbol, nameSize, putVarint(spareNext + 1, size));
  spareNext = putText(0x12, valueSymbol, valueSize, text);
  return true;
}

@inline
function putVarint(at: usize, value: u32): usize {
  while (value > 127) {
    store<u8>(at++, <u8>(value | 128));
    value >>= 7;
  }
  store<u8>(at, <u8>value);
  return at + 1;
}

@inline
function putText(tag: u8, symbol: usize, size: u32, at: usize): usize {
  store<u8>(at, tag);
  const to = putVarint(at + 1, size);
  const from = load<usize>(symbol);
  // What is written behind a short text is overwritten, or is behind the end of the labels.
  if (size <= 16) v128.store(to, v128.load(from));
  else memory.copy(to, from, size);
  return to + size;
}
