/** Small helps for measurements that stand side by side in one run. */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Half of the span between the first and the third quartile, as a share of the median: the machine's noise. */
export function noise(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number => sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN;
  return (at(0.75) - at(0.25)) / 2 / median(values);
}

export interface Contender {
  readonly name: string;
  /** What is measured. */
  run(round: number): Promise<unknown>;
  /** What comes after it, unmeasured. */
  after?(round: number): Promise<unknown>;
}

/**
 * Runs all contenders in turn, `rounds` times, in an order that changes from round to round, after one round
 * that does not count. Returns milliseconds by name.
 */
export async function sideBySide(
  contenders: readonly Contender[],
  rounds: number,
): Promise<Record<string, number[]>> {
  const times: Record<string, number[]> = Object.fromEntries(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? contenders : [...contenders].reverse();
    for (const contender of order) {
      const start = performance.now();
      await contender.run(round);
      const elapsedMs = performance.now() - start;
      await contender.after?.(round);
      if (round > 0) times[contender.name]?.push(elapsedMs);
    }
  }
  return times;
}

export function report(times: Readonly<Record<string, readonly number[]>>): void {
  for (const [name, values] of Object.entries(times)) {
    console.log(
      `  ${name.padEnd(44)} ${median(values).toFixed(1).padStart(8)} ms   ± ${(noise(values) * 100).toFixed(0)} %`,
    );
  }
}

export function ratio(
  times: Readonly<Record<string, readonly number[]>>,
  one: string,
  other: string,
): number {
  return median(times[one] ?? []) / median(times[other] ?? []);
}
