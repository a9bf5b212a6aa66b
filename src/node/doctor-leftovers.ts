import { findLeftovers, removeLeftovers, type Leftover, type Removal } from '../data-node/leftovers.ts';
import type { Connection } from '../postgres/connection.ts';
import { ok, warn, type DoctorCheck } from './doctor-finding.ts';

const CHECK = 'old-multi-node';
const WHY =
  'What TimescaleDB’s own multi-node has left keeps TimescaleDB 2.14 and newer from being installed.';
const REPEAT = 'Repeat with --remove-leftovers.';

/** One check for each thing found in the database of this connection; with `remove`, what became of it. */
export async function leftoverChecks(
  connection: Connection,
  { remove }: { readonly remove: boolean },
): Promise<DoctorCheck[]> {
  try {
    const leftovers = await findLeftovers(connection);
    const removable = remove ? leftovers.filter((leftover) => leftover.removable) : [];
    if (removable.length === 0) return checksOf(leftovers, []);
    const removals = await removeLeftovers(connection, removable);
    return checksOf(await findLeftovers(connection), removals);
  } catch (error) {
    const look = (): never => {
      throw error;
    };
    return [{ check: CHECK, why: WHY, remedy: 'Repeat it as a superuser.', look }];
  }
}

function checksOf(leftovers: readonly Leftover[], removals: readonly Removal[]): DoctorCheck[] {
  const gone = removals.filter(({ removed }) => removed);
  const checks = [
    ...gone.map(({ leftover, how }) => ({
      check: CHECK,
      why: leftover.explanation,
      remedy: '',
      look: () => ok(`removed ${nameOf(leftover)}: ${how}`),
    })),
    ...leftovers.map((leftover) => ({
      check: CHECK,
      why: leftover.explanation,
      remedy: leftover.removable ? `${leftover.remedy} ${REPEAT}` : leftover.remedy,
      look: () => warn(nameOf(leftover)),
    })),
  ];
  if (checks.length > 0) return checks;
  return [{ check: CHECK, why: WHY, remedy: REPEAT, look: () => ok('no traces of it') }];
}

function nameOf({ kind, name }: Leftover): string {
  return `${kind.replaceAll('-', ' ')} ${name}`;
}
