import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { clearAttic } from './cluster/attic.ts';
import { startEtcd } from './cluster/etcd.ts';
import { measureJoin } from './cluster/join.ts';
import { measureKills } from './cluster/kills.ts';
import { measurePhases } from './cluster/phases.ts';
import { PATRONI_PROGRAM, PatroniCluster } from './cluster/patroni.ts';
import { compareWithPatroni, type Figure } from './cluster/rivals.ts';
import { varveGroup } from './cluster/varve-group.ts';
import { printGoals } from './storage/figures.ts';

/**
 * A group of three access nodes beside Patroni (Debian: patroni, postgresql-15, etcd-server), with the same etcd
 * and the same lease:
 *   npm run bench -- cluster [--rounds 3] [--only bootstrap,switch-over,fail-over,join,kills] [--minutes 11]
 * - bootstrap: from three empty folders to data on all three
 * - switch-over, fail-over (`kill -9` of daemon and server): for how long no server took a write, and how many
 *   acknowledged rows were gone afterwards
 * - join: a fourth node joins under 5,000 rows a second: rows lost, for how long each member stood still, and how much
 *   of the load went through, with Patroni and without a join beside it
 * - kills: a table of kill points of the bootstrap and what came of them
 * - phases, only when asked for: where the time of a bootstrap goes, on the clock and on the processor
 * A bootstrap is that of a machine on which none was before; with `--warm` it finds the data folder that an earlier one
 * has left to be copied. Kill points for which no time is left within `--minutes` are not tried, and said to be so. `--steps` restricts
 * them to steps by name, `--lanes` says how many are tried at a time.
 */
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'bootstrap,switch-over,fail-over,join,kills' },
    minutes: { type: 'string', default: '11' },
    lanes: { type: 'string', default: '2' },
    steps: { type: 'string' },
    warm: { type: 'boolean', default: false },
    'rows-per-second': { type: 'string', default: '5000' },
  },
});
const FIGURES: readonly Figure[] = ['bootstrap', 'switch-over', 'fail-over'];
/** The shortest that Patroni allows, for both. */
const TTL_S = 20;

const { warm } = values;
const rounds = Number(values.rounds);
const parts = new Set(values.only.split(','));
const unknown = [...parts].filter((part) => ![...FIGURES, 'join', 'kills', 'phases'].includes(part));
if (unknown.length > 0) throw new Error(`no part of this bench: ${unknown.join(', ')}`);
const patroniTimes = { ttlS: TTL_S, loopWaitS: 1, retryTimeoutS: 3 };
const figures = new Set(FIGURES.filter((figure) => parts.has(figure)));
const withPatroni = existsSync(PATRONI_PROGRAM);
if (figures.size > 0 && !withPatroni)
  throw new Error('this needs patroni, postgresql-15 and etcd-server (Debian)');

const untilMs = performance.now() + Number(values.minutes) * 60_000;
await using etcd = await startEtcd();
const etcdPort = etcd.port;
if (figures.size > 0) {
  await compareWithPatroni(
    {
      Varve: (cluster) => varveGroup({ etcdPort, cluster, leaseTtlS: TTL_S, warm }),
      Patroni: (scope) => PatroniCluster.prepare(etcdPort, scope, patroniTimes),
    },
    { rounds, figures, leaseTtlS: TTL_S },
  );
}
if (parts.has('phases')) await measurePhases({ etcdPort, rounds, leaseTtlS: TTL_S, warm });
if (parts.has('join')) {
  const rowsPerSecond = Number(values['rows-per-second']);
  const patroni = (scope: string): Promise<PatroniCluster> =>
    PatroniCluster.prepare(etcdPort, scope, { ...patroniTimes, joiners: 1 });
  await measureJoin({
    etcdPort,
    rounds,
    rowsPerSecond,
    leaseTtlS: TTL_S,
    patroni: withPatroni ? patroni : undefined,
  });
}
if (parts.has('kills')) {
  const steps = values.steps === undefined ? undefined : new Set(values.steps.split(','));
  const lanes = Number(values.lanes);
  await measureKills({ etcdPort, leaseTtlS: TTL_S, withPatroni, untilMs, lanes, steps });
}
printGoals();
await clearAttic();
