import { VarveError, type ErrorCode } from '../core/errors.ts';

/** Something that keeps a database from becoming a data node, with its remedy. */
export interface Finding {
  readonly code: ErrorCode;
  readonly sqlstate?: string | undefined;
  readonly message: string;
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
}

/**
 * The one error for all findings, so that a user mends them in one go. One finding is its own error; of
 * several, the first gives code and SQLSTATE, and all of them are listed in the detail.
 */
export function findingsError(node: string, findings: readonly Finding[]): VarveError {
  const [first] = findings;
  if (!first) throw new Error('assertion failed: an error without findings');
  if (findings.length === 1) return new VarveError(first.code, first.message, first);
  const lines = findings.map((finding, i) =>
    [
      `${i + 1}. ${finding.message}`,
      ...(finding.detail ? [`   ${finding.detail}`] : []),
      ...(finding.hint ? [`   Remedy: ${finding.hint}`] : []),
    ].join('\n'),
  );
  return new VarveError(first.code, `cannot add data node "${node}": ${findings.length} problems`, {
    sqlstate: first.sqlstate,
    detail: lines.join('\n'),
    hint: 'Nothing was changed. Mend all of them and repeat the call.',
  });
}
