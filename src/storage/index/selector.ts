import { VarveError } from '../../core/errors.ts';
import {
  labelMatcher,
  METRIC_NAME,
  requireSelective,
  type LabelMatcher,
  type MatchOperator,
} from './matcher.ts';
import { SelectorLexer, type Token } from './selector-lexer.ts';

/** A selector in the text of a request may be this long. */
export const MAX_SELECTOR_LENGTH = 1_048_576;

/**
 * Reads a series selector as Prometheus 3 writes it: `metric{a="b",c=~"d"}`, `{"metric.name","label.name"!="v"}`,
 * with its three kinds of quotes and its comments. A metric name becomes a matcher of `__name__`, the first.
 * Label and metric names in quotes may be any UTF-8.
 * @throws SELECTOR_INVALID with the position of what is wrong, or when no matcher requires a label
 */
export function parseSelector(text: string): LabelMatcher[] {
  if (text.length > MAX_SELECTOR_LENGTH) {
    throw new VarveError(
      'SELECTOR_INVALID',
      `a selector of ${text.length} characters is longer than ${MAX_SELECTOR_LENGTH}`,
      { hint: 'Use several selectors.' },
    );
  }
  const matchers = new SelectorParser(text).parse();
  requireSelective(matchers);
  return matchers;
}

class SelectorParser {
  readonly #lexer: SelectorLexer;
  #metric: string | undefined;
  readonly #matchers: LabelMatcher[] = [];
  /** The first matcher of `__name__` that is written out, with its place. */
  #named: Token | undefined;

  constructor(text: string) {
    this.#lexer = new SelectorLexer(text);
  }

  parse(): LabelMatcher[] {
    let token = this.#lexer.next(true);
    if (token.kind === 'name') {
      this.#metric = token.text;
      token = this.#lexer.next(true);
    } else if (token.kind !== '{') {
      throw this.#lexer.unexpected(token, 'a metric name or "{"');
    }
    if (token.kind === '{') {
      this.#braces();
      token = this.#lexer.next(true);
    }
    if (token.kind !== 'end') throw this.#lexer.unexpected(token, 'the end of the selector');
    if (this.#metric === undefined) return this.#matchers;
    if (this.#named) {
      throw this.#lexer.error(
        this.#named.at,
        `the metric name is set twice: ${JSON.stringify(this.#metric)} stands already`,
      );
    }
    return [labelMatcher(METRIC_NAME, '=', this.#metric), ...this.#matchers];
  }

  #braces(): void {
    let token = this.#lexer.next(false);
    while (token.kind !== '}') {
      if (token.kind !== 'name' && token.kind !== 'string') {
        throw this.#lexer.unexpected(token, 'a label name or "}"');
      }
      token = this.#matcher(token);
      if (token.kind === ',') token = this.#lexer.next(false);
      else if (token.kind !== '}') throw this.#lexer.unexpected(token, '"," or "}"');
    }
  }

  /** One matcher, or a quoted metric name; returns the token behind it. */
  #matcher(label: Token): Token {
    const operator = this.#lexer.next(false);
    if (label.kind === 'string' && (operator.kind === ',' || operator.kind === '}')) {
      if (this.#metric !== undefined) {
        throw this.#lexer.error(
          label.at,
          `the metric name is set twice: ${JSON.stringify(this.#metric)} stands already`,
        );
      }
      this.#metric = label.text;
      return operator;
    }
    if (!isOperator(operator.kind)) throw this.#lexer.unexpected(operator, 'one of = != =~ !~');
    const value = this.#lexer.next(false);
    if (value.kind !== 'string') throw this.#lexer.unexpected(value, 'a quoted value');
    if (label.text === METRIC_NAME) this.#named ??= label;
    try {
      this.#matchers.push(labelMatcher(label.text, operator.kind, value.text));
    } catch (error) {
      if (!(error instanceof VarveError)) throw error;
      throw this.#lexer.error(label.text === '' ? label.at : value.at, error.message, error);
    }
    return this.#lexer.next(false);
  }
}

function isOperator(kind: Token['kind']): kind is MatchOperator {
  return kind === '=' || kind === '!=' || kind === '=~' || kind === '!~';
}
