import type { GroupConfig, GroupRequest } from '../cluster/group-keys.ts';
import type { GroupServicesStatus } from '../cluster/services/group-services.ts';
import type { PlannedStep } from '../run/run.ts';

/** One member as the group sees it. */
export interface GroupMemberStatus {
  readonly node: string;
  /** `write master`, `member`, or what keeps it from being one. */
  readonly role: string;
  readonly alive: boolean;
  readonly state: string;
  /** Why it is in this state, where that is not plain. */
  readonly reason: string | null;
  readonly host: string;
  readonly port: number;
  readonly nofailover: boolean;
}

/** How far this node is behind another in one database. */
export interface GroupEdgeStatus {
  readonly from: string;
  readonly database: string;
  readonly state: string;
  readonly lagBytes: number | null;
  /** Since the edge exists, by PostgreSQL's names; those that are not zero. */
  readonly conflicts: Readonly<Record<string, number>>;
}

export interface GroupStatus {
  readonly cluster: string;
  readonly kind: string;
  readonly uuid: string | null;
  readonly state: string;
  readonly schemaVersion: string | null;
  /** Why that is not what the asked node's program knows; null when it is. */
  readonly schemaTrouble: string | null;
  readonly master: string | null;
  readonly term: string | null;
  readonly paused: boolean;
  readonly members: readonly GroupMemberStatus[];
  /** As the node sees it that was asked. */
  readonly askedNode: string;
  readonly waitingFor: string | null;
  readonly edges: readonly GroupEdgeStatus[];
  readonly services: GroupServicesStatus | null;
  /** Settings that a member needs a restart for, by member. */
  readonly pendingRestart: Readonly<Record<string, readonly string[]>>;
  /** What was asked of the group and is not over. */
  readonly requests: readonly ActionStatus[];
  /** Schedules, running and failed tasks, newest backups. */
  readonly work: Readonly<Record<string, unknown>> | null;
}

export type GroupAction =
  | { readonly kind: 'switchover' | 'leave' | 'reinit'; readonly node: string | undefined }
  | { readonly kind: 'replace'; readonly node: string; readonly by: string }
  | { readonly kind: 'backup'; readonly database: string | undefined }
  | {
      readonly kind: 'restore';
      readonly database: string;
      readonly from: string;
      readonly into: string | undefined;
    };

/** How something that was asked for goes. */
export interface ActionStatus extends Pick<
  GroupRequest,
  'id' | 'by' | 'at' | 'state' | 'detail' | 'worker' | 'node' | 'arguments' | 'cancel'
> {
  readonly kind: GroupAction['kind'];
}

/** A backup that lies on a member. */
export interface MemberBackup {
  readonly node: string;
  readonly database: string;
  readonly fileName: string;
  readonly path: string;
  /** Null when it cannot be read; `error` says why. */
  readonly sizeBytes: number | null;
  readonly error: string | null;
}

/** What a member lets people do with its group. Every failure is a VarveError. */
export interface GroupControl {
  status(): Promise<GroupStatus>;
  plan(signal: AbortSignal): Promise<readonly PlannedStep[]>;
  /** Begins it; how it goes is asked with `request`. */
  act(action: GroupAction, by: string): Promise<ActionStatus>;
  /** @throws NOT_FOUND */
  request(id: string): Promise<ActionStatus>;
  /** Those of the last day, the oldest first. */
  requests(): Promise<readonly ActionStatus[]>;
  /** Has it given up; whether it was, is asked with `request`. @throws NOT_FOUND, GROUP_REQUEST_TOO_LATE */
  cancel(id: string, by: string): Promise<ActionStatus>;
  pause(by: string): Promise<void>;
  resume(by: string): Promise<void>;
  config(): Promise<GroupConfig>;
  /** Undefined removes a setting. @throws INVALID_ARGUMENT for one that servers do not know or members need */
  setConfig(name: string, value: string | undefined): Promise<GroupConfig>;
  /** Those that lie on this member. */
  backups(): Promise<readonly MemberBackup[]>;
}
