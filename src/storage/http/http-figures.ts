/** Upper ends of the classes that durations are counted in, in seconds; the last one has none. */
export const DURATION_BUCKETS = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30,
] as const;

/** How long requests to one route took. */
export interface Durations {
  /** One more than there are buckets; each counts only its own. */
  readonly counts: readonly number[];
  readonly count: number;
  readonly sumSeconds: number;
}

/** What the HTTP side counts. Plain numbers: metrics are asked for far less often than requests come. */
export class HttpFigures {
  readonly #answers = new Map<string, Map<number, number>>();
  readonly #durations = new Map<string, { counts: number[]; count: number; sumSeconds: number }>();
  #textFields = 0;

  get answers(): ReadonlyMap<string, ReadonlyMap<number, number>> {
    return this.#answers;
  }

  get durations(): ReadonlyMap<string, Durations> {
    return this.#durations;
  }

  /** Fields of line protocol that were left out because they are texts. */
  get textFields(): number {
    return this.#textFields;
  }

  answered(route: string, status: number, tookMs: number): void {
    let statuses = this.#answers.get(route);
    if (!statuses) this.#answers.set(route, (statuses = new Map()));
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    let durations = this.#durations.get(route);
    if (!durations) {
      durations = {
        counts: Array.from({ length: DURATION_BUCKETS.length + 1 }, () => 0),
        count: 0,
        sumSeconds: 0,
      };
      this.#durations.set(route, durations);
    }
    const seconds = tookMs / 1000;
    const found = DURATION_BUCKETS.findIndex((end) => seconds <= end);
    const bucket = found < 0 ? DURATION_BUCKETS.length : found;
    durations.counts[bucket] = (durations.counts[bucket] ?? 0) + 1;
    durations.count += 1;
    durations.sumSeconds += seconds;
  }

  leftOut(textFields: number): void {
    this.#textFields += textFields;
  }
}
