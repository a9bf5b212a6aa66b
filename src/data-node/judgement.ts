import type { Finding } from './findings.ts';
import type { DatabaseObservation, ServerObservation } from './observe.ts';
import type { DatabaseDescription, Notice, RegisteredNode } from './request.ts';
import type { Target } from './target.ts';
import type { VersionPolicy } from './version-rule.ts';

/** What goes into the judgement on a database, and what comes out of it. */
export interface Wanted {
  readonly name: string;
  readonly target: Target;
  readonly caller: string;
  readonly bootstrap: boolean;
  readonly access: DatabaseDescription;
  /** The registry as committed and as the caller's transaction sees it. */
  readonly nodes: readonly RegisteredNode[];
  readonly policy: VersionPolicy;
}

export interface Observed {
  /** Undefined with `bootstrap => false`, which needs no maintenance database. */
  readonly server?: ServerObservation | undefined;
  /** Undefined when the database does not exist. */
  readonly database?: DatabaseObservation | undefined;
}

export interface PlannedExtension {
  readonly name: 'timescaledb' | 'varve';
  readonly version: string;
  readonly schema: string;
  /** `script` where the server offers no control file. */
  readonly method: 'extension' | 'script';
}

export interface ProvisionPlan {
  readonly createDatabase: boolean;
  readonly schemas: readonly string[];
  readonly extensions: readonly PlannedExtension[];
  /** The mark that was seen on the database, which must still be there when ours is set. */
  readonly seenToken: string | null;
}

export interface Judgement {
  readonly findings: readonly Finding[];
  readonly notices: readonly Notice[];
  readonly plan: ProvisionPlan;
}
