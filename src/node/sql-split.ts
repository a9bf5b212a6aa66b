/**
 * Splits a script into its statements, as psql does: at semicolons outside of quotes, dollar quotes, comments,
 * parentheses and the body of `begin atomic … end`.
 */
export interface SplitScript {
  /** Without their semicolons and surrounding blanks; comments stay. */
  readonly statements: readonly string[];
  /** What stands after the last semicolon, when it is more than blanks and comments. */
  readonly rest: string;
}

interface State {
  depth: number;
  /** Nesting of `begin atomic` and `case` within a routine's definition. */
  blocks: number;
  /** The statement's first words, for telling a routine's definition. */
  words: string[];
}

/** Each takes what it matches as a whole; the first that matches counts. */
const TOKENS: readonly (readonly [
  kind: 'skip' | 'content' | 'word' | 'semicolon' | 'open' | 'close',
  pattern: RegExp,
])[] = [
  ['skip', /\s+|--[^\n]*/y],
  ['content', /\$([A-Za-z_\u0080-\uFFFF][\w\u0080-\uFFFF]*)?\$/y],
  ['content', /[eE]'(?:[^'\\]|\\[\s\S]|'')*'/y],
  ['content', /'(?:[^']|'')*'/y],
  ['content', /"(?:[^"]|"")*"/y],
  ['word', /[A-Za-z_\u0080-\uFFFF][\w$\u0080-\uFFFF]*/y],
  ['semicolon', /;/y],
  ['open', /[([]/y],
  ['close', /[)\]]/y],
  ['content', /[\d.]+|[^\s]/y],
];

export function splitScript(script: string): SplitScript {
  const statements: string[] = [];
  let state: State = { depth: 0, blocks: 0, words: [] };
  let [start, at, hasContent] = [0, 0, false];
  while (at < script.length) {
    const { kind, end, text } = nextToken(script, at);
    if (kind === 'semicolon' && state.depth === 0 && state.blocks === 0) {
      if (hasContent) statements.push(script.slice(start, at).trim());
      [start, hasContent] = [end, false];
      state = { depth: 0, blocks: 0, words: [] };
    } else if (kind !== 'skip') {
      hasContent = true;
      follow(state, kind, text);
    }
    at = end;
  }
  return { statements, rest: hasContent ? script.slice(start).trim() : '' };
}

function nextToken(script: string, at: number): { kind: string; end: number; text: string } {
  if (script.startsWith('/*', at)) return { kind: 'skip', end: commentEnd(script, at), text: '' };
  for (const [kind, pattern] of TOKENS) {
    pattern.lastIndex = at;
    const text = pattern.exec(script)?.[0];
    if (text === undefined) continue;
    if (text.startsWith('$') && text.endsWith('$') && text.length > 1) {
      const close = script.indexOf(text, at + text.length);
      return { kind, end: close < 0 ? script.length : close + text.length, text };
    }
    // A quote without its end: the rest of the script is inside.
    if (text === "'" || text === '"') return { kind, end: script.length, text };
    return { kind, end: at + text.length, text };
  }
  return { kind: 'content', end: at + 1, text: '' };
}

/** Comments of this form nest. */
function commentEnd(script: string, from: number): number {
  let depth = 0;
  for (let at = from; at < script.length; at += 1) {
    if (script.startsWith('/*', at)) [depth, at] = [depth + 1, at + 1];
    else if (script.startsWith('*/', at)) {
      [depth, at] = [depth - 1, at + 1];
      if (depth === 0) return at + 1;
    }
  }
  return script.length;
}

function follow(state: State, kind: string, text: string): void {
  if (kind === 'open') state.depth += 1;
  else if (kind === 'close') state.depth = Math.max(0, state.depth - 1);
  else if (kind === 'word') {
    const word = text.toLowerCase();
    if (state.words.length < 4) state.words.push(word);
    if (!isRoutine(state.words) || state.depth > 0) return;
    if (word === 'begin' || (word === 'case' && state.blocks > 0)) state.blocks += 1;
    else if (word === 'end' && state.blocks > 0) state.blocks -= 1;
  }
}

function isRoutine(words: readonly string[]): boolean {
  const [create, ...more] = words;
  const what = more[0] === 'or' && more[1] === 'replace' ? more[2] : more[0];
  return create === 'create' && (what === 'function' || what === 'procedure');
}
