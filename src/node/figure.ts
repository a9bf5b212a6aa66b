import { Counter, Gauge, type Registry } from 'prom-client';

export type FigureValue = readonly [labels: Readonly<Record<string, string>>, value: number];

/** A figure that is read when it is asked for: a counter by its name, else a gauge. */
export function figure(
  registry: Registry,
  about: { readonly name: string; readonly help: string; readonly labelNames?: readonly string[] },
  read: () => readonly FigureValue[],
): void {
  const { name, help, labelNames = [] } = about;
  const options = { name, help, labelNames, registers: [registry] };
  if (name.endsWith('_total')) {
    const counter: Counter = new Counter({
      ...options,
      collect: () => {
        // What is gone has no figures.
        counter.reset();
        for (const [labels, value] of read()) counter.inc({ ...labels }, value);
      },
    });
    return;
  }
  const gauge: Gauge = new Gauge({
    ...options,
    collect: () => {
      gauge.reset();
      for (const [labels, value] of read()) gauge.set({ ...labels }, value);
    },
  });
}
