import type { Connection } from '../../postgres/connection.ts';
import type { GroupIdentity } from '../ddl/install.ts';

/** The queue of DDL, as the bootstrap needs it. Connections are superuser's, to the database in question. */
export interface GroupSchemaPart {
  /**
   * Makes or updates what a replicated database has of the group: identity, queue, barriers, publication. May be
   * repeated.
   */
  install(connection: Connection, identity: GroupIdentity): Promise<void>;
  /** All of that which does not depend on the group, in a database that is nobody's yet. May be repeated. */
  prepare(connection: Connection): Promise<void>;
  /**
   * Gives a joiner's database the structure of the donor's: roles, then the queue's statements in order. No DDL is
   * committed on the donor meanwhile. May be repeated on what an earlier attempt left.
   */
  replay(donor: Connection, joiner: Connection): Promise<void>;
  /** While the session is open, nobody commits DDL in that database. */
  holdDdl(connection: Connection): Promise<void>;
}

/** Schema and default rows of the control database. */
export interface ControlSchemaPart {
  /** What a complete schema is called in the group's record. */
  readonly version: string;
  /** On the leader; may be repeated. */
  install(connection: Connection): Promise<void>;
  /** Whether that member has all of this version. @throws when it has another that this program does not know */
  isComplete(connection: Connection): Promise<boolean>;
}

export interface WriteMasterPart {
  /** Makes this node write master of a group that has none yet; does nothing when there is one. */
  claim(reason: string): Promise<void>;
}
