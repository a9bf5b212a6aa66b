import { VarveError } from '../core/errors.ts';

/**
 * `name` as a delimited identifier, whatever it holds. Longer than 63 bytes is left to the server, which
 * truncates it.
 * @throws INVALID_ARGUMENT for what no identifier can be: empty, or with a NUL
 */
export function quoteIdent(name: string): string {
  if (name === '') throw new VarveError('INVALID_ARGUMENT', 'an SQL identifier cannot be empty');
  return `"${withoutNul('identifier', name).replaceAll('"', '""')}"`;
}

/** `schema.name`, both delimited. */
export function quoteQualified(schema: string, name: string): string {
  return `${quoteIdent(schema)}.${quoteIdent(name)}`;
}

/**
 * `value` as a string literal that means the same whatever `standard_conforming_strings` is: one with a
 * backslash is written as E''. For statements that take no parameters (DDL, SET); elsewhere use parameters.
 * @throws INVALID_ARGUMENT for a value with a NUL, which no text in PostgreSQL can hold
 */
export function quoteLiteral(value: string): string {
  const doubled = withoutNul('string', value).replaceAll("'", "''");
  return doubled.includes('\\') ? `E'${doubled.replaceAll('\\', '\\\\')}'` : `'${doubled}'`;
}

function withoutNul(what: string, text: string): string {
  if (text.includes('\0')) throw new VarveError('INVALID_ARGUMENT', `an SQL ${what} cannot hold a NUL`);
  return text;
}
