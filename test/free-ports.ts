import { chooseFreePorts } from '../src/node/ports.ts';

/** Ports on which nobody listens now, outside of the range that systems give to connections. */
export function freePorts(count: number): Promise<number[]> {
  return chooseFreePorts(count, []);
}
