import type { Clock } from '../../core/clock.ts';
import type { Coordinator, CoordinatorLog } from '../../coordination/coordinator.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import type { GroupKeys } from '../group-keys.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import type { GroupView } from './group-view.ts';

export interface SettingsFollowerDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly coordinator: Coordinator;
  readonly keys: GroupKeys;
  readonly servers: GroupServers;
  readonly restart?: (() => Promise<void>) | undefined;
}

export interface SettingsRound {
  readonly isMaster: boolean;
  readonly follows: boolean;
  readonly switchover: (to: string) => Promise<string>;
  readonly signal: AbortSignal;
}

/** Settings that are the write master's business, or that would cut a member off. */
export const OWN_SETTINGS: ReadonlySet<string> = new Set([
  'synchronous_standby_names',
  'default_transaction_read_only',
  'port',
  'data_directory',
  'hba_file',
  'ident_file',
  'config_file',
  'wal_level',
]);

/**
 * Brings the settings of the group's configuration to this member's server. What needs a restart is told
 * (`status/<node>`), and done where the daemon can restart its server: one member at a time under a lock, the
 * write master last, after another has taken over.
 */
export class SettingsFollower {
  readonly #deps: SettingsFollowerDeps;
  readonly #self: ServerAddress;
  configVersion: number | undefined;
  pendingRestart: readonly string[] = [];

  constructor(deps: SettingsFollowerDeps, self: ServerAddress) {
    this.#deps = deps;
    this.#self = self;
  }

  async round(view: GroupView, now: SettingsRound): Promise<void> {
    const { config } = view;
    if (config && config.version !== this.configVersion) {
      await this.#apply(config.settings);
      this.configVersion = config.version;
    }
    if (!config) return;
    this.pendingRestart = await this.#readPending();
    if (this.pendingRestart.length === 0 || !this.#deps.restart) return;
    if (view.config?.maintenance?.paused === true) return;
    if (now.isMaster) await this.#giveWay(view, now);
    else if (now.follows) await this.#restartAlone(now.signal);
  }

  async #apply(settings: Readonly<Record<string, string>>): Promise<void> {
    const { servers, log } = this.#deps;
    await servers.withConnection(this.#self, 'postgres', async (connection) => {
      for (const [name, value] of Object.entries(settings)) {
        if (OWN_SETTINGS.has(name.toLowerCase())) {
          log.warn({ name }, 'this setting is not the configuration’s to change; it is left as it is');
          continue;
        }
        // One that this server refuses must not keep the others from it.
        await connection
          .query(`alter system set ${quoteIdent(name)} = ${quoteLiteral(value)}`)
          .catch((error: unknown) => log.warn({ name, value, error }, 'PostgreSQL refuses a setting'));
      }
      await connection.query('select pg_catalog.pg_reload_conf()');
    });
    // Until the postmaster has read it.
    await this.#deps.clock.sleep(RELOAD_MS);
  }

  async #readPending(): Promise<string[]> {
    const { rows } = await this.#deps.servers.withConnection(this.#self, 'postgres', (connection) =>
      connection.query<{ name: string }>(
        `select name from pg_catalog.pg_settings where pending_restart order by name`,
      ),
    );
    return rows.map(({ name }) => name);
  }

  /** The write master is the last one, and is it no more then. */
  async #giveWay(view: GroupView, { switchover }: SettingsRound): Promise<void> {
    const others = [...view.members.values()].filter(
      ({ node, state }) => node !== this.#self.node && state === 'member',
    );
    if (others.length === 0) return this.#restart();
    const ready = others.filter(({ node }) => {
      const status = view.status.get(node);
      return (
        status?.state === 'following' &&
        status.configVersion === this.configVersion &&
        (status.pendingRestart ?? []).length === 0
      );
    });
    const [to] = ready.filter(({ tags }) => tags.nofailover !== true);
    if (ready.length < others.length || !to) return;
    this.#deps.log.info({ to: to.node, settings: this.pendingRestart }, 'gives way for a restart');
    await switchover(to.node);
  }

  async #restartAlone(signal: AbortSignal): Promise<void> {
    const { coordinator, keys } = this.#deps;
    await using session = await coordinator.session({
      ttlMs: RESTART_TTL_MS,
      name: `${this.#self.node} restart`,
    });
    const lock = await coordinator
      .lock(keys.restartLock, session, { owner: this.#self.node, waitMs: 0, signal })
      .catch(() => undefined);
    if (!lock) return;
    await this.#restart();
    // The next one waits until this one has caught up a little; quorums need it.
    await this.#deps.clock.sleep(SETTLE_MS, signal);
    await lock.release();
  }

  async #restart(): Promise<void> {
    const { log, restart } = this.#deps;
    log.info({ settings: this.pendingRestart }, 'restarts its server for new settings');
    await restart?.();
    this.pendingRestart = await this.#readPending();
  }
}

const RELOAD_MS = 300;
const RESTART_TTL_MS = 30_000;
const SETTLE_MS = 1_000;
