import type { Connection } from '../../postgres/connection.ts';

export interface GlobalsCopy {
  /** What was changed on the member, for people. */
  readonly changes: readonly string[];
  /** What could not be, with the reason; tried again by the next copy. */
  readonly problems: readonly string[];
}

/**
 * Makes roles (with the verifiers of their passwords), memberships, settings of roles and of the database, owner and
 * grants of the database on a member like those on the write master. Roles that never came from the group stay.
 * Both connections are a superuser's, to the same database. May be repeated at any time; where all is alike it
 * only reads.
 */
export async function copyGlobals(master: Connection, member: Connection): Promise<GlobalsCopy> {
  const { globals } = await master.one<{ globals: object }>('select varve_group.globals() as globals');
  const { rows } = await member.query<{ change: string; error: string | null }>(
    'select change, error from varve_group.apply_globals($1)',
    [JSON.stringify(globals)],
  );
  return {
    changes: rows.filter(({ error }) => error === null).map(({ change }) => change),
    problems: rows.flatMap(({ change, error }) => (error === null ? [] : [`${change}: ${error}`])),
  };
}
