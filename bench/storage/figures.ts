import { median, noise } from '../measure.ts';

/** One of the goals, and what came of it. */
interface Goal {
  readonly name: string;
  readonly goal: string;
  readonly reached: string;
  readonly holds: boolean | undefined;
}

const goals: Goal[] = [];

/** `better` says in which direction; a figure that could not be taken is NaN. */
export function goal(
  name: string,
  wanted: { atLeast?: number; atMost?: number; unit: string },
  reached: number,
): void {
  const { atLeast, atMost, unit } = wanted;
  const known = !Number.isNaN(reached);
  goals.push({
    name,
    goal: atLeast === undefined ? `≤ ${atMost} ${unit}` : `≥ ${atLeast} ${unit}`,
    reached: known ? `${short(reached)} ${unit}` : 'not measured',
    holds: known ? reached >= (atLeast ?? -Infinity) && reached <= (atMost ?? Infinity) : undefined,
  });
}

export function short(value: number): string {
  if (Number.isNaN(value)) return '-';
  if (value === 0) return '0';
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

export function printGoals(): void {
  console.log('\ngoals');
  const width = Math.max(...goals.map(({ name }) => name.length));
  for (const { name, goal, reached, holds } of goals) {
    const verdict = holds === undefined ? '?' : holds ? 'reached' : 'MISSED';
    console.log(`  ${name.padEnd(width)}  ${goal.padEnd(14)} ${reached.padEnd(16)} ${verdict}`);
  }
}

/** Rows of figures, medians of rounds. */
export class Table {
  readonly #columns: readonly string[];
  readonly #rows: string[][] = [];

  constructor(title: string, columns: readonly string[]) {
    console.log(`\n${title}`);
    this.#columns = columns;
  }

  row(name: string, cells: readonly string[]): void {
    this.#rows.push([name, ...cells]);
  }

  print(): void {
    const all = [['', ...this.#columns], ...this.#rows];
    const widths = this.#columns.map((_, i) => Math.max(...all.map((row) => (row[i + 1] ?? '').length)));
    const first = Math.max(...all.map((row) => (row[0] ?? '').length));
    for (const [name = '', ...cells] of all) {
      console.log(
        `  ${name.padEnd(first)}  ${cells.map((cell, i) => cell.padStart(widths[i] ?? 0)).join('  ')}`,
      );
    }
  }
}

/** Median and, with three rounds or more, the noise. */
export function middle(values: readonly number[], show: (value: number) => string = short): string {
  const known = values.filter((value) => !Number.isNaN(value));
  if (known.length === 0) return '-';
  return known.length < 3
    ? show(median(known))
    : `${show(median(known))} ±${(noise(known) * 100).toFixed(0)}%`;
}

export const mega = (value: number): string => `${short(value / 1e6)} M`;
export const mebi = (value: number): string => `${Math.round(value / 1048576)} MiB`;
