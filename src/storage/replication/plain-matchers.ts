import { labelMatcher, type LabelMatcher, type MatchOperator } from '../index/matcher.ts';
import type { PlainMatcher } from './replica-transport.ts';

const OPERATORS: ReadonlySet<string> = new Set<MatchOperator>(['=', '!=', '=~', '!~']);

export function plainMatchers(matchers: readonly LabelMatcher[]): PlainMatcher[] {
  return matchers.map(({ name, operator, value }) => [name, operator, value]);
}

/** @throws SELECTOR_INVALID */
export function matchersOf(plain: readonly PlainMatcher[]): LabelMatcher[] {
  return plain.map(([name, operator, value]) =>
    labelMatcher(name, OPERATORS.has(operator) ? (operator as MatchOperator) : '=', value),
  );
}
