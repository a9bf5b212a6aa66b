import { VarveError } from '../../core/errors.ts';
import { compilePattern } from './pattern.ts';

export const METRIC_NAME = '__name__';

export type MatchOperator = '=' | '!=' | '=~' | '!~';

/**
 * One condition on one label, with the semantics of Prometheus: a series without the label has the empty value.
 * Made by `labelMatcher`; it holds no state and may be shared.
 */
export interface LabelMatcher {
  readonly name: string;
  readonly operator: MatchOperator;
  readonly value: string;
  matches(value: string): boolean;
  /** True when a series without the label passes. */
  readonly matchesEmpty: boolean;
  /** Which series that have the label pass: all of them, none, or it depends on the value. */
  readonly present: 'all' | 'none' | 'some';
  /** All the values that pass, where they can be named. */
  readonly literals: readonly string[] | undefined;
  /** Every value that passes starts with it; empty when nothing is known. */
  readonly prefix: string;
}

/** @throws SELECTOR_INVALID when the name is empty, or the value of `=~` or `!~` is no RE2 expression */
export function labelMatcher(name: string, operator: MatchOperator, value: string): LabelMatcher {
  if (name === '') {
    throw new VarveError('SELECTOR_INVALID', `a matcher ${operator}${JSON.stringify(value)} names no label`, {
      hint: 'A label name has at least one character.',
    });
  }
  const parts = condition(operator, value);
  return {
    name,
    operator,
    value,
    ...parts,
    matchesEmpty: parts.matches(''),
    present: presence(operator, value),
  };
}

function presence(operator: MatchOperator, value: string): LabelMatcher['present'] {
  const isPattern = operator === '=~' || operator === '!~';
  const isNegative = operator === '!=' || operator === '!~';
  // Values in an index are not empty.
  if (value === '') return isNegative ? 'all' : 'none';
  if (isPattern && (value === '.*' || value === '.+')) return isNegative ? 'none' : 'all';
  return 'some';
}

type Condition = Pick<LabelMatcher, 'matches' | 'literals' | 'prefix'>;

function condition(operator: MatchOperator, value: string): Condition {
  switch (operator) {
    case '=':
      return { matches: (other) => other === value, literals: [value], prefix: value };
    case '!=':
      return { matches: (other) => other !== value, literals: undefined, prefix: '' };
    case '=~': {
      const pattern = compilePattern(value);
      const { literals, prefix } = pattern;
      return { matches: (other) => pattern.test(other), literals, prefix };
    }
    case '!~': {
      const pattern = compilePattern(value);
      return { matches: (other) => !pattern.test(other), literals: undefined, prefix: '' };
    }
  }
}

/**
 * A selector needs one matcher that a missing label does not satisfy: without, it would select every series there
 * is, mostly by mistake.
 * @throws SELECTOR_INVALID
 */
export function requireSelective(matchers: readonly LabelMatcher[]): void {
  if (matchers.some((matcher) => !matcher.matchesEmpty)) return;
  throw new VarveError(
    'SELECTOR_INVALID',
    `the selector ${formatSelector(matchers)} has no matcher that requires a label`,
    {
      hint: 'Add a matcher that does not match the empty string, such as {__name__=~".+"} for every series with a name.',
    },
  );
}

/** As it could be written in PromQL. */
export function formatSelector(matchers: readonly LabelMatcher[]): string {
  const parts = matchers.map(({ name, operator, value }) => {
    const label = /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) ? name : JSON.stringify(name);
    return `${label}${operator}${JSON.stringify(value)}`;
  });
  return `{${parts.join(',')}}`;
}
