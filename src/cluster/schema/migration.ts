/** One step of the control schema, forward only: what was released is never edited, the next one changes it. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  /** DDL, one statement each: they are carried out on every member in this order. */
  readonly statements: readonly string[];
}
