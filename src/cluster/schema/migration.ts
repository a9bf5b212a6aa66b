/**
 * One step of the control schema, forward only: what was released is never edited, the next one changes it. The
 * program of the version before has to be able to work with what it makes: members are updated one after the other.
 * New default rows take a migration, too, if only one that says so: a schema whose version is right is left alone.
 */
export interface Migration {
  readonly version: number;
  readonly name: string;
  /** DDL, one statement each: they are carried out on every member in this order. */
  readonly statements: readonly string[];
}
