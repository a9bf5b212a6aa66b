import { ERROR_CODES, type ErrorEntry } from '../core/error-codes.ts';

/** docs/errors.md, made from the registry of errors. */
export function errorsPage(): string {
  const entries = (Object.entries(ERROR_CODES) as [string, ErrorEntry][]).sort(([a], [b]) =>
    a < b ? -1 : 1,
  );
  return [
    '# Errors',
    '',
    'Made from `src/core/error-codes.ts` by `npm run docs`; do not edit.',
    '',
    'An operating error has a code, a message, and often a detail and a hint that says what to do. The code is the same in logs, over HTTP and on the command line; SQL clients see the SQLSTATE. States that start with `TS` are those of TimescaleDB 2.13, `VA` is Varve’s own class. An error of another server that is passed on keeps its own SQLSTATE.',
    '',
    ...entries.flatMap(([code, { sqlstate, http, manual }]) => [
      `## ${code}`,
      '',
      `SQLSTATE \`${sqlstate}\`, HTTP ${http}`,
      '',
      manual,
      '',
    ]),
  ].join('\n');
}
