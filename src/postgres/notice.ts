import { SqlState } from './sqlstate.ts';

export interface Notice {
  readonly severity: string;
  readonly code: string;
  readonly message: string;
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
}

export function toNotice(notice: { [K in keyof Notice]?: string | undefined }): Notice {
  const { severity = 'NOTICE', code = SqlState.successfulCompletion, message = '', detail, hint } = notice;
  return { severity, code, message, detail, hint };
}

/**
 * Whether a notice says that a commit waits no longer for those who should confirm it. By the function of PostgreSQL
 * that says so: the text is in the language of the session.
 */
export function isWaitGivenUp({ routine }: { readonly routine?: string | undefined }): boolean {
  return routine === 'SyncRepWaitForLSN';
}
