import { VarveError } from '../core/errors.ts';
import type { GroupKeys, GroupRequest } from './group-keys.ts';

/** Of whom a request was about to be given up for. */
export function cancelled(by: string): VarveError {
  return new VarveError('GROUP_REQUEST_CANCELLED', `it was cancelled by ${by}`);
}

/**
 * Gives a request up: at once when nobody works on it, else as soon as its worker has noticed. Whoever may change a
 * request does so by its version, so it is either cancelled or has gone too far.
 * @throws NOT_FOUND
 * @throws GROUP_REQUEST_TOO_LATE when it is over, or cannot be taken back
 */
export async function cancelRequest(
  keys: GroupKeys,
  id: string,
  asker: { readonly by: string; readonly nowMs: number },
): Promise<GroupRequest> {
  const services = await keys.coordinator.services(keys.serviceName, { passing: true });
  const alive = new Set(services.map(({ meta }) => meta['node']));
  const cancel = { by: asker.by, at: new Date(asker.nowMs).toISOString() };
  const now = await keys.requests.at(id).update((request) => {
    if (!request) throw new VarveError('NOT_FOUND', `nobody asked ${id} of this group`);
    const why = tooLate(request);
    if (why !== undefined) {
      throw new VarveError('GROUP_REQUEST_TOO_LATE', `${id} cannot be cancelled: ${why}`, {
        hint: 'varve cluster requests shows how it goes. Nothing was changed.',
      });
    }
    const isWorkedOn = request.state === 'running' && alive.has(request.worker);
    if (isWorkedOn) return { ...request, cancel };
    return { ...request, cancel, state: 'failed', detail: cancelled(asker.by).message };
  });
  if (!now) throw new Error('assertion failed: a request was changed, or it was refused');
  return now;
}

/** Pure: why a request cannot be cancelled any more; undefined when it can. */
export function tooLate({ kind, state, irrevocable, worker }: GroupRequest): string | undefined {
  if (state === 'done') return 'it is done';
  if (state === 'failed') return 'it has failed already';
  if (state === 'asked') return undefined;
  if (kind === 'switchover') return 'the switch-over is under way, and over in seconds';
  return irrevocable === true
    ? `what ${worker ?? 'its worker'} has done of it cannot be taken back; it is carried on with to its end`
    : undefined;
}
