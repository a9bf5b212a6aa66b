import { errorFromJson, messageOf, VarveError } from '../core/errors.ts';
import type { Clock } from '../core/clock.ts';
import type { GroupConfig } from '../cluster/group-keys.ts';
import type { PlannedStep } from '../run/run.ts';
import type { ActionStatus, GroupAction, GroupStatus, MemberBackup } from './group-control.ts';

const ANSWER_TIMEOUT_MS = 15_000;
const POLL_MS = 250;

/** A group, through the HTTP addresses of its members: where any will do, the first that answers is asked. */
export class GroupClient {
  readonly #urls: readonly string[];
  readonly #user: string;

  constructor(urls: readonly string[], user: string) {
    this.#urls = urls;
    this.#user = user;
  }

  status(): Promise<GroupStatus> {
    return this.#ask('GET', '');
  }

  async plan(): Promise<readonly PlannedStep[]> {
    return (await this.#ask<{ steps: PlannedStep[] }>('GET', '/plan')).steps;
  }

  config(): Promise<GroupConfig> {
    return this.#ask('GET', '/config');
  }

  setConfig(name: string, value: string | null): Promise<GroupConfig> {
    return this.#ask('PUT', '/config', { name, value });
  }

  async setPaused(paused: boolean): Promise<void> {
    await this.#ask('POST', paused ? '/pause' : '/resume', {});
  }

  async requests(): Promise<readonly ActionStatus[]> {
    return (await this.#ask<{ requests: ActionStatus[] }>('GET', '/requests')).requests;
  }

  /**
   * Has it given up, and waits until its worker has.
   * @throws NOT_FOUND
   * @throws GROUP_REQUEST_TOO_LATE when it goes on to its end, or is there already
   */
  async cancel(
    id: string,
    { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
  ): Promise<ActionStatus> {
    const path = `/requests/${encodeURIComponent(id)}`;
    let request = await this.#ask<ActionStatus>('POST', `${path}/cancel`, {});
    while (request.state === 'running') {
      await clock.sleep(POLL_MS, signal);
      request = await this.#ask<ActionStatus>('GET', path);
    }
    if (request.state === 'failed') return request;
    throw new VarveError('GROUP_REQUEST_TOO_LATE', `${id} was done before it could be given up`);
  }

  /** Of all members that answer, the newest first. @throws GROUP_UNREACHABLE when none does */
  async backups(): Promise<readonly MemberBackup[]> {
    return (await this.#backups()).map(({ backup }) => backup);
  }

  /**
   * The member on which that backup lies, for a restore: only there it can be read.
   * @throws BACKUP_NOT_FOUND when it lies on none that answers
   */
  async holderOf(database: string, fileName: string): Promise<GroupClient> {
    const all = await this.#backups();
    const found = all.find(({ backup }) => backup.database === database && backup.fileName === fileName);
    if (found) return new GroupClient([found.url], this.#user);
    const others = all.filter(({ backup }) => backup.database === database);
    throw new VarveError(
      'BACKUP_NOT_FOUND',
      `no member that answers has a backup ${fileName} of database ${database}`,
      {
        ...(others.length === 0
          ? {}
          : { detail: others.map(({ backup }) => `${backup.node} has ${backup.fileName}`).join('\n') }),
        hint: '`varve cluster backup list` shows all backups. Is the member down that took it?',
      },
    );
  }

  async #backups(): Promise<readonly { readonly url: string; readonly backup: MemberBackup }[]> {
    const answers = await Promise.allSettled(
      this.#urls.map(async (url) => {
        const member = new GroupClient([url], this.#user);
        const { backups } = await member.#ask<{ backups: MemberBackup[] }>('GET', '/backups');
        return backups.map((backup) => ({ url, backup }));
      }),
    );
    const told = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
    const [failed] = answers.filter((answer) => answer.status === 'rejected');
    if (told.length === 0 && failed) throw failed.reason;
    return told.flat().sort((a, b) => b.backup.fileName.localeCompare(a.backup.fileName));
  }

  /**
   * Asks for it and waits until it is done.
   * @throws GROUP_REQUEST_FAILED with the reason
   */
  async act(
    action: GroupAction,
    {
      clock,
      signal,
      onProgress,
    }: { clock: Clock; signal: AbortSignal; onProgress: (request: ActionStatus) => void },
  ): Promise<ActionStatus> {
    let request = await this.#ask<ActionStatus>('POST', '/requests', action);
    for (;;) {
      onProgress(request);
      if (request.state === 'done') return request;
      if (request.state === 'failed') {
        throw new VarveError(
          'GROUP_REQUEST_FAILED',
          `${action.kind} has failed: ${request.detail ?? 'no reason given'}`,
        );
      }
      await clock.sleep(POLL_MS, signal);
      request = await this.#ask<ActionStatus>('GET', `/requests/${encodeURIComponent(request.id)}`);
    }
  }

  async #ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    const failures: string[] = [];
    for (const url of this.#urls) {
      let response: Response;
      try {
        response = await fetch(`${url.replace(/\/$/, '')}/api/cluster${path}`, {
          method,
          signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
          headers: {
            'x-varve-user': this.#user,
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        });
      } catch (error) {
        failures.push(`${url}: ${messageOf(error)}`);
        // It may have taken effect: asking the next one could do it twice.
        if (method !== 'GET' && !isRefused(error)) break;
        continue;
      }
      const answer = (await response.json()) as T & { code?: string; message?: string };
      if (response.ok) return answer;
      if (answer.code === 'NOT_IN_GROUP' && url !== this.#urls.at(-1)) {
        failures.push(`${url}: ${answer.message ?? ''}`);
        continue;
      }
      throw errorFromJson(answer);
    }
    throw new VarveError('GROUP_UNREACHABLE', 'no member of the group answers', {
      detail: failures.join('\n'),
      hint: 'varve status shows which nodes run; their logs tell why others do not.',
    });
  }
}

function isRefused(error: unknown): boolean {
  const cause = error instanceof Error ? (error.cause as { code?: string } | undefined) : undefined;
  return cause?.code === 'ECONNREFUSED';
}
