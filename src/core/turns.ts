/** Lets so many works run at the same time; the others wait, and begin in the order in which they came. */
export class Turns {
  readonly #count: number;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(count: number) {
    this.#count = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    // Whoever ends hands its place to the next: nobody gets in between.
    if (this.#running >= this.#count) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running++;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }
}
