import { type Api, type ApiRequest, BadRequest } from './embedded-api.ts';
import { parseDurationMs } from './duration.ts';

const DEFAULT_WAIT_MS = 5 * 60 * 1000;
const MAX_WAIT_MS = 10 * 60 * 1000;

/**
 * The waiting half of a blocking query, `?index=N&wait=10s`: returns when a topic that `matches` has changed
 * since N, or when the time is up. The caller reads after it, in the same turn.
 * @throws BadRequest
 */
export async function readBlocking(
  api: Api,
  { query, signal }: ApiRequest,
  matches: (topic: string) => boolean,
): Promise<void> {
  const index = Number(query.get('index') ?? '0');
  if (!Number.isSafeInteger(index) || index < 0) throw new BadRequest('Invalid index');
  const wait = parseDurationMs(query.get('wait') ?? '0');
  if (wait === undefined) throw new BadRequest('Invalid wait time');
  if (index === 0 || api.store.changedSince(index, matches)) return;
  await api.change(matches, Math.min(wait === 0 ? DEFAULT_WAIT_MS : wait, MAX_WAIT_MS), signal);
}
