import type { IndexSegment } from './index-segment.ts';
import { requireSelective, type LabelMatcher } from './matcher.ts';
import { intersect, sortDistinct } from './number-sets.ts';

/** Below this ratio of lengths it is cheaper to decode a list than to look at the candidates' labels one by one. */
const DECODE_RATIO = 8;

/** A matcher whose terms are known. */
interface TermsCondition {
  readonly kind: 'terms';
  readonly name: number;
  readonly terms: readonly number[];
  /** At least as many postings as it takes series. */
  readonly postingCount: number;
}

/** A matcher of which only single values can be asked. */
interface TestCondition {
  readonly kind: 'test';
  readonly name: number;
  readonly matcher: LabelMatcher;
}

type Condition = TermsCondition | TestCondition;

/**
 * The positions of the series that all matchers accept, ascending. The shortest list of postings is decoded; the
 * rest is decided by decoding further lists or by looking at the labels of what is left, whichever is cheaper.
 * A regular expression sees each value at most once.
 * @throws SELECTOR_INVALID when no matcher requires a label
 */
export function search(segment: IndexSegment, matchers: readonly LabelMatcher[]): Uint32Array {
  requireSelective(matchers);
  const conditions: Condition[] = [];
  for (const matcher of matchers) {
    const condition = toCondition(segment, matcher);
    if (condition === 'never') return new Uint32Array(0);
    if (condition !== 'always') conditions.push(condition);
  }
  const resolved = resolveSelective(segment, conditions);
  if (resolved === 'never') return new Uint32Array(0);
  const terms = resolved.filter((condition) => condition.kind === 'terms');
  terms.sort((a, b) => a.postingCount - b.postingCount);
  const [first, ...others] = terms;
  // There is one: a selective matcher either has its terms by now or was evaluated.
  if (first === undefined) return new Uint32Array(0);
  let found = postingsOf(segment, first);
  for (const condition of others) {
    if (found.length === 0) return found;
    found =
      condition.postingCount < found.length * DECODE_RATIO
        ? intersect(found, postingsOf(segment, condition))
        : filterByTerms(segment, found, condition);
  }
  for (const condition of resolved) {
    if (condition.kind === 'test') found = filterByTest(segment, found, condition);
  }
  return found;
}

function toCondition(segment: IndexSegment, matcher: LabelMatcher): Condition | 'always' | 'never' {
  const name = segment.findName(matcher.name);
  if (name < 0) return matcher.matchesEmpty ? 'always' : 'never';
  if (matcher.matchesEmpty || matcher.literals === undefined) return { kind: 'test', name, matcher };
  const terms = matcher.literals.map((value) => segment.findTerm(name, value)).filter((term) => term >= 0);
  return terms.length === 0 ? 'never' : termsCondition(segment, name, terms);
}

function termsCondition(segment: IndexSegment, name: number, terms: readonly number[]): TermsCondition {
  const postingCount = terms.reduce((sum, term) => sum + segment.postingCount(term), 0);
  // A series has one value at most.
  if (postingCount > segment.seriesCount) {
    throw segment.inconsistent(`${postingCount} postings of one label in ${segment.seriesCount} series`);
  }
  return { kind: 'terms', name, terms, postingCount };
}

/**
 * Evaluates over all values of their label those patterns for which this is cheaper than asking for the value of
 * each candidate, and one in any case when nothing else narrows the search.
 */
function resolveSelective(segment: IndexSegment, conditions: readonly Condition[]): Condition[] | 'never' {
  let candidates = Infinity;
  for (const condition of conditions) {
    if (condition.kind === 'terms') candidates = Math.min(candidates, condition.postingCount);
  }
  const resolved: Condition[] = conditions.filter(
    (condition) => condition.kind === 'terms' || condition.matcher.matchesEmpty,
  );
  const open = conditions.filter(
    (condition): condition is TestCondition => condition.kind === 'test' && !condition.matcher.matchesEmpty,
  );
  open.sort((a, b) => segment.valueCount(a.name) - segment.valueCount(b.name));
  for (const condition of open) {
    if (segment.valueCount(condition.name) > candidates) {
      resolved.push(condition);
      continue;
    }
    const { name, matcher } = condition;
    const terms: number[] = [];
    segment.visitValues(name, matcher.prefix, (term, value) => {
      if (matcher.matches(value)) terms.push(term);
    });
    if (terms.length === 0) return 'never';
    const evaluated = termsCondition(segment, name, terms);
    candidates = Math.min(candidates, evaluated.postingCount);
    resolved.push(evaluated);
  }
  return resolved;
}

function postingsOf(segment: IndexSegment, { terms, postingCount }: TermsCondition): Uint32Array {
  const out = new Uint32Array(postingCount);
  let end = 0;
  for (const term of terms) end = segment.readPostings(term, out, end);
  return terms.length === 1 ? out : sortDistinct(out, segment.seriesCount);
}

function filterByTerms(segment: IndexSegment, found: Uint32Array, condition: TermsCondition): Uint32Array {
  const { name, terms } = condition;
  if (terms.length === 1) return found.filter((position) => segment.termIn(position, name) === terms[0]);
  const accepted = new Set(terms);
  return found.filter((position) => accepted.has(segment.termIn(position, name)));
}

function filterByTest(segment: IndexSegment, found: Uint32Array, condition: TestCondition): Uint32Array {
  const { name, matcher } = condition;
  const verdicts = new Map<number, boolean>([[-1, matcher.matchesEmpty]]);
  return found.filter((position) => {
    const term = segment.termIn(position, name);
    let verdict = verdicts.get(term);
    if (verdict === undefined) {
      verdict = matcher.matches(segment.valueText(term));
      verdicts.set(term, verdict);
    }
    return verdict;
  });
}
