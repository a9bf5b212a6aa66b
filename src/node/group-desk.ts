import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { backupDatabase } from '../cluster/backup/backup.ts';
import { recordBackup } from '../cluster/backup/backup-actions.ts';
import { backupFileName, backupFolder, listBackups } from '../cluster/backup/backup-folder.ts';
import { restoreBackup } from '../cluster/backup/restore-backup.ts';
import type { GroupContext } from '../cluster/bootstrap/context.ts';
import { writeAudit, type AuditEntry } from '../cluster/broker/audit.ts';
import { cancelRequest } from '../cluster/cancel-request.ts';
import { askMembers } from '../cluster/bootstrap/requests.ts';
import type { DatabaseStructure } from '../cluster/ddl/structure-upkeep.ts';
import type { GroupConfig, GroupKeys, MemberRecord } from '../cluster/group-keys.ts';
import type { GroupMember } from '../cluster/master/group-member.ts';
import { OWN_SETTINGS } from '../cluster/master/settings-follower.ts';
import { edgeStatus, type EdgeStatus } from '../cluster/mesh/edge-status.ts';
import { allLinks, edgeOf, type Link } from '../cluster/mesh/mesh.ts';
import type { SchemaStatus } from '../cluster/schema/schema-upkeep.ts';
import type { GroupServices } from '../cluster/services/group-services.ts';
import type { Clock } from '../core/clock.ts';
import { withDeadline } from '../core/deadline.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import type { PlannedStep } from '../run/run.ts';
import type {
  ActionStatus,
  GroupAction,
  GroupControl,
  GroupEdgeStatus,
  GroupMemberStatus,
  GroupStatus,
  MemberBackup,
} from './group-control.ts';
import type { GroupJobs } from './group-jobs.ts';
import { NODE_SERVICE } from './registration.ts';

export interface GroupDeskDeps {
  readonly clock: Clock;
  readonly keys: GroupKeys;
  readonly member: GroupMember;
  readonly context: GroupContext;
  readonly services: GroupServices;
  readonly jobs: GroupJobs;
}

export interface GroupDeskOptions {
  readonly node: string;
  readonly cluster: string;
  readonly kind: string;
  readonly structure: () => readonly DatabaseStructure[];
  readonly schema: () => SchemaStatus;
  readonly plan: (signal: AbortSignal) => Promise<PlannedStep[]>;
}

const EDGE_TIMEOUT_MS = 2_000;
const UNREACHABLE = { slot: 'unreachable', subscription: 'unreachable' } as const;

/** Where people ask about the group, and of it. */
export class GroupDesk implements GroupControl {
  readonly #deps: GroupDeskDeps;
  readonly #options: GroupDeskOptions;
  /** Backups and restores that were asked for by hand, on this node. */
  readonly #own = new Map<string, ActionStatus>();

  constructor(deps: GroupDeskDeps, options: GroupDeskOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  async status(): Promise<GroupStatus> {
    const { keys, member, services, jobs } = this.#deps;
    const { node, cluster, kind } = this.#options;
    const [group, records, master, config, alive, statuses, requests] = await Promise.all([
      keys.group.read(),
      keys.members.list(),
      keys.master.read(),
      keys.config.read(),
      keys.coordinator.services(keys.serviceName, { passing: true }),
      keys.status.list(),
      this.requests(),
    ]);
    const living = new Set(alive.map(({ meta }) => meta['node']));
    const members = [...records.values()].map(({ value }) => value);
    const active = master?.value.state === 'active' ? master.value.node : undefined;
    return {
      cluster,
      kind,
      uuid: group?.value.uuid ?? null,
      state: group?.value.state ?? 'not created',
      schemaVersion: group?.value.schemaVersion ?? null,
      schemaTrouble: this.#options.schema().trouble ?? null,
      master: active ?? null,
      term: master?.value.term ?? null,
      paused: config?.value.maintenance?.paused === true,
      members: members.map((each) =>
        memberStatus(each, {
          active,
          alive: living.has(each.node),
          state: statuses.get(each.node)?.value.state,
          waitingFor: statuses.get(each.node)?.value.waitingFor,
        }),
      ),
      askedNode: node,
      waitingFor: member.status().waitingFor ?? null,
      edges: await this.#edges(members),
      services: services.status(),
      pendingRestart: Object.fromEntries(
        [...statuses].map(([name, { value }]) => [name, value.pendingRestart ?? []]),
      ),
      requests: requests.filter(({ state }) => state === 'asked' || state === 'running'),
      work: { ...jobs.work.status(), structure: this.#options.structure() },
    };
  }

  plan(signal: AbortSignal): Promise<readonly PlannedStep[]> {
    return this.#options.plan(signal);
  }

  async act(action: GroupAction, by: string): Promise<ActionStatus> {
    const asked = await this.#act(action, by);
    void this.#audit(`Ask ${action.kind}`, asked, by);
    return asked;
  }

  async #act(action: GroupAction, by: string): Promise<ActionStatus> {
    const { keys, clock, member } = this.#deps;
    const asker = { by, nowMs: clock.nowMs() };
    switch (action.kind) {
      case 'switchover':
        return this.#begin(action.kind, by, async (id) =>
          member.switchover({ id, by, ...(action.node === undefined ? {} : { to: action.node }) }),
        );
      case 'leave':
      case 'reinit': {
        const node = action.kind === 'reinit' ? await this.#present(action.node) : this.#known(action.node);
        return this.request(await askMembers(keys, { kind: action.kind, node }, asker));
      }
      case 'replace': {
        const node = this.#known(action.node);
        return this.request(await askMembers(keys, { kind: 'replace', node, successor: action.by }, asker));
      }
      case 'backup':
        return this.#begin('backup', by, () => this.#backup(action.database));
      case 'restore':
        return this.#begin('restore', by, () => this.#restore(action));
    }
  }

