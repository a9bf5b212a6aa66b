import * as z from 'zod';
import { VarveError } from '../core/errors.ts';
import type { InterventionRequest } from '../storage/bootstrap/plan-intervention.ts';
import { parseTime } from '../storage/protocol/time-text.ts';

const DAY_MS = 86_400_000;
const MAX_SKIP_MS = 30 * DAY_MS;

const request = z.discriminatedUnion('action', [
  z.strictObject({ action: z.literal('retry') }),
  z.strictObject({
    action: z.literal('skipPeer'),
    peer: z.string().min(1).max(100),
    forMs: z.number().int().min(1000).max(MAX_SKIP_MS),
  }),
  z.strictObject({
    action: z.literal('acceptLoss'),
    shard: z.number().int().min(0),
    namespace: z.string().optional(),
    /** Seconds since 1970 or RFC 3339. */
    start: z.string().optional(),
    end: z.string().optional(),
  }),
]);

/** As it travels: times as people write them. */
export type BootstrapRequestBody = z.output<typeof request>;

/** @throws INVALID_ARGUMENT that names the field */
export function bootstrapRequest(body: unknown): InterventionRequest {
  const parsed = request.safeParse(body);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new VarveError(
      'INVALID_ARGUMENT',
      `what the bootstrap is told is not one of its actions: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`,
      { hint: 'docs/shards.md has what it takes.' },
    );
  }
  const asked = parsed.data;
  if (asked.action !== 'acceptLoss') return asked;
  const { start, end, ...rest } = asked;
  const startNs = start === undefined ? undefined : parseTime('start', start);
  const endNs = end === undefined ? undefined : parseTime('end', end);
  if (startNs !== undefined && endNs !== undefined && endNs <= startNs) {
    throw new VarveError('INVALID_ARGUMENT', 'end has to be behind start');
  }
  return { ...rest, startNs, endNs };
}
