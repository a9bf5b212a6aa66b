import { SeededRandom } from './seeded-random.ts';

/**
 * All of them in the soak; else a few, drawn by a seed that is printed and can be given as VARVE_SEED. So does the soak
 * when it is told how many: VARVE_POINTS.
 */
export function sampleOf<T>(all: readonly T[], count: number): readonly T[] {
  const points = process.env['VARVE_POINTS'];
  if (process.env['VARVE_SOAK'] === '1' && points === undefined) return all;
  const seed = Number(process.env['VARVE_SEED'] ?? Date.now() % 1_000_000);
  console.log(`drawn with VARVE_SEED=${seed}`);
  const random = new SeededRandom(seed);
  const left = [...all];
  return Array.from({ length: Math.min(Number(points ?? count), left.length) }, () => {
    const [one] = left.splice(random.below(left.length), 1);
    return one as T;
  });
}