  async request(id: string): Promise<ActionStatus> {
    const own = this.#own.get(id);
    if (own) return own;
    const found = await this.#deps.keys.requests.at(id).read();
    if (found) return found.value;
    throw new VarveError('NOT_FOUND', `nobody asked ${id} of this group`);
  }

  async requests(): Promise<readonly ActionStatus[]> {
    const asked = [...(await this.#deps.keys.requests.list()).values()].map(({ value }) => value);
    const known = new Set(asked.map(({ id }) => id));
    const own = [...this.#own.values()].filter(({ id }) => !known.has(id));
    return [...asked, ...own].toSorted((a, b) => a.at.localeCompare(b.at));
  }

  async cancel(id: string, by: string): Promise<ActionStatus> {
    const { keys, clock } = this.#deps;
    const own = this.#own.get(id);
    if (own && own.kind !== 'switchover') {
      throw new VarveError(
        'GROUP_REQUEST_TOO_LATE',
        `${id} cannot be cancelled: a ${own.kind} goes to its end`,
      );
    }
    const request = await cancelRequest(keys, id, { by, nowMs: clock.nowMs() });
    await this.#audit('Cancel', request, by);
    return request;
  }

  pause(by: string): Promise<void> {
    return this.#deps.member.pause(by);
  }

  resume(by: string): Promise<void> {
    return this.#deps.member.resume(by);
  }

  async config(): Promise<GroupConfig> {
    return (await this.#deps.keys.config.read())?.value ?? { version: 0, settings: {} };
  }

  async setConfig(name: string, value: string | undefined): Promise<GroupConfig> {
    await this.#check(name, value);
    const changed = await this.#deps.keys.config.update((was) => {
      const { [name]: _former, ...others } = was?.settings ?? {};
      const settings = value === undefined ? others : { ...others, [name]: value };
      return { ...was, version: (was?.version ?? 0) + 1, settings };
    });
    return changed ?? { version: 0, settings: {} };
  }

  async backups(): Promise<readonly MemberBackup[]> {
    const found = await listBackups(this.#deps.jobs.backups.folder);
    return found.map(({ database, fileName, path, summary, error }) => ({
      node: this.#options.node,
      database,
      fileName,
      path,
      sizeBytes: summary?.sizeBytes ?? null,
      error: error?.message ?? null,
    }));
  }

  /** What one of the own databases cannot do to itself while others look on: begun here, told here. */
  #begin(
    kind: 'switchover' | 'backup' | 'restore',
    by: string,
    work: (id: string) => Promise<string>,
  ): ActionStatus {
    const { clock } = this.#deps;
    const { node } = this.#options;
    const id = `${kind}-${randomUUID().slice(0, 8)}`;
    const asked = {
      id,
      kind,
      arguments: {},
      by,
      at: new Date(clock.nowMs()).toISOString(),
      worker: node,
    } as const;
    const set = (state: ActionStatus['state'], detail: string): void => {
      this.#own.set(id, { ...asked, state, detail });
    };
    set('running', '');
    void work(id).then(
      (detail) => set('done', detail),
      (error: unknown) => {
        const more = error instanceof VarveError ? [error.detail, error.hint] : [];
        set('failed', [messageOf(error), ...more].filter((line) => line !== undefined).join('\n'));
      },
    );
    return { ...asked, state: 'running', detail: '' };
  }

  /** Where the write master can be reached; what was asked does not wait for that. */
  async #audit(action: string, { id, kind, node }: ActionStatus, by: string): Promise<void> {
    const { control } = this.#deps.jobs.backups;
    const { log } = this.#deps.jobs;
    const entry: AuditEntry = {
      ...this.#options,
      actor: 'cli',
      action,
      target: id,
      outcome: 'ok',
      origin: { user: by },
      detail: { kind, ...(node === undefined ? {} : { node }) },
    };
    await control
      .withConnection((connection) => writeAudit(connection, entry))
      .catch((error: unknown) => {
        log.warn({ action, request: id, by, error: messageOf(error) }, 'not written to the audit log');
      });
  }

  async #backup(database: string | undefined): Promise<string> {
    const { backups } = this.#deps.jobs;
    const databases = database === undefined ? this.#databases() : [database];
    const written: string[] = [];
    for (const name of databases) {
      const file = await backupDatabase({
        source: backups.local(name),
        master: await backups.master(name),
        folder: backups.folder,
        fileName: backupFileName(new Date(this.#deps.clock.nowMs()), randomUUID()),
        cluster: this.#options.cluster,
      });
      await backups.control.withConnection((connection) => recordBackup(connection, this.#options, file));
      written.push(`${file.path}: ${file.end.rowCount} rows`);
    }
    return written.join('\n');
  }

  async #restore({ database, from, into }: Extract<GroupAction, { kind: 'restore' }>): Promise<string> {
    const { clock, jobs } = this.#deps;
    const { backups, databases, log } = jobs;
    const target = into ?? database;
    const path = from.includes('/') ? from : join(backupFolder(backups.folder, database), from);
    const result = await restoreBackup(
      { control: backups.control, databases, clock, log, ...this.#options },
      { path, database: target, into: 'either' },
    );
    return `${target}: ${result.end.rowCount} rows restored from ${path}`;
  }

  #databases(): readonly string[] {
    const { services } = this.#deps;
    return services.members.find(({ node }) => node === this.#options.node)?.databases ?? [];
  }

  /** A member, or a node that runs and may be one again. */
  async #present(node: string | undefined): Promise<string> {
    const nodes = await this.#deps.keys.coordinator.services(NODE_SERVICE, { passing: true });
    return node !== undefined && nodes.some(({ meta }) => meta['name'] === node) ? node : this.#known(node);
  }

  #known(node: string | undefined): string {
    if (node !== undefined && this.#deps.services.members.some((member) => member.node === node)) return node;
    throw new VarveError('INVALID_ARGUMENT', `there is no member ${node ?? ''} in this group`, {
      hint: `There are ${this.#deps.services.members.map((member) => member.node).join(', ')}.`,
    });
  }

  async #check(name: string, value: string | undefined): Promise<void> {
    if (OWN_SETTINGS.has(name.toLowerCase())) {
      throw new VarveError('INVALID_ARGUMENT', `${name} is set by Varve itself in a group`);
    }
    const { context } = this.#deps;
    const known = await context.onSelf('postgres', (connection) =>
      connection.maybeOne<{ context: string }>(
        'select context from pg_catalog.pg_settings where lower(name) = lower($1)',
        [name],
      ),
    );
    if (!known || known.context === 'internal') {
      throw new VarveError('INVALID_ARGUMENT', `PostgreSQL has no setting ${name} that can be changed`, {
        hint: 'select name, setting, context from pg_settings lists them.',
      });
    }
    if (value === '') throw new VarveError('INVALID_ARGUMENT', 'an empty value is not taken');
  }

  /** A server that is silent is not waited for longer than people want to wait for a status. */
  async #edge(link: Link): Promise<EdgeStatus> {
    const look = (): Promise<EdgeStatus[]> => this.#deps.context.mesh.status([link]);
    const looked = await withDeadline('an edge', EDGE_TIMEOUT_MS, undefined, look).catch(() => []);
    return looked[0] ?? edgeStatus(edgeOf(link), UNREACHABLE, undefined);
  }

  /** From all other members to this one: how far it is behind. */
  async #edges(members: readonly MemberRecord[]): Promise<GroupEdgeStatus[]> {
    const servers = members
      .filter(({ state }) => state === 'member')
      .map(({ node, host, port }) => ({ node, host, port }));
    const links = allLinks(servers, this.#databases()).filter(({ to }) => to.node === this.#options.node);
    const found = await Promise.all(links.map((link) => this.#edge(link)));
    return found.map(({ edge, state, lagBytes, conflicts }) => ({
      from: edge.from,
      database: edge.database,
      state,
      lagBytes: lagBytes ?? null,
      conflicts: conflicts ?? {},
    }));
  }
}

interface MemberFacts {
  readonly active: string | undefined;
  readonly alive: boolean;
  readonly state: string | undefined;
  readonly waitingFor: string | undefined;
}

function memberStatus(member: MemberRecord, facts: MemberFacts): GroupMemberStatus {
  const { node, state, reason, host, port, tags } = member;
  return {
    node,
    role: node === facts.active ? 'write master' : state === 'member' ? (facts.state ?? 'member') : state,
    alive: facts.alive,
    state,
    reason: reason ?? (facts.waitingFor === undefined ? null : `waits for ${facts.waitingFor}`),
    host,
    port,
    nofailover: tags.nofailover === true,
  };
}
