import { messageOf, VarveError } from '../core/errors.ts';

/** One look at a machine or a server. */
export interface Finding {
  readonly check: string;
  readonly state: 'ok' | 'warn' | 'fail';
  /** What was found. */
  readonly found: string;
  /** Why it matters; with `remedy`, told when it is not ok. */
  readonly why: string;
  readonly remedy: string;
}

export type Verdict = Pick<Finding, 'state' | 'found'> & { readonly remedy?: string | undefined };

export const ok = (found: string): Verdict => ({ state: 'ok', found });
export const warn = (found: string): Verdict => ({ state: 'warn', found });
export const fail = (found: string): Verdict => ({ state: 'fail', found });

export interface DoctorCheck {
  readonly check: string;
  readonly why: string;
  readonly remedy: string;
  readonly look: () => Promise<Verdict> | Verdict;
}

/** Runs all of them, whatever each finds. A check that throws has failed. */
export async function examine(checks: readonly DoctorCheck[]): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { check, why, remedy, look } of checks) {
    try {
      const verdict = await look();
      findings.push({ check, why, ...verdict, remedy: verdict.remedy ?? remedy });
    } catch (error) {
      const hint = error instanceof VarveError ? error.hint : undefined;
      const detail =
        error instanceof VarveError && error.detail ? ` (${error.detail.replaceAll('\n', '; ')})` : '';
      findings.push({
        check,
        why,
        state: 'fail',
        found: `${messageOf(error)}${detail}`,
        remedy: hint ?? remedy,
      });
    }
  }
  return findings;
}

const MARKS = { ok: '✔', warn: '!', fail: '✘' } as const;

export function findingLines(findings: readonly Finding[]): string[] {
  const width = Math.max(0, ...findings.map(({ check }) => check.length));
  const count = (state: Finding['state']): number =>
    findings.filter((finding) => finding.state === state).length;
  return [
    ...findings.flatMap(({ check, state, found, why, remedy }) => [
      `${MARKS[state]} ${check.padEnd(width)}  ${found}`,
      ...(state === 'ok'
        ? []
        : [`  ${' '.repeat(width)}  why:    ${why}`, `  ${' '.repeat(width)}  remedy: ${remedy}`]),
    ]),
    '',
    `${count('ok')} ok, ${count('warn')} warnings, ${count('fail')} failures`,
  ];
}
