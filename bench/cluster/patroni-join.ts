import { pause, primaryOf, until, untilWhole } from './contender.ts';
import { ratesOf, type JoinRates } from './load-rate.ts';
import { PacedLoad, type PacedLoadOptions } from './paced-load.ts';
import type { PatroniCluster } from './patroni.ts';

const TIMEOUT_MS = 120_000;
/** The load's second table is on the others by then, and Patroni has made up its mind about its synchronous standby. */
const SETTLED_MS = 2000;

/** A fourth node comes to three of Patroni's (its copy is pg_basebackup's) while clients write to their primary. */
export async function patroniJoin(prepared: PatroniCluster, options: PacedLoadOptions): Promise<JoinRates> {
  await using cluster = prepared;
  for (const node of cluster.nodes) cluster.start(node);
  await untilWhole(cluster, TIMEOUT_MS);
  await until(() => cluster.isSettled(), TIMEOUT_MS);
  await pause(SETTLED_MS);
  await using load = await PacedLoad.start(cluster.endpoint(await primaryOf(cluster)), options);
  const [joiner] = cluster.joiners;
  if (!joiner) throw new Error('there is nobody to join');
  const { without, during } = await ratesOf(load, async () => {
    cluster.start(joiner);
    await until(() => cluster.follows(joiner), TIMEOUT_MS);
  });
  await load.stop();
  return { without, during };
}
