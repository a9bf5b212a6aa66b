import { randomUUID } from 'node:crypto';
import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { held, type Lock } from '../../coordination/coordinator.ts';
import { cancelled } from '../cancel-request.ts';
import type { GroupKeys } from '../group-keys.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import type { GroupView } from './group-view.ts';
import { chooseTarget, readReadiness } from './switch-over.ts';

export interface RequestDeps {
  readonly clock: Clock;
  readonly keys: GroupKeys;
}

export interface SwitchoverRequest {
  /** One of its own where it is left out. */
  readonly id?: string;
  /** Whoever is best, where it is left out. */
  readonly to?: string;
  readonly by: string;
  /** 30 s. */
  readonly timeoutMs?: number;
}

const POLL_MS = 20;

/**
 * Asks the write master, whoever that is, to let another take over, and waits for the answer.
 * @throws SWITCHOVER_REFUSED when nobody can take over, or did not
 * @throws DEADLINE_EXCEEDED when no master answers
 */
export async function askSwitchover(
  { clock, keys }: RequestDeps,
  request: SwitchoverRequest,
): Promise<string> {
  const id = request.id ?? `switchover-${randomUUID().slice(0, 8)}`;
  const document = keys.requests.at(id);
  await document.create({
    id,
    kind: 'switchover',
    ...(request.to === undefined ? {} : { node: request.to }),
    arguments: {},
    by: request.by,
    at: isoNow(clock),
    state: 'asked',
  });
  const timeoutMs = request.timeoutMs ?? 30_000;
  const untilMs = clock.monotonicMs() + timeoutMs;
  for (;;) {
    const answer = (await document.read())?.value;
    if (answer?.state === 'done') return answer.detail ?? '';
    if (answer?.cancel) throw cancelled(answer.cancel.by);
    if (answer?.state === 'failed') {
      throw new VarveError('SWITCHOVER_REFUSED', answer.detail ?? 'the switch-over failed');
    }
    if (clock.monotonicMs() > untilMs) {
      // One that nobody has begun is not to be begun when nobody waits for it any more.
      await document.update((was) => (was?.state === 'asked' ? { ...was, state: 'failed' } : undefined));
      throw new VarveError('DEADLINE_EXCEEDED', `the switch-over took longer than ${timeoutMs} ms`, {
        detail: `It is ${answer?.state ?? 'gone'}.`,
        hint: 'Look at varve cluster status: is there a write master?',
      });
    }
    await clock.sleep(POLL_MS);
  }
}

/** On the write master: begins the switch-over that is asked for, or refuses it. True when something was written. */
export async function serveSwitchover(
  { clock, keys, servers }: RequestDeps & { readonly servers: GroupServers },
  now: {
    readonly view: GroupView;
    readonly lock: Lock;
    readonly server: ServerAddress;
    readonly databases: readonly string[];
  },
): Promise<boolean> {
  const { view, server } = now;
  const asked = [...view.requests.values()].find(
    ({ value }) => value.kind === 'switchover' && value.state === 'asked',
  );
  if (!asked || !view.master) return false;
  const request = asked.value;
  const document = keys.requests.at(request.id);
  const others = [...view.members.keys()].filter((node) => node !== server.node);
  const ready = await readReadiness(servers, server, now.databases, others);
  const choice = chooseTarget(view, server.node, request.node, ready);
  if ('refusal' in choice) {
    return document.write({ ...request, state: 'failed', detail: choice.refusal }, asked.version);
  }
  const handover = { to: choice.to, request: request.id, at: isoNow(clock) };
  const result = await keys.coordinator.txn(
    [held(now.lock), keys.master.unchanged(view.master), document.unchanged(asked)],
    [
      keys.master.put({ ...view.master.value, handover }),
      document.put({ ...request, state: 'running', worker: server.node, node: choice.to }),
    ],
  );
  return result.committed;
}

/** Whether anybody may be elected. */
export async function setPaused({ clock, keys }: RequestDeps, paused: boolean, by: string): Promise<void> {
  await keys.config.update((was) => ({
    version: was?.version ?? 0,
    settings: was?.settings ?? {},
    ...was,
    maintenance: { paused, by, since: isoNow(clock) },
  }));
}

function isoNow(clock: Clock): string {
  return new Date(clock.nowMs()).toISOString();
}
