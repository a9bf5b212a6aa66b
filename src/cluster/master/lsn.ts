import { VarveError } from '../../core/errors.ts';

/** A position in a server's WAL. Positions of different servers do not compare. */
export type Lsn = bigint;

/** Before everything. */
export const NO_LSN: Lsn = 0n;

/** Of PostgreSQL's text form, `16/B374D848`. @throws INVALID_ARGUMENT */
export function parseLsn(text: string): Lsn {
  const [, high, low] = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text) ?? [];
  if (high === undefined || low === undefined) {
    throw new VarveError('INVALID_ARGUMENT', `${JSON.stringify(text)} is no position in a WAL`);
  }
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}

export function formatLsn(lsn: Lsn): string {
  const hex = (part: bigint): string => part.toString(16).toUpperCase();
  return `${hex(lsn >> 32n)}/${hex(lsn & 0xffffffffn)}`;
}

export function maxLsn(lsns: Iterable<Lsn>): Lsn {
  let max = NO_LSN;
  for (const lsn of lsns) if (lsn > max) max = lsn;
  return max;
}
