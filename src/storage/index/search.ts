import type { IndexSegment } from './index-segment.ts';
import { requireSelective, type LabelMatcher } from './matcher.ts';
import { intersect, numbersUpTo, sortDistinct } from './number-sets.ts';

/** Below this ratio of lengths it is cheaper to decode a list than to look at the candidates' labels one by one. */
const DECODE_RATIO = 32;

/** A matcher whose terms are known. */
interface TermsCondition {
  readonly kind: 'terms';
  readonly name: number;
  readonly terms: readonly number[];
  /** How many series have one of them. */
  readonly postingCount: number;
}

/** A matcher of which single values can be asked. */
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
  const terms: TermsCondition[] = [];
  const tests: TestCondition[] = [];
  for (const matcher of matchers) {
    const condition = toCondition(segment, matcher);
    if (condition === 'never') return new Uint32Array(0);
    if (condition === 'always') continue;
    if (condition.kind === 'terms') terms.push(condition);
    else tests.push(condition);
  }
  const filters = resolveTests(segment, terms, tests);
  if (filters === 'never') return new Uint32Array(0);
  terms.sort((a, b) => a.postingCount - b.postingCount);
  // Without a list all series are candidates: those matchers that require a label are true for each.
  let found: Uint32Array | undefined;
  for (const condition of terms) {
    if (found === undefined) found = postingsOf(segment, condition);
    else if (found.length > 0) found = narrow(segment, found, condition);
  }
  found ??= numbersUpTo(segment.seriesCount);
  for (const condition of filters) found = filterByTest(segment, found, condition);
  return found;
}

function toCondition(segment: IndexSegment, matcher: LabelMatcher): Condition | 'always' | 'never' {
  const name = segment.findName(matcher.name);
  if (name < 0) return matcher.matchesEmpty ? 'always' : 'never';
  const isEverywhere = segment.seriesWith(name) === segment.seriesCount;
  if (matcher.present === 'all' && (matcher.matchesEmpty || isEverywhere)) return 'always';
  if (matcher.present === 'none' && (!matcher.matchesEmpty || isEverywhere)) return 'never';
  if (matcher.matchesEmpty || matcher.literals === undefined) return { kind: 'test', name, matcher };
  const terms = matcher.literals.map((value) => segment.findTerm(name, value)).filter((term) => term >= 0);
  if (terms.length === 0) return 'never';
  const condition = termsCondition(segment, name, terms);
  return condition.postingCount === segment.seriesCount ? 'always' : condition;
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
 * Evaluates those patterns over all values of their label for which this is cheaper than asking for the value of
 * each candidate, and adds what they accept to `terms`. Returns the others.
 */
function resolveTests(
  segment: IndexSegment,
  terms: TermsCondition[],
  tests: readonly TestCondition[],
): TestCondition[] | 'never' {
  let candidates = terms.reduce(
    (least, { postingCount }) => Math.min(least, postingCount),
    segment.seriesCount,
  );
  const filters = tests.filter(({ matcher }) => matcher.matchesEmpty);
  const open = tests.filter(({ matcher }) => !matcher.matchesEmpty);
  open.sort((a, b) => segment.valueCount(a.name) - segment.valueCount(b.name));
  for (const condition of open) {
    const { name, matcher } = condition;
    if (segment.valueCount(name) > candidates) {
      filters.push(condition);
      continue;
    }
    const accepted: number[] = [];
    segment.visitValues(name, matcher.prefix, (term, value) => {
      if (matcher.matches(value)) accepted.push(term);
    });
    if (accepted.length === 0) return 'never';
    const evaluated = termsCondition(segment, name, accepted);
    candidates = Math.min(candidates, evaluated.postingCount);
    terms.push(evaluated);
  }
  return filters;
}

function postingsOf(segment: IndexSegment, { terms, postingCount }: TermsCondition): Uint32Array {
  const out = new Uint32Array(postingCount);
  let end = 0;
  for (const term of terms) end = segment.readPostings(term, out, end);
  return terms.length === 1 ? out : sortDistinct(out, segment.seriesCount);
}

function narrow(segment: IndexSegment, found: Uint32Array, condition: TermsCondition): Uint32Array {
  const { name, terms, postingCount } = condition;
  if (postingCount < found.length * DECODE_RATIO) return intersect(found, postingsOf(segment, condition));
  const [only] = terms;
  if (terms.length === 1) return found.filter((position) => segment.termIn(position, name) === only);
  const accepted = new Set(terms);
  return found.filter((position) => accepted.has(segment.termIn(position, name)));
}

function filterByTest(segment: IndexSegment, found: Uint32Array, condition: TestCondition): Uint32Array {
  const { name, matcher } = condition;
  if (matcher.present === 'all') return found.filter((position) => segment.termIn(position, name) >= 0);
  if (matcher.present === 'none') return found.filter((position) => segment.termIn(position, name) < 0);
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
