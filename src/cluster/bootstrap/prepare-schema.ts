import { done, todo, type Step } from '../../run/step.ts';
import type { GroupContext } from './context.ts';
import { foreignTables } from './joiner-databases.ts';

/**
 * What every replicated database of a group has is made before the lock, which all nodes want at the same time: under
 * it there is only to be said to which group it belongs. Databases with content stay as they are; whether they may
 * become the group's is decided under the lock.
 */
export const prepareSchema: Step<GroupContext> = {
  name: 'prepare-group-schema',
  check: async (context) => {
    const bare = await bareDatabases(context);
    return bare.length === 0 ? done : todo(`in ${bare.join(', ')}`);
  },
  apply: async (context) => {
    const { groupSchema } = context.deps;
    const bare = await bareDatabases(context);
    await Promise.all(
      bare.map((database) => context.onSelf(database, (connection) => groupSchema.prepare(connection))),
    );
  },
};

/** Of this node's replicated databases those without content, the group's own included. */
async function bareDatabases(context: GroupContext): Promise<string[]> {
  const found = await Promise.all(
    context.databases.map((database) =>
      context.onSelf(database, async (connection) => {
        const { there } = await connection.one<{ there: boolean }>(
          `select pg_catalog.to_regnamespace('varve_group') is not null as there`,
        );
        return there || (await foreignTables(connection)).length > 0 ? undefined : database;
      }),
    ),
  );
  return found.filter((database) => database !== undefined);
}
