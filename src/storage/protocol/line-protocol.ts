import type { SeriesSamples } from '../engine/storage-engine.ts';
import { METRIC_NAME } from '../index/matcher.ts';
import type { LabelPair } from '../index/labels.ts';
import { MAX_NS, MIN_NS } from './time-text.ts';

/** A line that was not taken. */
export interface LineError {
  readonly line: number;
  /** In the words that Influx's clients look for. */
  readonly reason: string;
}

export interface ParsedLines {
  readonly series: readonly SeriesSamples[];
  /** Of all that were read. */
  readonly samples: number;
  /** Texts, which a time series of numbers cannot hold: read and left out. */
  readonly textFields: number;
  readonly errors: readonly LineError[];
}

export interface LineOptions {
  /** Nanoseconds of one unit of the timestamps. */
  readonly unitNs: bigint;
  /** For lines without a timestamp. */
  readonly nowNs: bigint;
}

const PRECISION_NS: ReadonlyMap<string, bigint> = new Map([
  ['n', 1n],
  ['ns', 1n],
  ['u', 1000n],
  ['us', 1000n],
  ['µ', 1000n],
  ['ms', 1_000_000n],
  ['s', 1_000_000_000n],
  ['m', 60_000_000_000n],
  ['h', 3_600_000_000_000n],
]);

/** Nanoseconds of one unit of a `precision` parameter; undefined when there is none of that name. */
export function precisionNs(text: string): bigint | undefined {
  return PRECISION_NS.get(text);
}

const FLOAT = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/;
const INTEGER = /^([-+]?\d{1,20})([iu])$/;
const BOOLEANS: ReadonlyMap<string, number> = new Map([
  ...['t', 'T', 'true', 'True', 'TRUE'].map((text) => [text, 1] as const),
  ...['f', 'F', 'false', 'False', 'FALSE'].map((text) => [text, 0] as const),
]);

const [NEWLINE, SPACE, COMMA, EQUALS, BACKSLASH, QUOTE, HASH, RETURN] = [10, 32, 44, 61, 92, 34, 35, 13];

/** So much text is read at once; others may do something between two parts. */
const PART_LENGTH = 256 * 1024;

/**
 * Reads Influx line protocol, part by part: each field of a point becomes the series `measurement_field` with the
 * point's tags as labels. Names are made such that Prometheus takes them: what is no letter, digit or underscore
 * becomes one. Lines that are wrong are told and do not hold up the others.
 */
export function* parseLines(text: string, options: LineOptions): Generator<ParsedLines> {
  const parser = new LineParser(text, options);
  while (!parser.isDone) yield parser.parse();
}

/** A line is wrong; the text is what its sender is told. */
class LineFault extends Error {}

interface Head {
  readonly measurement: string;
  readonly tags: readonly LabelPair[];
}

class LineParser {
  readonly #text: string;
  readonly #options: LineOptions;
  #series = new Map<string, { labels: LabelPair[]; samples: { timeNs: bigint; value: number }[] }>();
  /** Points of one sender repeat measurement and tags line by line. */
  #headText = '';
  #head: Head = { measurement: '', tags: [] };
  #at = 0;
  #lines = 0;
  #samples = 0;
  #textFields = 0;

  constructor(text: string, options: LineOptions) {
    this.#text = text;
    this.#options = options;
  }

  get isDone(): boolean {
    return this.#at >= this.#text.length;
  }

