import { isUtf8 } from 'node:buffer';
import { VarveError } from '../../core/errors.ts';

export interface Token {
  readonly kind: 'name' | 'string' | '{' | '}' | ',' | '=' | '!=' | '=~' | '!~' | 'end';
  /** Of a name, or of a string without its quotes and escapes. */
  readonly text: string;
  /** In UTF-16 units from the start of the selector. */
  readonly at: number;
}

const SPACE = /(?:[ \t\r\n]+|#[^\n]*)*/y;
const METRIC = /[A-Za-z_:][A-Za-z0-9_:]*/y;
const LABEL = /[A-Za-z_][A-Za-z0-9_]*/y;
const SIGN = /[{},]|=~|!~|!=|=/y;

const PLAIN_ESCAPES: Readonly<Record<string, number>> = {
  a: 0x07,
  b: 0x08,
  f: 0x0c,
  n: 0x0a,
  r: 0x0d,
  t: 0x09,
  v: 0x0b,
  '\\': 0x5c,
};

const NUMBER_ESCAPES: Readonly<Record<string, RegExp>> = {
  x: /[0-9A-Fa-f]{2}/y,
  u: /[0-9A-Fa-f]{4}/y,
  U: /[0-9A-Fa-f]{8}/y,
};
const OCTAL = /[0-7]{3}/y;

/** The words of a series selector, by the rules of PromQL's lexer. */
export class SelectorLexer {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** `metric`: a colon may be part of a name, as it is outside of the braces. */
  next(metric: boolean): Token {
    this.#take(SPACE);
    const at = this.#at;
    const first = this.#text[at];
    if (first === undefined) return { kind: 'end', text: '', at };
    if (first === '"' || first === "'" || first === '`')
      return { kind: 'string', text: this.#string(first), at };
    const name = this.#take(metric ? METRIC : LABEL);
    if (name !== undefined) return { kind: 'name', text: name, at };
    const sign = this.#take(SIGN);
    if (sign !== undefined) return { kind: sign as Token['kind'], text: sign, at };
    const character = String.fromCodePoint(this.#text.codePointAt(at) ?? 0);
    throw this.error(at, `unexpected character ${JSON.stringify(character)}`);
  }

  unexpected(token: Token, wanted: string): VarveError {
    const what = token.kind === 'end' ? 'the end' : JSON.stringify(token.text);
    return this.error(token.at, `unexpected ${what}, wanted ${wanted}`);
  }

  error(at: number, what: string, cause?: VarveError): VarveError {
    const shown = this.#text.length <= 200 ? this.#text : `${this.#text.slice(0, 200)}…`;
    return new VarveError(
      'SELECTOR_INVALID',
      `the series selector ${JSON.stringify(shown)} is not valid at character ${at + 1}: ${what}`,
      {
        detail: cause?.detail,
        hint: cause?.hint ?? 'A selector is written metric{label="value",…}, with the operators = != =~ !~.',
        cause,
      },
    );
  }

  #take(what: RegExp): string | undefined {
    what.lastIndex = this.#at;
    const found = what.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  /** Escapes may spell single bytes of UTF-8, so the text is put together as bytes. */
  #string(quote: string): string {
    const start = this.#at;
    this.#at++;
    const parts: Buffer[] = [];
    for (;;) {
      const from = this.#at;
      while (!this.#stops(quote)) this.#at++;
      parts.push(Buffer.from(this.#text.slice(from, this.#at)));
      const stop = this.#text[this.#at];
      if (stop === quote) break;
      if (stop !== '\\') throw this.error(start, 'the quoted text has no end');
      parts.push(this.#escape(quote));
    }
    this.#at++;
    const bytes = Buffer.concat(parts);
    if (!isUtf8(bytes)) throw this.error(start, 'the quoted text is not UTF-8');
    return bytes.toString();
  }

  #stops(quote: string): boolean {
    const next = this.#text[this.#at];
    if (next === undefined || next === quote) return true;
    return quote !== '`' && (next === '\\' || next === '\n');
  }

  #escape(quote: string): Buffer {
    const start = this.#at;
    const letter = this.#text[start + 1] ?? '';
    this.#at += 2;
    if (letter === quote) return Buffer.from(quote);
    const plain = PLAIN_ESCAPES[letter];
    if (plain !== undefined) return Buffer.of(plain);
    const digits = NUMBER_ESCAPES[letter];
    if (digits) return this.#numbered(start, letter, this.#take(digits));
    this.#at--;
    const octal = this.#take(OCTAL);
    if (octal !== undefined && Number.parseInt(octal, 8) < 256) return Buffer.of(Number.parseInt(octal, 8));
    throw this.error(start, `unknown escape \\${letter}`);
  }

  #numbered(start: number, letter: string, digits: string | undefined): Buffer {
    const value = Number.parseInt(digits ?? '', 16);
    const isSurrogate = value >= 0xd800 && value < 0xe000;
    if (Number.isNaN(value) || value > 0x10_ffff || (isSurrogate && letter !== 'x')) {
      throw this.error(start, `\\${letter} is not followed by the digits of a character`);
    }
    return letter === 'x' ? Buffer.of(value) : Buffer.from(String.fromCodePoint(value));
  }
}
