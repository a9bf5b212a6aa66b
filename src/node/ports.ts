import { once } from 'node:events';
import { createServer } from 'node:net';
import { VarveError } from '../core/errors.ts';

/**
 * Below the range from which systems take the ports of outgoing connections: one chosen from there could be
 * taken by any program until the next start.
 */
const RANGE = { from: 20_000, to: 32_000 } as const;

/**
 * `count` ports on which nobody listens at 127.0.0.1, none of them in `taken`, in ascending order.
 * @throws PORT_IN_USE when there are not so many
 */
export async function chooseFreePorts(
  count: number,
  taken: readonly number[],
  random: () => number = Math.random,
): Promise<number[]> {
  const size = RANGE.to - RANGE.from;
  const start = Math.floor(random() * size);
  const found: number[] = [];
  for (let i = 0; i < size && found.length < count; i += 1) {
    const port = RANGE.from + ((start + i) % size);
    if (!taken.includes(port) && (await isFree(port))) found.push(port);
  }
  if (found.length === count) return found.sort((a, b) => a - b);
  throw new VarveError(
    'PORT_IN_USE',
    `fewer than ${count} ports from ${RANGE.from} to ${RANGE.to} are free`,
    {
      hint: 'Name another range with --port-base.',
    },
  );
}

/** Whether a server could listen on the port now. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen({ port, host: '127.0.0.1', exclusive: true });
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}
