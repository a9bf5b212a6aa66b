import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Coordinator, Registration, Session } from '../coordination/coordinator.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import type { Log } from './log.ts';
import type { NodeOptions } from './node-options.ts';

/** Name of the service under which every node is found; its kind is a tag. */
export const NODE_SERVICE = 'varve-node';

const TTL_MS = 10_000;
const STATUS_EVERY_MS = 1000;
const RETRY = { firstMs: 250, maxMs: 10_000 } as const;

export interface RegistrationDeps {
  readonly log: Log;
  readonly clock: Clock;
  readonly coordinator: Coordinator;
}

/**
 * Keeps the node known to the coordinator until `signal` fires: a session, the lock of its name (two nodes of
 * one name would answer for each other), and a service whose check passes while the node is ready. A lost
 * session or an unreachable coordinator is tried again; the node goes on meanwhile.
 */
export async function keepRegistered(
  deps: RegistrationDeps,
  options: Pick<NodeOptions, 'name' | 'kind' | 'folder' | 'httpPort'>,
  state: { readonly isReady: () => boolean; readonly signal: AbortSignal },
): Promise<void> {
  const { log, clock, coordinator } = deps;
  const { signal } = state;
  const backoff = new Backoff(RETRY);
  while (!signal.aborted) {
    try {
      await using session = await ownSession(coordinator, options);
      await using _lock = await coordinator.lock(`varve/nodes/${options.name}/lock`, session, {
        owner: `${options.name}, process ${process.pid}`,
        signal,
      });
      await using registration = await register(coordinator, options);
      log.info({ session: session.id }, 'registered with the coordinator');
      backoff.reset();
      await reportUntilLost({ clock, registration, session }, state);
    } catch (error) {
      if (signal.aborted) return;
      const delayMs = backoff.nextMs();
      log.warn({ error: messageOf(error), delayMs }, 'not registered with the coordinator; trying again');
      await clock.sleep(delayMs, signal).catch(() => {});
    }
  }
}

/** Ends the session that a killed run of this node left: its lock would have to expire first. */
async function ownSession(
  coordinator: Coordinator,
  { name, folder }: Pick<NodeOptions, 'name' | 'folder'>,
): Promise<Session> {
  const file = join(folder, 'coordinator.session');
  const before = (await readFile(file, 'utf8').catch(() => '')).trim();
  // This process holds the lock of the node's folder, so whoever had that session is gone.
  if (before !== '') await coordinator.endSession(before);
  const { minTtlMs, maxTtlMs } = coordinator.bounds;
  const ttlMs = Math.min(maxTtlMs, Math.max(minTtlMs, TTL_MS));
  const session = await coordinator.session({ ttlMs, name: `varve node ${name}` });
  await writeFileAtomic(file, `${session.id}\n`);
  return session;
}

function register(
  coordinator: Coordinator,
  { name, kind, httpPort }: Pick<NodeOptions, 'name' | 'kind' | 'httpPort'>,
): Promise<Registration> {
  return coordinator.register(
    {
      id: `varve-${name}`,
      name: NODE_SERVICE,
      address: '127.0.0.1',
      port: httpPort,
      tags: [kind],
      meta: { name },
    },
    { kind: 'ttl', ttlMs: TTL_MS, deregisterAfterMs: 3_600_000 },
  );
}

async function reportUntilLost(
  { clock, registration, session }: { clock: Clock; registration: Registration; session: Session },
  { isReady, signal }: { readonly isReady: () => boolean; readonly signal: AbortSignal },
): Promise<void> {
  const ended = AbortSignal.any([signal, session.lost]);
  let told: boolean | undefined;
  while (!ended.aborted) {
    const ready = isReady();
    // What was reported last is repeated by the registration itself.
    if (ready !== told)
      await registration.report(ready ? 'passing' : 'critical', ready ? 'ready' : 'not ready');
    told = ready;
    await clock.sleep(STATUS_EVERY_MS, ended).catch(() => {});
  }
  if (!signal.aborted) session.lost.throwIfAborted();
}
