import type { GroupConfig } from '../cluster/group-keys.ts';
import type { PlannedStep } from '../run/run.ts';
import type { ActionStatus, GroupStatus, MemberBackup } from './group-control.ts';
import { textTable } from './text-table.ts';

/** `varve cluster status` for people: who leads, who waits for whom, how far everybody is. */
export function groupLines(status: GroupStatus): string[] {
  const { cluster, kind, state, master, term, paused, askedNode, waitingFor, edges, services } = status;
  const rows = status.members.map((member) => [
    member.node,
    member.role,
    member.alive ? 'alive' : 'silent',
    member.state,
    `${member.host}:${member.port}`,
    [
      ...(member.nofailover ? ['never master by itself'] : []),
      ...(member.reason === null ? [] : [member.reason]),
      ...(member.state === 'rejoin-needed'
        ? [`to have it join anew: varve cluster reinit ${member.node}`]
        : []),
      ...(status.pendingRestart[member.node] ?? []).map((name) => `${name} waits for a restart`),
    ].join('; '),
  ]);
  const head = [
    `group ${cluster} (${kind}), ${state}`,
    master === null ? 'no write master' : `write master ${master}, term ${term ?? '?'}`,
    ...(paused ? ['paused: nobody takes over'] : []),
  ];
  return [
    head.join('; '),
    ...(waitingFor === null ? [] : [`waits for ${waitingFor}`]),
    ...(status.schemaTrouble === null ? [] : [`${askedNode}: ${status.schemaTrouble}`]),
    '',
    ...textTable(['member', 'role', 'alive', 'state', 'PostgreSQL', ''], rows),
    ...(edges.length === 0 ? [] : ['', `replication, as ${askedNode} sees it`, ...edgeLines(edges)]),
    ...(services === null ? [] : ['', serviceLine(services)]),
    ...(status.requests.length === 0 ? [] : ['', ...groupRequestLines(status.requests)]),
  ];
}

/** What was asked of the group, and how it goes. */
export function groupRequestLines(requests: readonly ActionStatus[]): string[] {
  if (requests.length === 0) return ['nothing was asked of this group in the last day'];
  const rows = requests.map(({ id, node, arguments: more, by, at, state, worker, cancel, detail }) => [
    id,
    [node ?? '', ...Object.values(more)].join(' '),
    cancel && state === 'running' ? `to be cancelled for ${cancel.by}` : state,
    worker ?? '',
    by,
    at,
    detail?.split('\n')[0] ?? '',
  ]);
  return textTable(['request', 'of', 'state', 'worker', 'asked by', 'at', ''], rows);
}

function edgeLines(edges: GroupStatus['edges']): string[] {
  const rows = edges.map(({ from, database, state, lagBytes, conflicts }) => [
    from,
    database,
    state,
    lagBytes === null ? '' : `${lagBytes} bytes`,
    Object.entries(conflicts)
      .map(([name, count]) => `${name} ${count}`)
      .join(', '),
  ]);
  return textTable(['from', 'database', 'state', 'behind', 'conflicts and errors'], rows);
}

function serviceLine({ haproxy, pgbouncer, master, error }: NonNullable<GroupStatus['services']>): string {
  const leads = haproxy.state === 'running' ? `, leads writes to ${master ?? 'nobody'}` : '';
  return `HAProxy ${haproxy.state}${leads}; PgBouncer ${pgbouncer.state}${error === null ? '' : `; ${error}`}`;
}

/** What a bring-up of the member would do now. */
export function groupPlanLines(steps: readonly PlannedStep[]): string[] {
  const rows = steps.map(({ step, check }) => [
    step,
    check.state === 'done' ? 'nothing to do' : check.reason,
  ]);
  return textTable(['step', 'would do'], rows);
}

export function groupConfigLines({ version, settings }: GroupConfig): string[] {
  const rows = Object.entries(settings).map(([name, value]) => [name, value]);
  return rows.length === 0
    ? ['no settings; the servers have their own']
    : [`version ${version}`, ...textTable(['setting', 'value'], rows)];
}

/** Of all members, as they came. */
export function groupBackupLines(backups: readonly MemberBackup[]): string[] {
  if (backups.length === 0) return ['no backups'];
  const rows = backups.map(({ database, fileName, node, sizeBytes, error }) => [
    database,
    fileName,
    node,
    sizeBytes === null ? '' : String(sizeBytes),
    error ?? '',
  ]);
  return textTable(['database', 'backup', 'member', 'bytes', ''], rows);
}
