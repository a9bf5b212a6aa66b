import { VarveError } from '../../core/errors.ts';

/** Where a fileset or a manifest is not what was written. */
export interface FileDamage {
  readonly file: string;
  readonly offset: number;
  /** Half a sentence: what was found. */
  readonly reason: string;
}

/** The error by which damage is told: with file and offset. */
export class FileDamageError extends VarveError {
  readonly damage: FileDamage;

  constructor(damage: FileDamage, cause?: unknown) {
    super('FILESET_DAMAGED', `${damage.file} is damaged at offset ${damage.offset}: ${damage.reason}`, {
      hint: 'The block is put aside and filled from the next source: its log, or its replicas.',
      cause,
    });
    this.damage = damage;
  }
}

/** Damage of bytes whose place in a file is known only to the caller. */
export class FormatFault extends Error {
  readonly offset: number;

  constructor(offset: number, reason: string) {
    super(reason);
    this.offset = offset;
  }

  at(file: string, startOffset = 0): FileDamageError {
    return new FileDamageError({ file, offset: startOffset + this.offset, reason: this.message });
  }
}

/** Runs a decoder over bytes that begin at `startOffset` of `file`, and tells its faults with their place. */
export function decodeAt<T>(file: string, startOffset: number, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof FormatFault) throw error.at(file, startOffset);
    throw error;
  }
}