  /** Some more lines. */
  parse(): ParsedLines {
    const errors: LineError[] = [];
    const text = this.#text;
    const partEnd = this.#at + PART_LENGTH;
    this.#series = new Map();
    this.#samples = 0;
    this.#textFields = 0;
    while (this.#at < Math.min(partEnd, text.length)) {
      const start = this.#at;
      const line = (this.#lines += 1);
      try {
        this.#line();
      } catch (error) {
        if (!(error instanceof LineFault)) throw error;
        this.#at = lineEnd(text, start);
        const shown = text.slice(start, Math.min(this.#at, start + 200));
        errors.push({ line, reason: `unable to parse '${shown}': ${error.message}` });
      }
      // Text in quotes may have gone over several.
      for (let at = text.indexOf('\n', start); at >= 0 && at < this.#at; at = text.indexOf('\n', at + 1)) {
        this.#lines += 1;
      }
      this.#at += 1;
    }
    return {
      series: [...this.#series.values()],
      samples: this.#samples,
      textFields: this.#textFields,
      errors,
    };
  }

  /** One line; afterwards the place is at its newline or the end. */
  #line(): void {
    const text = this.#text;
    while (text.charCodeAt(this.#at) === SPACE) this.#at += 1;
    const first = text.charCodeAt(this.#at);
    if (first === HASH) {
      this.#at = lineEnd(text, this.#at);
      return;
    }
    if (this.#isLineEnd()) return this.#endLine();
    const headStart = this.#at;
    this.#skipTo(SPACE);
    const head = this.#headOf(text.slice(headStart, this.#at));
    this.#spaces();
    if (this.#isLineEnd()) throw new LineFault('missing fields');
    const fields = this.#fields();
    const timeNs = this.#time();
    for (const { name, value } of fields) {
      if (value !== undefined) this.#add(head, name, { timeNs, value });
    }
  }

  #add({ measurement, tags }: Head, field: string, sample: { timeNs: bigint; value: number }): void {
    const key = `${this.#headText}\n${field}`;
    let series = this.#series.get(key);
    if (!series) {
      series = { labels: [[METRIC_NAME, metricName(`${measurement}_${field}`)], ...tags], samples: [] };
      this.#series.set(key, series);
    }
    series.samples.push(sample);
    this.#samples += 1;
  }

  #headOf(text: string): Head {
    if (text === this.#headText) return this.#head;
    const [measurement = '', ...tagTexts] = splitAt(text, COMMA);
    if (measurement === '') throw new LineFault('missing measurement');
    const tags: LabelPair[] = [];
    for (const tag of tagTexts) {
      const [key = '', value, ...more] = splitAt(tag, EQUALS);
      if (key === '') throw new LineFault('missing tag key');
      if (value === undefined || value === '' || more.length > 0) throw new LineFault('missing tag value');
      tags.push([labelName(unescape(key, TAG_ESCAPES)), unescape(value, TAG_ESCAPES)]);
    }
    const names = new Set(tags.map(([name]) => name));
    if (names.size < tags.length) throw new LineFault('duplicate tags');
    if (names.has(METRIC_NAME)) throw new LineFault(`a tag must not be called ${METRIC_NAME}`);
    this.#head = { measurement: unescape(measurement, MEASUREMENT_ESCAPES), tags };
    this.#headText = text;
    return this.#head;
  }

  #fields(): { name: string; value: number | undefined }[] {
    const fields: { name: string; value: number | undefined }[] = [];
    for (;;) {
      const keyStart = this.#at;
      this.#skipTo(EQUALS, SPACE, COMMA);
      const key = this.#text.slice(keyStart, this.#at);
      if (key === '') throw new LineFault('missing field key');
      if (this.#text.charCodeAt(this.#at) !== EQUALS) throw new LineFault('missing field value');
      this.#at += 1;
      fields.push({ name: unescape(key, TAG_ESCAPES), value: this.#fieldValue() });
      if (this.#text.charCodeAt(this.#at) !== COMMA) return fields;
      this.#at += 1;
    }
  }

  #fieldValue(): number | undefined {
    if (this.#text.charCodeAt(this.#at) === QUOTE) {
      this.#textValue();
      this.#textFields += 1;
      return undefined;
    }
    const start = this.#at;
    this.#skipTo(SPACE, COMMA);
    return numberOf(this.#text.slice(start, this.#at));
  }

  /** Text may hold newlines; only quotes and backslashes are escaped in it. */
  #textValue(): void {
    const text = this.#text;
    for (let at = this.#at + 1; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code === BACKSLASH) at += 1;
      else if (code === QUOTE) {
        this.#at = at + 1;
        const next = text.charCodeAt(this.#at);
        if (next === COMMA || next === SPACE || this.#isLineEnd()) return;
        throw new LineFault('invalid field format');
      }
    }
    throw new LineFault('unbalanced quotes');
  }

  #time(): bigint {
    this.#spaces();
    if (this.#isLineEnd()) {
      this.#endLine();
      return this.#options.nowNs;
    }
    const start = this.#at;
    this.#skipTo(SPACE);
    const digits = this.#text.slice(start, this.#at);
    if (!/^-?\d{1,19}$/.test(digits)) throw new LineFault('bad timestamp');
    const ns = BigInt(digits) * this.#options.unitNs;
    if (ns < MIN_NS || ns > MAX_NS) throw new LineFault('time outside range');
    this.#spaces();
    if (!this.#isLineEnd()) throw new LineFault('bad timestamp');
    this.#endLine();
    return ns;
  }

  /** To the next of these characters that no backslash stands before, or the end of the line. */
  #skipTo(stop: number, other = stop, third = stop): void {
    const text = this.#text;
    for (let at = this.#at; ; at += 1) {
      const code = text.charCodeAt(at);
      if (code === BACKSLASH && at + 1 < text.length && text.charCodeAt(at + 1) !== NEWLINE) {
        at += 1;
      } else if (code === stop || code === other || code === third || at >= text.length || isEnd(text, at)) {
        this.#at = at;
        return;
      }
    }
  }

  #spaces(): void {
    while (this.#text.charCodeAt(this.#at) === SPACE) this.#at += 1;
  }

  #isLineEnd(): boolean {
    return this.#at >= this.#text.length || isEnd(this.#text, this.#at);
  }

  #endLine(): void {
    if (this.#text.charCodeAt(this.#at) === RETURN) this.#at += 1;
  }
}

function isEnd(text: string, at: number): boolean {
  const code = text.charCodeAt(at);
  return code === NEWLINE || (code === RETURN && text.charCodeAt(at + 1) === NEWLINE);
}

function lineEnd(text: string, from: number): number {
  const at = text.indexOf('\n', from);
  return at < 0 ? text.length : at;
}

/** Apart at a character that no backslash stands before; escapes stay. */
function splitAt(text: string, separator: number): string[] {
  const parts: string[] = [];
  let start = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === BACKSLASH) at += 1;
    else if (code === separator) {
      parts.push(text.slice(start, at));
      start = at + 1;
    }
  }
  parts.push(text.slice(start));
  return parts;
}

const MEASUREMENT_ESCAPES = /\\([, ])/g;
const TAG_ESCAPES = /\\([,= ])/g;

/** A backslash before anything else is one. */
function unescape(text: string, escapes: RegExp): string {
  return text.includes('\\') ? text.replace(escapes, '$1') : text;
}

function numberOf(text: string): number {
  if (FLOAT.test(text)) {
    const value = Number(text);
    if (!Number.isFinite(value)) throw new LineFault('invalid number');
    return value;
  }
  const [, digits, suffix] = INTEGER.exec(text) ?? [];
  if (digits !== undefined) {
    const value = BigInt(digits.replace('+', ''));
    const fits = suffix === 'i' ? BigInt.asIntN(64, value) === value : BigInt.asUintN(64, value) === value;
    if (!fits) throw new LineFault('invalid number');
    return Number(value);
  }
  const boolean = BOOLEANS.get(text);
  if (boolean === undefined)
    throw new LineFault(text === '' ? 'missing field value' : 'invalid boolean or number');
  return boolean;
}

function metricName(text: string): string {
  const name = text.replaceAll(/[^\w:]/gu, '_');
  return /^\d/.test(name) ? `_${name}` : name;
}

function labelName(text: string): string {
  const name = text.replaceAll(/\W/gu, '_');
  return /^\d/.test(name) ? `_${name}` : name;
}
